"""What the filters drop and what they keep: real music, and everything that is none, each through the real decode.

    python -m benchmarks.filters --videos FOLDER --music FOLDER --speech FOLDER
    python -m benchmarks.filters --again      judges the scores of the last run by the thresholds of now

``--videos`` holds music videos, ``--music`` recordings of music, ``--speech`` wave files of talk: Debian's
asterisk-core-sounds-en-wav has them under /usr/share/asterisk/sounds. Writes benchmarks/results/filters.json and
prints the tables of docs/filters.md. The thresholds of the filters were chosen with sight of the half A of clips,
pictures and voices (an even hash of the name); the half B is what they are judged by.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import multiprocessing
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from tqdm import tqdm

from benchmarks import material, talk
from benchmarks.environment import environment
from pipeline import media
from pipeline.audio import BASE_RATE_HZ
from pipeline.filters.judge import Filters, judge
from pipeline.filters.thresholds import Thresholds
from pipeline.prepare import Recipe, prepare
from pipeline.schema import SCORES, Modality, Rejected
from pipeline.sources import Source
from trainer.metrics import wilson_interval

RESULT = Path(__file__).parent / "results" / "filters.json"
AT_S = 12.0  # of the clip whose picture is taken
SCORED = Filters(mode="score")

Wanted = Literal["keep", "drop", "border"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One clip to make and to judge."""

    kind: str
    name: str
    """Of what it is made of: both halves of a kind are made of different things."""
    wanted: Wanted
    modality: Modality
    make: Callable[[Path], Path]
    """Write it into a folder and return its path; a real one is returned as it stands."""

    @property
    def half(self) -> str:
        """A or B, by the name."""
        return "AB"[hashlib.sha256(self.name.encode()).digest()[0] % 2]


# --- what is made ------------------------------------------------------------------------------------------------


def real(folder: Path, kind: str, modality: Modality) -> Iterator[Job]:
    """Music as it is."""
    for file in files_of(folder):
        yield Job(kind=kind, name=file.name, wanted="keep", modality=modality, make=lambda _, file=file: file)  # type: ignore[misc]  # defaults


def files_of(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in media.MEDIA_SUFFIXES)


def talking(speech: Path, music: Sequence[Path], *, count: int) -> Iterator[Job]:
    """Talk alone, and over music that is as loud, or softer by 6 and 12 dB."""
    clips = talk.talk_clips(speech, count, seed=0)
    for number, (voice, song) in enumerate(zip(clips, itertools.cycle(music), strict=False)):
        for level_db in (None, 0, 6, 12):
            kind = "talk" if level_db is None else f"talk, {level_db} dB above music"

            def make(folder: Path, voice: np.ndarray = voice, song: Path = song, level: int | None = level_db) -> Path:
                sound = voice if level is None else talk.over_music(voice, talk.heard(song), level)
                return written(sound, folder / "talk.wav")

            yield Job(kind=kind, name=f"talk {number}", wanted="drop", modality="audio", make=make)


