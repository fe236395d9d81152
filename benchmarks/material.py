"""Videos that are no music videos, made of given pictures over given sound: what the filters have to find.

Pictures are uint8 (height, width, 3), RGB, of even height and width. Each function writes one mp4 of ``length_s`` at 25
pictures a second, and returns its path:

    picture = picture_of(clip, at_s=12)
    zoom(picture, song, folder / "zoom.mp4", grow_per_s=0.01)
"""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.media import ffmpeg_exe
from scripts.visuals import picture_codec

RATE_FPS = 25
LENGTH_S = 30.0
SIZE_PX = (640, 360)  # what most sites call 360p
LINES = ("Never seen before", "but sung along by all", "a line of words", "over and over", "until the music ends")


def still(
    picture: np.ndarray, sound: Path | None, target: Path, *, grain: float = 0.0, length_s: float = LENGTH_S
) -> Path:
    """One picture throughout; ``grain`` is the standard deviation of fresh noise in each picture, grey levels."""
    return write(_with_grain(itertools.repeat(picture), grain), sound, target, length_s=length_s)


def slideshow(
    pictures: Sequence[np.ndarray],
    sound: Path | None,
    target: Path,
    *,
    every_s: float = 5.0,
    fade_s: float = 0.0,
    length_s: float = LENGTH_S,
) -> Path:
    """A picture every so many seconds, by hard cuts or by crossfades of ``fade_s``."""

    def shown() -> Iterator[np.ndarray]:
        for now_s in _times_s():
            number, into_s = divmod(now_s, every_s)
            old, new = (pictures[int(number + k) % len(pictures)] for k in (0, 1))
            share = max(0.0, 1 - (every_s - into_s) / fade_s) if fade_s else 0.0
            yield _mixed(old, new, share) if share else old

    return write(shown(), sound, target, length_s=length_s)


