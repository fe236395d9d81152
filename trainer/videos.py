"""A raw video as the arrays that shards store, window by window: the trainer's only way into the pipeline's code.

What a network reads here is made by the very functions that made the samples it was trained on. They need the extra
``pipeline`` beside ``trainer``.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from pipeline import crawl, errors, media, sheet
from pipeline.clips import ClipSpan
from pipeline.playable import MIMES, Playable, make_playable, plays_as_it_is, shown_aspect
from pipeline.prepare import Recipe, features
from pipeline.schema import CLIP_S
from pipeline.windows import EVERY_UNIT_S, LATEST_END_S, windows
from trainer.errors import UserError, printable
from trainer.shards import MEMBERS, Modality

WINDOW_S = CLIP_S
EARLY_END_S = LATEST_END_S + 1.5  # a video that ends so much before it promised is damaged, which is told
MAX_LINK_BYTES = 4_000_000_000
MAX_FETCH_S = 3600.0
LOOK_S = 1.0  # between two looks at how much of a link is there

MEDIA_SUFFIXES = media.MEDIA_SUFFIXES

__all__ = ["EVERY_UNIT_S", "MIMES", "WINDOW_S", "Modality", "Playable"]  # what others need of the pipeline


@dataclass(frozen=True, kw_only=True)
class Video:
    """A file and what it says it holds."""

    path: Path
    title: str
    probe: media.Probe
    modality: Modality
    """What is read of it."""
    link: str | None = None

    @property
    def duration_s(self) -> float:
        """Seconds for which all that is read lasts; 0 where the file does not say."""
        return self.probe.duration_s(self.modality)

    @cached_property
    def aspect(self) -> float:
        """Width over height, as it is shown; a frame is decoded for it."""
        return shown_aspect(self.path, self.probe) or 16 / 9


@dataclass(frozen=True, kw_only=True)
class Window:
    """Thirty seconds of a video, as a shard would hold them."""

    start_s: float
    valid_s: float
    """Less than 30 where the video ends, or where sound or picture does."""
    arrays: dict[str, np.ndarray]
    """By member name, as ``MEMBERS`` has them."""


def open_video(
    path: Path, *, wanted: Modality, alone: str | None, title: str | None = None, link: str | None = None
) -> Video:
    """Look into a file, and choose what is read of it.

    Parameters
    ----------
    wanted
        What the network reads.
    alone
        Why it may not read sound or picture alone; None where it may.

    Raises
    ------
    UserError
        If the file is no media, or holds less than is needed.
    """
    name = title or path.stem
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UserError(f"{printable(path)}: this name is not in UTF-8; rename the file") from None
    try:
        if path.is_dir():
            raise UserError(f"{path} is a folder; name a file in it")
        if not path.is_file():
            raise UserError(f"{path}: there is no such file")
        probe = media.probe(path)
    except errors.RejectedError as rejected:
        raise UserError(f"{path}: {rejected.detail}") from None
    except errors.UserError as error:
        raise UserError(str(error)) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    held = {"video": probe.video_stream is not None, "audio": probe.audio_stream is not None}
    if not any(held.values()):
        raise UserError(f"{path} holds neither sound nor a moving picture")
    modality = wanted
    words = {"video": "moving picture", "audio": "sound"}
    for lacking, other in (("audio", "video"), ("video", "audio")):
        if held[lacking] or wanted == other:
            continue
        if wanted == lacking or alone is not None:
            raise UserError(
                f"{path} has no {words[lacking]}, and the run cannot do without: {alone or 'it reads no other'}"
            )
        modality = other  # type: ignore[assignment]
    return Video(path=path, title=name, probe=probe, modality=modality, link=link)


def lasts_longer(video: Video, most_s: float) -> bool:
    """Tell whether any of a file goes on for longer, by its head, else by all of it."""
    told_s = video.probe.container_s
    return max(video.duration_s, told_s or 0.0) > most_s or (told_s is None and media.lasts_longer(video.path, most_s))


def read_windows(video: Video, *, recipe: dict[str, Any], every_s: float) -> Iterator[Window]:
    """Decode a video once, and make of each window what a shard of that recipe would hold.

    Parameters
    ----------
    recipe
        Of the shards that the network was trained on.

    Raises
    ------
    UserError
        If nothing more can be decoded; what came before is as good as ever.
    """
    made_by = Recipe(**recipe | {"modality": video.modality})
    try:
        for window in windows(video.path, video.probe, every_s=every_s, modality=video.modality):
            arrays, _ = features(window.clip, recipe=made_by)
            if "frames" in arrays and made_by.jpeg_quality is not None:
                stored = sheet.encode_sheet(arrays["frames"], quality=made_by.jpeg_quality)
                arrays["frames"] = sheet.decode_sheet(stored, MEMBERS["frames"].shape)
            yield Window(start_s=window.start_s, valid_s=window.valid_s, arrays=arrays)
    except errors.RejectedError as rejected:  # told in the curve too, which names no folder of this machine
        told = rejected.detail.replace(str(video.path), video.path.name)
        raise UserError(f"{video.path.name}: {told}") from None


def read_batches(
    video: Video, problems: list[str], *, recipe: dict[str, Any], every_s: float, batch_size: int
) -> Iterator[list[Window]]:
    """Read windows by the batch, as far as the video goes, the last batch as short as it is.

    Parameters
    ----------
    problems
        Gets a line for all that went wrong after the first window.

    Raises
    ------
    UserError
        If there is no window at all.
    """
    batch, end_s = list[Window](), 0.0
    try:
        for window in read_windows(video, recipe=recipe, every_s=every_s):
            end_s = window.start_s + window.valid_s
            batch.append(window)
            if len(batch) == batch_size:
                yield batch
                batch = []
    except UserError as error:
        if not end_s:
            raise
        problems.append(str(error))
    if batch:
        yield batch
    if end_s < video.duration_s - EARLY_END_S:
        problems.append(f"{video.path.name}: only {end_s:.0f} of {video.duration_s:.0f} s could be decoded")


def plays(video: Video) -> bool:
    """Tell whether browsers play it as it is, so that nothing must be made for them."""
    return plays_as_it_is(video.path, video.probe)


def playable(video: Video, folder: Path) -> Playable:
    """Find or make a file that browsers play, in the folder if it is a new one.

    Raises
    ------
    UserError
        If none can be made.
    """
    try:
        return make_playable(video.path, video.probe, folder)
    except errors.RejectedError as rejected:  # told in the page, which names no folder of this machine
        told = rejected.detail.replace("file:", "").replace(f"{folder}/", "").replace(str(video.path), video.path.name)
        raise UserError(told) from None
    except RuntimeError as error:  # ffmpeg died of a signal; the curve is there all the same
        raise UserError(str(error)) from None


@contextmanager
def fetched(
    link: str, *, modality: Modality, allow_private: bool = False, seen: Callable[[int], None] = lambda num_bytes: None
) -> Iterator[tuple[Path, str]]:
    """Fetch a whole video by the crawler, at 360p or less; give its file, for as long as it is read, and its title.

    Parameters
    ----------
    seen
        Is told every second, by a thread, how many bytes are there.

    Raises
    ------
    UserError
        If the site, or the crawler's rules, refuse it.
    """
    access = crawl.Access(allow_private=allow_private, max_fetch_s=MAX_FETCH_S, max_clip_bytes=MAX_LINK_BYTES)
    with TemporaryDirectory(prefix="video-") as folder:
        try:
            with closing(crawl.Session(access)) as session, _looking(Path(folder), seen):
                page = session.resolve(link, modality)
                length_s = page.duration_s or 0.0
                span = ClipSpan(start_s=0.0, length_s=length_s)
                path = session.fetch(link, span, length_s, modality, Path(folder))
        except (errors.RejectedError, errors.SiteError, errors.DurationError, errors.UserError) as error:
            raise UserError(f"{link}: {error}") from None
        yield path, page.title or link


@contextmanager
def _looking(folder: Path, seen: Callable[[int], None]) -> Iterator[None]:
    """Tell again and again how many bytes the files in a folder have."""
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(LOOK_S):
            with suppress(OSError):  # a file that was renamed meanwhile
                seen(sum(path.stat().st_size for path in folder.iterdir()))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