def unmoved(videos: Sequence[Path]) -> Iterator[Job]:
    """Pictures of the videos over their own music: stills and what is hardly more."""

    def six(video: Path) -> list[np.ndarray]:
        place = list(videos).index(video)
        return [material.picture_of(videos[(place + k) % len(videos)], at_s=AT_S) for k in range(6)]

    def one(video: Path) -> np.ndarray:
        return material.picture_of(video, at_s=AT_S)

    makers: list[tuple[str, Wanted, Callable[[Path, Path], Path]]] = [
        ("still", "drop", lambda v, to: material.still(one(v), v, to)),
        ("slides, 3 s each", "drop", lambda v, to: material.slideshow(six(v), v, to, every_s=3)),
        ("slides, crossfades", "drop", lambda v, to: material.slideshow(six(v), v, to, every_s=6, fade_s=1)),
        ("lyrics on a still", "drop", lambda v, to: material.lyrics(one(v), v, to)),
        ("karaoke on a still", "drop", lambda v, to: material.lyrics(one(v), v, to, karaoke=True)),
        ("black", "drop", lambda v, to: material.black(v, to)),
        ("frozen after 6 s", "drop", lambda v, to: material.frozen(material.film_of(v, from_s=0), v, to)),
        ("zoom over a still, 0.5% a second", "drop", lambda v, to: material.zoom(one(v), v, to, grow_per_s=0.005)),
        ("zoom over a still, 2% a second", "drop", lambda v, to: material.zoom(one(v), v, to, grow_per_s=0.02)),
        ("pan over a still, 2% a second", "drop", lambda v, to: material.zoom(one(v), v, to, pan_per_s=(0.02, 0))),
        (
            "zooms over slides, crossfades",
            "border",
            lambda v, to: material.zoom(six(v), v, to, grow_per_s=0.02, every_s=5, fade_s=1),
        ),
        ("still with grain of 6 levels", "border", lambda v, to: material.still(one(v), v, to, grain=6)),
        ("visualiser over a still", "border", lambda v, to: material.visualiser(one(v), v, to)),
    ]
    for kind, wanted, maker in makers:
        for video in videos:
            make = partial(_into_folder, maker, video)
            yield Job(kind=kind, name=video.name, wanted=wanted, modality="both", make=make)


def _into_folder(maker: Callable[[Path, Path], Path], video: Path, folder: Path) -> Path:
    return maker(video, folder / "made.mp4")


def unheard(videos: Sequence[Path]) -> Iterator[Job]:
    """The videos with no sound that is music."""
    t = np.arange(30 * BASE_RATE_HZ) / BASE_RATE_HZ
    rng = np.random.default_rng(0)
    applause = rng.standard_normal(len(t)) * (rng.random(len(t)) < 0.02) * 0.5
    sounds = {
        "digital silence": np.zeros(len(t)),
        "near silence, -70 dB": 10 ** (-70 / 20) * rng.standard_normal(len(t)),
        "white noise": 0.1 * rng.standard_normal(len(t)),
        "claps": np.convolve(applause, np.exp(-np.arange(800) / 100) * rng.standard_normal(800), "same"),
        "one tone, 440 Hz": 0.3 * np.sin(2 * np.pi * 440 * t),
        "hum of 50 Hz": sum(0.2 / k * np.sin(2 * np.pi * 50 * k * t) for k in range(1, 8)),
    }
    for kind, sound in sounds.items():
        for video in videos:

            def make(folder: Path, sound: np.ndarray = sound, video: Path = video) -> Path:
                return with_sound(video, written(sound, folder / "sound.wav"), folder / "made.mp4")

            yield Job(kind=kind, name=video.name, wanted="drop", modality="both", make=make)
    for video in videos:
        yield Job(
            kind="no sound at all",
            name=video.name,
            wanted="drop",
            modality="both",
            make=lambda folder, video=video: with_sound(video, None, folder / "made.mp4"),  # type: ignore[misc]  # as above
        )


def with_sound(video: Path, sound: Path | None, target: Path) -> Path:
    """A video with another sound, or none; the picture is copied."""
    words = ["-i", f"file:{sound}", "-map", "0:v:0", "-map", "1:a", "-c:a", "aac"] if sound else ["-map", "0:v:0"]
    command = [media.ffmpeg_exe(), "-nostdin", "-loglevel", "error", "-i", f"file:{video}", *words]
    subprocess.run([*command, "-c:v", "copy", "-t", "30", f"file:{target}"], check=True)
    return target


def written(sound: np.ndarray, target: Path) -> Path:
    talk.write(sound.astype(np.float32), target)
    return target


# --- what is measured --------------------------------------------------------------------------------------------

_jobs: list[Job] = []


def set_jobs(asked: Asked) -> None:
    """In every process: the same jobs in the same order."""
    _jobs[:] = jobs_of(asked)


