"""What went wrong with a fetch, as a code of the candidate or as word that the site wants no more of us.

Sites say it in three ways: by HTTP status, by the words of a page, which yt-dlp passes on, and by silence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipeline.errors import LoginWantedError, RateLimitedError, RejectedError, SiteError, UnreachableError
from pipeline.proxy import Budget

_BY_WORDS: tuple[tuple[str, str], ...] = (
    # Patterns of what yt-dlp says, in the order in which they are tried, and a code of ours or what stops the crawl.
    (r"not a bot|captcha|unusual traffic|rate.?limit|too many requests|try again later", "rate-limited"),
    (
        r"private video|members.only|join this channel|only available to (music )?(members|subscribers|premium)",
        "private",
    ),
    (r"confirm your age|age.restricted|inappropriate for some users|age verification", "age-gated"),
    (
        r"available (in|from) your (country|location)|geo.?restrict|blocked it in your country",
        "geo-blocked",
    ),
    (r"live event will begin|premieres in|is offline|live stream recording is not available", "live"),
    (r"registered users|log ?in|sign in|--cookies|authentication", "login"),
    (r"unsupported url|no suitable extractor", "unsupported-link"),
    (r"timed out|timeout", "timeout"),
    (r"removed|deleted|no longer available|unavailable|not available|does not exist|no video formats", "unavailable"),
    (r"connection (was )?(reset|broken)|incomplete ?read|broken pipe|remote end closed|ended early", "network"),
)
_NOTHING = r"unsupported url|no suitable extractor|no video formats|requested format is not available"
_BY_STATUS = {
    401: "login",
    403: "forbidden",
    404: "unavailable",
    407: "unreachable",
    408: "timeout",
    410: "unavailable",
    429: "rate-limited",
    451: "geo-blocked",
}


def verdict(error: BaseException, budget: Budget) -> Exception:
    """Return what to raise in place of an error that yt-dlp or ffmpeg met.

    Returns
    -------
    RejectedError
        With the code of the candidate.
    RateLimitedError, LoginWantedError, UnreachableError
        Where it is the site that has enough, or no way leads there.
    """
    if budget.exceeded == "time":
        return RejectedError("timeout", f"more than {budget.limits.max_s:g} s")
    if budget.exceeded == "bytes":
        return RejectedError("too-large", f"more than {budget.limits.max_bytes} bytes")
    if budget.refused:
        flag_helps = re.search(r"private address|this machine|no web site", budget.refused[-1])
        hint = "; --allow-private lets such links pass" if flag_helps else ""
        return RejectedError("unsupported-link", f"{budget.refused[-1]}{hint}")
    if isinstance(error, SiteError):
        return error  # judged already, where the file was looked into
    decoded = isinstance(error, RejectedError)  # what came was looked into
    if budget.last_failure is not None and not decoded and _found_nothing(error):
        error = budget.last_failure
    chain = list(_chain(error))
    told = [answer for answer in budget.answers if answer.error is not None]
    of_answer = [link for answer in told[-1:] for link in _chain(answer.error)]
    for link in of_answer if decoded else [*chain, *of_answer]:
        if isinstance(link, RejectedError):
            return link  # what read the answer knew already
    chain += of_answer
    if any(isinstance(link, MemoryError) for link in chain):
        return RejectedError("too-large", "it takes too much memory")
    status, retry_after = _status(chain)
    words = _words(chain)
    said = None if decoded else next((name for pattern, name in _BY_WORDS if re.search(pattern, words)), None)
    if budget.unreachable and status in (None, 407, 502) and said in (None, "timeout", "network"):
        return UnreachableError(budget.unreachable[-1])
    detail = _one_line(told[-1].error if decoded and told and told[-1].error else error)
    detail = detail if status is None else f"HTTP {status}: {detail}"
    if decoded and status is None and not told:
        return error  # type: ignore[return-value]
    code = _BY_STATUS.get(status) if status is not None else None
    if code is None and status is not None and status >= 500:
        code = "network"
    if code in (None, "forbidden", "unavailable"):
        code = said or code
    if code == "rate-limited":
        return RateLimitedError(detail, retry_after)
    if code == "login":
        return LoginWantedError(detail)
    if code == "unreachable":
        return UnreachableError(detail)
    if code is None and any(_is_of_network(link) for link in chain):
        code = "network"
    if code is None and status is None and (exit_code := re.search(r"ffmpeg exited with code (-?\d+)", words)):
        if exit_code[1].startswith("-"):
            return RejectedError("internal", f"ffmpeg was stopped by signal {exit_code[1][1:]}")
        return RejectedError("undecodable", "ffmpeg cannot read what the site sent")
    return RejectedError(code or ("network" if decoded else "unavailable"), detail)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that led to it, also where yt-dlp keeps them in fields of its own."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        link = waiting.pop(0)
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        exc_info = getattr(link, "exc_info", None)
        waiting += [getattr(link, "cause", None), exc_info[1] if exc_info else None, link.__cause__, link.__context__]


def _found_nothing(error: BaseException) -> bool:
    """Whether nobody says why there is no video: then what was passed over on the way there does."""
    chain = list(_chain(error))
    if _status(chain)[0] is not None or any(_is_of_network(link) for link in chain):
        return False
    words = _words(chain)
    return re.search(_NOTHING, words) is not None or not any(re.search(pattern, words) for pattern, _ in _BY_WORDS)


def _words(chain: list[BaseException]) -> str:
    """All that they say, without links and names of videos, in which any word may stand."""
    words = " ".join(str(link) for link in chain)
    for video_id in filter(None, (getattr(link, "video_id", None) for link in chain)):
        words = words.replace(f"{video_id}: ", " ")
    return re.sub(r"\w+://\S+", " ", words).lower()


def _is_of_network(link: BaseException) -> bool:
    """Whether a connection was at fault; yt-dlp, which is not imported here, has an error of its own for that."""
    return isinstance(link, OSError) or any(kind.__name__ == "TransportError" for kind in type(link).__mro__)


def _status(chain: list[BaseException]) -> tuple[int | None, float | None]:
    """HTTP status, and the seconds to wait that came with it."""
    for link in chain:
        status = getattr(link, "status", None)
        if isinstance(status, int):
            response = getattr(link, "response", None)
            wait = (getattr(response, "headers", None) or {}).get("Retry-After", "")
            return status, float(wait) if wait.isdecimal() else None
    return None, None


def _one_line(error: BaseException) -> str:
    lines = (str(error) or type(error).__name__).splitlines()
    text = re.sub(r"\x1b\[[0-9;]*m", "", lines[0]).removeprefix("ERROR: ").strip()
    text = re.sub(r"; please report this issue on .*", "", text)
    return re.sub(r" (for security reasons\. )?Use --(enable-file-urls|list-formats) .*", "", text)[:300]
