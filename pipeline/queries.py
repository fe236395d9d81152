"""What a crawl is asked for: search keys, links, channels and playlists, in files of them or word by word.

Nothing is fetched here: words become requests, and the videos that the requests listed become candidates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.errors import UserError
from pipeline.locations import is_remote, spelled_out
from pipeline.sources import Row, Source, clips_of, label_rows, read_table
from pipeline.store import Video
from pipeline.text import clean_text

LIST_SUFFIXES = frozenset({".txt", ".csv", ".parquet"})

_SEARCH = "search:"
_SCHEME = "://"  # what tells a link from a search key, which may have a colon too


@dataclass(frozen=True, kw_only=True)
class Query:
    """One thing to look up: a search in the extractor's words, or a link."""

    request: str
    """``ytsearch50:sad song``, or a link."""
    is_search: bool


def is_crawl(source: Sequence[str]) -> bool:
    """Tell whether the words name something to crawl, and not a folder."""
    return not (len(source) == 1 and _is_folder(source[0]))


def _is_folder(word: str) -> bool:
    return is_remote(word) or Path(spelled_out(word, flag="--source")).is_dir()


def read_queries(source: Sequence[str], *, search_prefix: str, per_search: int) -> list[Query]:
    """Turn the words of ``--source`` into queries, each once, in their order.

    A word is ``search:KEY``, a link, or a file: ``.txt`` with a search key or link a line (``#`` begins a comment),
    ``.csv`` or ``.parquet`` with a column ``link``.

    Raises
    ------
    UserError
        If a word is none of these, or a file lists nothing.
    """
    found: dict[Query, None] = {}

    def query(line: str) -> Query:
        if _SCHEME in line and not line.startswith(_SEARCH):
            return Query(request=line, is_search=False)
        key = " ".join(line.removeprefix(_SEARCH).split())
        if not key:
            raise UserError(f"--source {word} holds a search without a key; write search:KEY")
        return Query(request=f"{search_prefix}{per_search}:{key}", is_search=True)

    for word in (spelled_out(word, flag="--source") for word in source):
        file = Path(word)
        if _is_folder(word):
            raise UserError(f"--source {word} is a folder; a folder stands alone, without searches and links")
        if word.startswith(_SEARCH) or _SCHEME in word:
            found[query(word)] = None
        elif file.suffix.lower() == ".txt" and file.is_file():
            found |= dict.fromkeys(map(query, _lines_of(file)))
        elif file.suffix.lower() in LIST_SUFFIXES and file.is_file():
            rows = read_table(file, needed=("link",))
            found |= dict.fromkeys(Query(request=row["link"] or "", is_search=False) for row in rows)
            if not rows:
                raise UserError(f"--source {word} lists nothing")
        elif file.exists():
            known = " ".join(sorted(LIST_SUFFIXES))
            raise UserError(f"--source {word} is neither a folder nor a list ({known})")
        else:
            raise UserError(f"--source {word}: no such folder or list; search:KEY searches, https://... is a link")
    return list(found)


def _lines_of(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is no UTF-8 text: {error}") from error
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise UserError(f"--source {file} lists nothing")
    return lines


def link_labels(table: str | None) -> list[Row] | None:
    """Rows of a table of labels of links; none for an unlabelled set.

    Raises
    ------
    UserError
        If the table cannot be used, or labels are asked for that go with folders.
    """
    if table == "mved":
        raise UserError("--labels mved goes with a folder of MVED's layout; give links a table of labels")
    return label_rows(Path(table), "link") if table else None


def by_identity(rows: Sequence[Row], identities: Sequence[str]) -> dict[str, Row]:
    """Rows of a table of labels by the identities of their links.

    Raises
    ------
    UserError
        If two links lead to one video.
    """
    found: dict[str, Row] = {}
    for row, identity in zip(rows, identities, strict=True):
        if identity in found:
            raise UserError(f"--labels: {found[identity]['link']} and {row['link']} are one video; give it one row")
        found[identity] = row
    return found


def candidates_of(videos: Iterable[Video], labels: Mapping[str, Row] | None, *, clips_per_video: int) -> list[Source]:
    """Candidates of the videos listed, in their order; nothing is fetched of them yet.

    A list that could not be read is one candidate, however many clips are wanted of a video.
    """
    counts = ((video, 1 if video.problem else clips_per_video) for video in videos)
    return [clip for video, count in counts for clip in clips_of(_candidate(video, labels), count)]


def _candidate(video: Video, labels: Mapping[str, Row] | None) -> Source:
    row = (labels or {}).get(video.video_id, {})
    problem = video.problem
    if problem is not None:
        pass
    elif not is_http(video.link):
        problem = ("unsupported-link", "only http and https links are fetched")
    elif labels is not None and not row.get("label"):
        problem = ("no-label", "the table of labels does not name it")
    bare = Source(
        source_id=video.video_id,
        link=video.link,
        title=video.link,
        label=row.get("label"),
        split=row.get("split"),  # type: ignore[arg-type]  # label_rows let known splits pass alone
        groups=tuple(group for group in (row.get("group"), video.video_id) if group),
        problem=problem,
        video_id=video.video_id,
    )
    return with_page(bare, video)


def with_page(source: Source, video: Video) -> Source:
    """Give a candidate what is known of its video, which another link may lead to as well."""
    return replace(
        source,
        groups=tuple(dict.fromkeys([*source.groups, *filter(None, [video.page_id])])),
        title=video.title or clean_text(_title_of(video.link)) or "clip",
        duration_s=video.duration_s,
        uploader=video.uploader,
        upload_date=video.upload_date,
        licence=video.licence,
        description=video.description,
        categories=video.categories,
        query=video.request or source.query,
    )


def is_http(link: str) -> bool:
    """Tell whether a link is http or https, with a host, and nothing but printable characters."""
    try:
        parts = urlsplit(link)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and link.isprintable()


def _title_of(link: str) -> str:
    try:
        parts = urlsplit(link)
    except ValueError:
        return link
    return Path(parts.path).stem or parts.netloc or link