def measure(number: int) -> dict[str, Any]:
    """Make one clip, prepare it as a build does, and say what the filters found."""
    job = _jobs[number]
    with tempfile.TemporaryDirectory() as folder:
        path = job.make(Path(folder))
        source = Source(source_id=job.name, link=job.name, path=path, title="", groups=(job.name,), video_id=job.name)
        outcome = prepare(source, recipe=Recipe(modality=job.modality), seed=0, filters=SCORED)
    scores = {name: outcome.meta[name] for name in SCORES if outcome.meta.get(name) is not None}
    # Rejected for another reason than a filter's: without sound, say.
    code = outcome.code if isinstance(outcome, Rejected) else None
    return {"kind": job.kind, "name": job.name, "half": job.half, "wanted": job.wanted, "code": code} | scores


def judged(row: dict[str, Any]) -> dict[str, Any]:
    """A row with the codes for which the clip is dropped."""
    return row | {"codes": [row["code"]] if row["code"] else [verdict.code for verdict in judge(row, Thresholds())]}


def measured(asked: Asked) -> list[dict[str, Any]]:
    """Every clip made and scored, in the order of the jobs."""
    number = len(jobs_of(asked))
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(asked.workers, spawn, set_jobs, (asked,)) as pool:
        return list(tqdm(pool.map(measure, range(number)), total=number, unit="clip"))


def table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A line a kind: how many were dropped, with 95% intervals (Wilson) for the half that no threshold was set on."""
    yield "| clips | wanted | dropped, all | dropped, half B | 95% interval | by code |"
    yield "|---|---|---|---|---|---|"
    for kind in dict.fromkeys(row["kind"] for row in rows):
        yield line(kind, [row for row in rows if row["kind"] == kind])
    for wanted in ("keep", "drop", "border"):
        yield line(f"**all to {wanted}**", [row for row in rows if row["wanted"] == wanted])


def line(kind: str, rows: Sequence[dict[str, Any]]) -> str:
    dropped, later = [row for row in rows if row["codes"]], [row for row in rows if row["half"] == "B"]
    gone = sum(bool(row["codes"]) for row in later)
    low, high = wilson_interval(gone, len(later)) if later else (0.0, 1.0)
    codes = sorted({row["codes"][0] for row in dropped})
    by_code = ", ".join(f"{code} {sum(row['codes'][0] == code for row in dropped)}" for code in codes)
    wanted = rows[0]["wanted"] if rows else ""
    return (
        f"| {kind} | {wanted} | {len(dropped)} of {len(rows)} | {gone} of {len(later)} | "
        f"{low:.2f} to {high:.2f} | {by_code} |"
    )


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Flags."""

    videos: Path = Path()
    """Folder of music videos."""
    music: Path = Path()
    """Folder of music."""
    speech: Path = Path("/usr/share/asterisk/sounds")
    """Folder of wave files of talk."""
    count: int = 20
    """Clips of each kind that is made; real ones are all taken."""
    workers: int = os.cpu_count() or 1
    """Processes."""
    again: bool = False
    """Judge the scores of the last run; make and decode nothing."""


def jobs_of(asked: Asked) -> list[Job]:
    """Everything that is made and judged."""
    videos, music = files_of(asked.videos), files_of(asked.music)
    chosen = videos[:: max(1, len(videos) // asked.count)][: asked.count]
    songs = music[:: max(1, len(music) // asked.count)]
    return [
        *real(asked.videos, "music videos", "both"),
        *real(asked.music, "music", "audio"),
        *talking(asked.speech, songs, count=asked.count),
        *unmoved(chosen),
        *unheard(chosen[: max(1, len(chosen) // 4)]),
    ]


def main(asked: Asked) -> None:
    """Run all jobs, write the results, print the table and what went wrong."""
    if asked.again:
        rows = json.loads(RESULT.read_text())["rows"]
    else:
        rows = measured(asked)
        RESULT.write_text(json.dumps({"environment": environment(), "rows": rows}, indent=0) + "\n")
    rows = [judged(row) for row in rows]
    print("\n".join(table(rows)))
    for row in rows:
        if (row["wanted"] == "keep") == bool(row["codes"]) and row["wanted"] != "border":
            found = {name: round(score, 3) for name, score in row.items() if name in SCORES and name != "text_rules"}
            print(f"{row['kind']}: {row['name']} {','.join(row['codes']) or 'kept'} {found}")


if __name__ == "__main__":
    main(tyro.cli(Asked, description=__doc__))
