"""Recordings for the catalogue, made by ffmpeg: short small ones for many downloads, long ones of a real size."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import av

from tests.catalogue.bodies import MARK
from tests.catalogue.videos import Recording

SHORT_S = 50.0
RATE_FPS = 15
GOP_S = 3  # between keyframes, and at least that in a segment of HLS
SEGMENT_S = 6
NO_AAC = b"\x3e"  # repeated, it makes packets that AAC does not allow
SIZES_PX = {360: (64, 36), 720: (128, 72)}  # nominal height: real size, for what is cheap to decode

PICTURES = (
    "testsrc2=size=128x72:rate=15",
    "life=size=128x72:rate=15:mold=10:ratio=0.3:random_seed=5:life_color=#40ff80:death_color=#802020",
    "mandelbrot=size=128x72:rate=15:start_x=-0.743:end_scale=0.01",
    "cellauto=size=128x72:rate=15:rule=110:random_seed=3",
    "testsrc2=size=128x72:rate=15,hue=h=120:s=2,hflip",
    "gradients=size=128x72:rate=15:seed=4:speed=0.1",
    "life=size=128x72:rate=15:mold=30:ratio=0.5:random_seed=8:life_color=#ffd040:death_color=#203080",
    "testsrc=size=128x72:rate=15,vflip",
    "cellauto=size=128x72:rate=15:rule=30:random_seed=9,negate",
    "mandelbrot=size=128x72:rate=15:start_x=0.28:start_y=0.01:end_scale=0.05,hue=h=200",
    "rgbtestsrc=size=128x72:rate=15,rotate=t/3",
    "testsrc2=size=128x72:rate=15,negate,vflip,hue=h=60",
)


def recordings(folder: Path, count: int = 12, *, seconds: float = SHORT_S) -> list[Recording]:
    """Make up to a dozen distinct small recordings; those made before are taken as they are.

    Every other one has its index (moov) at the end. All have HLS.
    """
    with ThreadPoolExecutor(2) as pool:
        return list(
            pool.map(lambda i: recording(folder, f"r{i:02d}-{seconds:g}s", number=i, seconds=seconds), range(count))
        )


def recording(
    folder: Path,
    name: str,
    *,
    number: int = 0,
    seconds: float = SHORT_S,
    picture: bool = True,
    sound: bool = True,
    faststart: bool | None = None,
) -> Recording:
    """Make one small recording, with HLS; ``number`` chooses picture, sound and, unless said, where the index is."""
    if faststart is None:
        faststart = number % 2 == 0

    def make(made: Path) -> None:
        inputs, codecs = [], []
        if picture:
            inputs += ["-f", "lavfi", "-i", PICTURES[number % len(PICTURES)]]
            codecs += ["-s", "64x36", *video_codec()]
        if sound:
            inputs += ["-f", "lavfi", "-i", chord(number, 22050)]
            codecs += ["-c:a", "aac", "-b:a", "48k"]
        tail = ["-t", str(seconds), *mp4_flags(faststart=faststart)]
        ffmpeg(*inputs, *codecs, *tail, str(made / "360.mp4"))
        if picture:
            width, height = SIZES_PX[720]
            mapped = ["-i", str(made / "360.mp4"), "-map", "0:v", *(["-map", "1:a", "-c:a", "copy"] if sound else [])]
            ffmpeg(*inputs[:4], *mapped, "-s", f"{width}x{height}", *video_codec(), *tail, str(made / "720.mp4"))
        else:
            shutil.copy(made / "360.mp4", made / "720.mp4")
        segment(made)

    return kept(folder / name, make, seconds=seconds)


def garbled(folder: Path, of: Recording) -> Recording:
    """The same recording with a sound of which no packet decodes, a whole index and picture, and no HLS."""

    def make(made: Path) -> None:
        for height, path in of.files.items():
            content = bytearray(path.read_bytes())
            with av.open(str(path)) as file:
                for packet in file.demux(audio=0):
                    if packet.size and packet.pos is not None:
                        content[packet.pos : packet.pos + packet.size] = NO_AAC * packet.size
            (made / f"{height}.mp4").write_bytes(content)

    return kept(folder / f"{of.name}-garbled", make, seconds=of.duration_s)


def long_recording(folder: Path, *, number: int = 0, seconds: float = 240, faststart: bool = True) -> Recording:
    """Make a video of a real length and bit rate: 360p of about 400 kbit/s, 720p of about 1.6 Mbit/s."""

    def make(made: Path) -> None:
        noisy = "testsrc2=size={}:rate=15" + (",hue=h=90,hflip" if number else "")
        tail = ["-t", str(seconds), *mp4_flags(faststart=faststart)]
        rates = ["-b:v", "310k", "-maxrate", "350k", "-bufsize", "700k"]
        picture = ["-f", "lavfi", "-i", noisy.format("640x360"), "-f", "lavfi", "-i", chord(number, 44100)]
        ffmpeg(*picture, *video_codec(), *rates, "-c:a", "aac", "-b:a", "96k", *tail, str(made / "360.mp4"))
        # The larger one repeats twelve seconds of picture: it is there for its size.
        rates = ["-b:v", "1500k", "-maxrate", "1600k", "-bufsize", "3000k"]
        loop = made / "loop.mp4"
        ffmpeg("-f", "lavfi", "-i", noisy.format("1280x720"), *video_codec(), *rates, "-t", "12", str(loop))
        inputs = ["-stream_loop", "-1", "-i", str(loop), "-i", str(made / "360.mp4"), "-map", "0:v", "-map", "1:a"]
        ffmpeg(*inputs, "-c", "copy", *tail, str(made / "720.mp4"))
        loop.unlink()
        segment(made)

    return kept(folder / f"long{number}-{seconds:g}s-{'fast' if faststart else 'late'}", make, seconds=seconds)


def segment(made: Path) -> None:
    """Cut both mp4 of a folder into HLS, without encoding anew."""
    (made / "hls").mkdir()
    for height in SIZES_PX:
        options = ["-hls_time", str(SEGMENT_S), "-hls_list_size", "0", "-hls_playlist_type", "vod"]
        names = ["-hls_segment_filename", str(made / "hls" / f"{height}-%04d.ts")]
        ffmpeg("-i", str(made / f"{height}.mp4"), "-c", "copy", *options, *names, str(made / "hls" / f"{height}.m3u8"))


def kept(folder: Path, make: Callable[[Path], None], *, seconds: float) -> Recording:
    """Make a recording's folder once, whole, whoever else is at it."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
        make(made)
        try:
            os.rename(made, folder)  # noqa: PTH104  Path.rename would do the same
        except OSError:  # another was first
            shutil.rmtree(made)
            if not folder.is_dir():
                raise
    hls = folder / "hls"
    files = {height: folder / f"{height}.mp4" for height in SIZES_PX}
    return Recording(name=folder.name, duration_s=seconds, files=files, hls=hls if hls.is_dir() else None)


