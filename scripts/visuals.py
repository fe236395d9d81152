"""Short music videos out of music alone: ffmpeg's own visualisers, each driven by the sound.

They are no films, but they move, differ, and follow the music: enough to walk the whole road from a link to a score.
"""

from __future__ import annotations

import functools
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pipeline.media import ffmpeg_exe

WIDTH_PX, HEIGHT_PX, RATE_FPS = 320, 180, 25
VIDEO_S = 45.0  # longer than a sample's 30 s, so that spans really are drawn
RENDER_TIMEOUT_S = 300.0  # one takes 2 to 5 s

_SIZE = f"s={WIDTH_PX}x{HEIGHT_PX}"

STYLES: dict[str, str] = {
    "waves": (
        f"gradients={_SIZE}:r={RATE_FPS}:n=3:speed=0.02:seed=SEED[back];"
        f"[0:a]showwaves={_SIZE}:r={RATE_FPS}:mode=cline:scale=sqrt:colors=white|yellow[front];"
        "[back][front]overlay=shortest=1"
    ),
    "spectrum": (
        "[0:a]aformat=channel_layouts=mono,aresample=16000,"
        f"showspectrum=s={WIDTH_PX // 2}x{HEIGHT_PX // 2}:fps={RATE_FPS}:slide=scroll:color=magma:scale=cbrt:gain=2,"
        f"scale={WIDTH_PX}:{HEIGHT_PX},hue=h=SEED"
    ),
    "notes": f"[0:a]showcqt={_SIZE}:r={RATE_FPS}:axis=0:bar_g=4:sono_g=5,hue=h=SEED",
    "scope": (
        f"[0:a]avectorscope={_SIZE}:r={RATE_FPS}:mode=lissajous_xy:scale=cbrt:rc=60:gc=220:bc=160:rf=20:gf=12:bf=6,"
        "rotate=t/5,hue=h=SEED"
    ),
    "histogram": (
        f"[0:a]ahistogram={_SIZE}:r={RATE_FPS}:slide=scroll:scale=sqrt:ascale=log:rheight=0.3,"
        "format=yuv420p,pseudocolor=preset=turbo,hue=h=SEED+40*t"
    ),
    "fractal": (
        f"mandelbrot={_SIZE}:rate={RATE_FPS}:maxiter=400:end_scale=0.01:end_pts=1200,format=gbrp[back];"
        f"[0:a]showfreqs={_SIZE}:rate={RATE_FPS}:mode=bar:ascale=sqrt:fscale=log:colors=white|cyan,format=gbrp[front];"
        "[back][front]blend=all_mode=difference:shortest=1,hue=h=SEED"
    ),
    "life": (
        f"life=s={WIDTH_PX // 4}x{HEIGHT_PX // 4}:r=12:mold=10:ratio=0.3:seed=SEED:"
        f"life_color=#40e0ff:death_color=#602080:mold_color=#101040,"
        f"scale={WIDTH_PX}:{HEIGHT_PX}:flags=neighbor,fps={RATE_FPS},format=gbrp[back];"
        f"[0:a]showwaves={_SIZE}:r={RATE_FPS}:mode=line:scale=cbrt:colors=orange|red,format=gbrp[front];"
        "[back][front]blend=all_mode=lighten:shortest=1"
    ),
    "cells": (
        f"cellauto=s={WIDTH_PX // 2}x{HEIGHT_PX // 2}:r={RATE_FPS}:rule=110:seed=SEED:ratio=0.4,"
        f"scale={WIDTH_PX}:{HEIGHT_PX}:flags=neighbor,format=gbrp,colorchannelmixer=rr=0.1:gg=0.3:bb=0.5[back];"
        f"[0:a]avectorscope={_SIZE}:r={RATE_FPS}:zoom=2:scale=sqrt,format=gbrp[front];"
        "[back][front]blend=all_mode=screen:shortest=1"
    ),
}
"""ffmpeg filter graphs from sound to picture; SEED becomes a number."""


class RenderError(Exception):
    """ffmpeg could not make a video; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Video:
    """One video to be made of a stretch of a piece."""

    name: str
    """File name without its suffix."""
    piece: str
    """Title of the piece."""
    start_s: float
    style: str
    """One of STYLES."""
    seed: int
    """Of the picture: colours and first cells."""
    length_s: float = VIDEO_S


def render_command(video: Video, *, music: Path, target: Path) -> list[str]:
    """Words of the ffmpeg command that makes a video."""
    graph = STYLES[video.style].replace("SEED", str(video.seed)) + ",format=yuv420p[v]"
    command = [ffmpeg_exe(), "-nostdin", "-hide_banner", "-loglevel", "error", "-y", "-filter_complex_threads", "1"]
    command += ["-ss", f"{video.start_s:g}", "-t", f"{video.length_s:g}", "-i", f"file:{music}"]
    command += ["-filter_complex", graph, "-map", "[v]", "-map", "0:a", "-t", f"{video.length_s:g}"]
    command += [*picture_codec(), "-threads", "1", "-g", str(2 * RATE_FPS), "-c:a", "aac", "-b:a", "96k"]
    return [*command, "-map_metadata", "-1", "-bitexact", "-movflags", "+faststart", "-f", "mp4", f"file:{target}"]


def render(video: Video, *, music: Path, target: Path) -> None:
    """Make one video; the file appears whole or not at all.

    Raises
    ------
    RenderError
        If ffmpeg fails or takes too long.
    """
    unfinished = target.with_name(f".{target.name}")
    command = render_command(video, music=music, target=unfinished)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=RENDER_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise RenderError(f"{video.name}: ffmpeg took more than {RENDER_TIMEOUT_S:g} s") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RenderError(f"{video.name}: ffmpeg: {lines[-1]}")
    unfinished.replace(target)


@functools.cache
def picture_codec() -> tuple[str, ...]:
    """Return ffmpeg's words for the quickest codec there is: H.264 where it was built in, else MPEG-4."""
    listed = subprocess.run(
        [ffmpeg_exe(), "-hide_banner", "-encoders"], capture_output=True, text=True, check=True
    ).stdout
    if " libx264 " in listed:
        return ("-c:v", "libx264", "-preset", "ultrafast", "-crf", "30")
    return ("-c:v", "mpeg4", "-q:v", "7")