def zoom(
    pictures: np.ndarray | Sequence[np.ndarray],
    sound: Path | None,
    target: Path,
    *,
    grow_per_s: float = 0.0,
    pan_per_s: tuple[float, float] = (0.0, 0.0),
    turn_per_s: float = 0.0,
    every_s: float = 1000.0,
    fade_s: float = 0.0,
    length_s: float = LENGTH_S,
) -> Path:
    """A camera that moves over one still, or over several in turn (Ken Burns).

    ``grow_per_s`` and ``pan_per_s`` (right, down) are shares of the picture, ``turn_per_s`` is in degrees. The view
    swings back where it reaches an end of the picture; a turn may show black corners.
    """
    images = [Image.fromarray(picture) for picture in np.reshape(pictures, (-1, *np.shape(pictures)[-3:]))]

    def view(number: int, now_s: float) -> np.ndarray:
        image = images[number % len(images)]
        width, height = image.size
        size = 0.85 / (1 + 0.25 * _swing(grow_per_s * now_s / 0.25)) if grow_per_s else 0.8
        free = (1 - size) / 2
        x = width * (0.5 + free * _swung(pan_per_s[0] * now_s, free))
        y = height * (0.5 + free * _swung(pan_per_s[1] * now_s, free))
        turn = np.radians(turn_per_s * now_s)
        cos, sin = size * np.cos(turn), size * np.sin(turn)
        shift = (x - cos * width / 2 + sin * height / 2, y - sin * width / 2 - cos * height / 2)
        matrix = (cos, -sin, shift[0], sin, cos, shift[1])
        return np.asarray(image.transform((width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR))

    def shown() -> Iterator[np.ndarray]:
        for now_s in _times_s():
            number, into_s = divmod(now_s, every_s)
            picture = view(int(number), into_s)
            share = max(0.0, 1 - (every_s - into_s) / fade_s) if fade_s else 0.0
            yield _mixed(picture, view(int(number) + 1, 0.0), share) if share else picture

    return write(shown(), sound, target, length_s=length_s)


def lyrics(
    picture: np.ndarray,
    sound: Path | None,
    target: Path,
    *,
    lines: Sequence[str] = LINES,
    every_s: float = 4.0,
    karaoke: bool = False,
    length_s: float = LENGTH_S,
) -> Path:
    """Lines of text, one after the other, on a still; with ``karaoke`` each is coloured from left to right."""
    height, width = picture.shape[:2]
    font = ImageFont.load_default(size=height / 9)
    cards = []
    for line in lines:
        drawn = []
        for colour in ("white", "gold"):
            image = Image.fromarray(picture)
            ImageDraw.Draw(image).text(
                (width / 2, height * 0.75), line, fill=colour, font=font, anchor="mm", stroke_width=2, stroke_fill=0
            )
            drawn.append(np.asarray(image))
        cards.append(drawn)

    def shown() -> Iterator[np.ndarray]:
        for now_s in _times_s():
            number, into_s = divmod(now_s, every_s)
            plain, coloured = cards[int(number) % len(cards)]
            sung = round(width * into_s / every_s) if karaoke else 0
            yield np.concatenate([coloured[:, :sung], plain[:, sung:]], axis=1)

    return write(shown(), sound, target, length_s=length_s)


def black(sound: Path | None, target: Path, *, length_s: float = LENGTH_S) -> Path:
    """No picture at all."""
    return still(np.zeros((SIZE_PX[1], SIZE_PX[0], 3), np.uint8), sound, target, length_s=length_s)


def frozen(
    pictures: Iterable[np.ndarray],
    sound: Path | None,
    target: Path,
    *,
    moves_s: float = 6.0,
    length_s: float = LENGTH_S,
) -> Path:
    """A film (25 pictures a second) that moves for some seconds, and then holds one picture."""

    def shown() -> Iterator[np.ndarray]:
        for picture in itertools.islice(pictures, round(moves_s * RATE_FPS)):
            yield picture
        yield from itertools.repeat(picture)

    return write(shown(), sound, target, length_s=length_s)


def visualiser(picture: np.ndarray, sound: Path, target: Path, *, length_s: float = LENGTH_S) -> Path:
    """Bars that follow the sound, in the lower third of a still."""
    height, width = picture.shape[:2]
    bars = (
        f"[1:a]showfreqs=s={width}x{height // 3}:rate={RATE_FPS}:mode=bar:ascale=sqrt:fscale=log:colors=white|cyan,"
        "format=rgba,colorkey=black:0.1[bars];[0:v][bars]overlay=y=H-h:shortest=1[v]"
    )
    return write(itertools.repeat(picture), sound, target, length_s=length_s, graph=bars)


def write(
    pictures: Iterable[np.ndarray],
    sound: Path | None,
    target: Path,
    *,
    length_s: float = LENGTH_S,
    graph: str | None = None,
    codec: Sequence[str] = (),
) -> Path:
    """Write a film (25 pictures a second) with sound, from its start, or again where it is too short.

    Parameters
    ----------
    pictures
        As many as the length needs, or more.
    graph
        ffmpeg's filters from ``[0:v]`` and ``[1:a]`` to ``[v]``.
    codec
        ffmpeg's words for the picture, after those that it is given anyway: ``("-crf", "40")``.
    """
    wanted = itertools.islice(pictures, round(length_s * RATE_FPS))
    first = next(wanted)
    size = f"{first.shape[1]}x{first.shape[0]}"
    command = [ffmpeg_exe(), "-nostdin", "-loglevel", "error", "-y", "-filter_complex_threads", "1"]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", str(RATE_FPS), "-i", "pipe:0"]
    command += ["-stream_loop", "-1", "-i", f"file:{sound}"] if sound else []
    command += ["-filter_complex", f"{graph or '[0:v]null[v]'};[v]format=yuv420p[out]", "-map", "[out]"]
    command += ["-map", "1:a", "-c:a", "aac", "-b:a", "128k"] if sound else []
    command += [*picture_codec(), *codec, "-threads", "1", "-t", f"{length_s:g}", "-f", "mp4", f"file:{target}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        for picture in itertools.chain([first], wanted):
            process.stdin.write(np.ascontiguousarray(picture).tobytes())
    if process.returncode != 0:
        raise RuntimeError(f"{target.name}: ffmpeg ended with {process.returncode}")
    return target


def picture_of(video: Path, *, at_s: float) -> np.ndarray:
    """The picture on show at a time, scaled to 640 x 360."""
    return next(film_of(video, from_s=at_s))


def film_of(video: Path, *, from_s: float) -> Iterator[np.ndarray]:
    """Pictures from a time on, 25 a second, scaled to 640 x 360."""
    with av.open(str(video)) as container:
        origin_s = (container.start_time or 0) / av.time_base
        wanted_s = from_s
        for frame in container.decode(container.streams.video[0]):
            while frame.time - origin_s >= wanted_s:
                yield frame.reformat(*SIZE_PX, "rgb24").to_ndarray()
                wanted_s += 1 / RATE_FPS


def _times_s() -> Iterator[float]:
    return (number / RATE_FPS for number in itertools.count())


def _mixed(old: np.ndarray, new: np.ndarray, share: float) -> np.ndarray:
    return np.round((1 - share) * old + share * new.astype(np.float32)).astype(np.uint8)


def _with_grain(pictures: Iterable[np.ndarray], grain: float) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    for picture in pictures:
        noise = grain * rng.standard_normal(picture.shape[:2], np.float32)[..., None] if grain else 0
        yield np.clip(np.round(picture + noise), 0, 255).astype(np.uint8)


def _swing(way: float) -> float:
    """A way that goes 0 to 1 and back."""
    return 1 - abs((way % 2) - 1)


def _swung(way: float, free: float) -> float:
    """Place between -1 and 1 after a way from the middle, where ``free`` is the way to either end."""
    return 2 * _swing(0.5 + way / (2 * free)) - 1