def chord(number: int, rate_hz: int) -> str:
    """Three tones that beat, different for each number."""
    low_hz = 110 * 2 ** (number * 5 % 24 / 12)
    beat = f"(0.6+0.4*sin(2*PI*{1 + number % 4}*t))"
    return (
        f"aevalsrc='0.2*sin(2*PI*{low_hz:.2f}*t)*{beat}+0.15*sin(2*PI*{low_hz * 1.5:.2f}*t)"
        f"+0.1*sin(2*PI*{low_hz * (2.5 + number % 3 / 4):.2f}*t+3*sin(t))':s={rate_hz}"
    )


def video_codec() -> list[str]:
    """The cheapest encoder that this ffmpeg has."""
    gop = str(GOP_S * RATE_FPS)
    codec = ["libx264", "-preset", "ultrafast"] if has_libx264() else ["mpeg4", "-q:v", "5"]
    return ["-c:v", *codec, "-g", gop, "-pix_fmt", "yuv420p"]


def mp4_flags(*, faststart: bool) -> list[str]:
    """Index at the front or at the end, and a mark for the site to replace."""
    return [*(["-movflags", "+faststart"] if faststart else []), "-metadata", f"comment={MARK.decode()}"]


@cache
def has_libx264() -> bool:
    """Whether H.264 can be made."""
    listed = subprocess.run([ffmpeg_path(), "-hide_banner", "-encoders"], capture_output=True, text=True, check=True)
    return " libx264 " in listed.stdout


def ffmpeg_path() -> str:
    """The project's ffmpeg."""
    from pipeline.media import ffmpeg_exe

    return ffmpeg_exe()


def ffmpeg(*arguments: str) -> None:
    """Run ffmpeg, one thread: two run at a time."""
    common: Sequence[str] = ("-y", "-nostdin", "-loglevel", "error", "-threads", "1")
    subprocess.run([ffmpeg_path(), *common, *arguments], check=True)
