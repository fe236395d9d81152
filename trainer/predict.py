"""Tell the emotion of a whole video over time (paper, Fig. 11).

Usage::

    python -m trainer.predict song.mp4 --run runs/first --out curves/song
    python -m trainer.predict song.mp4 --every 30 --out curves/song          # the paper's: windows side by side
    python -m trainer.predict videos/ --out curves                           # a folder: curves/<file>/ of each
    python -m trainer.predict https://example.org/watch?v=1 --out curves/1   # through the crawler

Windows of 30 s, one every few seconds, are made into what the network's shards hold, from one decode of the video.
Writes ``curve.json``, ``.csv``, ``.srt`` (subtitles), ``.png``, and ``player.html``, where the video plays beside them.
The curves are sigmoids fitted on the run's validation samples, an emotion each for itself; the verdict is softmax's.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import tyro
from tqdm import tqdm

from trainer.curve import Curve
from trainer.devices import Device, Precision, describe, start_fabric
from trainer.errors import UserError, printable
from trainer.files import require_folder
from trainer.modalities import why_not_alone
from trainer.player import How
from trainer.prepare import channels_last
from trainer.runtime import entry, parse, require, say, warn
from trainer.signals import interrupted_by_signals
from trainer.sources import has_media_name, is_folder, is_link, media_files
from trainer.trained import newest_trained, open_trained
from trainer.videos import EVERY_UNIT_S, Modality, Video, fetched, open_video, plays
from trainer.watch import num_windows, watch
from trainer.writing import is_made, require_apart, require_ours, write_curve

PROG = "python -m trainer.predict"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Tell the emotion of a whole video over time."""

    video: tyro.conf.Positional[str]
    """A file, a folder of them, or an http(s) link."""
    out: str
    """Folder for the curve and its page; of a folder of videos, each gets one of its own in it."""
    run: str | None = None
    """Run folder that trainer.finetune wrote; by default the newest in --runs."""
    runs: str = "runs"
    """Where runs lie."""
    every: float = 5.0
    """Seconds from one window to the next, a multiple of 0.5; the paper's figure has 30."""
    player: How = "embed"
    """embed: player.html holds the video, up to 64 MB, else it lies beside; beside: never; none: no page."""
    batch_size: int = 4
    """Windows at a time."""
    device: Device = "auto"
    """auto is CUDA where there is any, else the CPU."""
    precision: Precision = "auto"
    """auto is bf16-mixed on CUDA, 32-true elsewhere."""
    allow_private: bool = False
    """Let a link lead to this machine or its network."""

    def __post_init__(self) -> None:
        """Refuse what cannot work, naming the flag and the mend."""
        fits = self.every > 0 and self.every % EVERY_UNIT_S == 0
        require(fits, f"--every {self.every:g}: give a multiple of {EVERY_UNIT_S:g}, in seconds")
        require(self.batch_size >= 1, f"--batch-size {self.batch_size}: give 1 or more")


@entry
@interrupted_by_signals()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    words = sys.argv[1:] if argv is None else argv
    require_no_flags_for_names(words)
    cfg = parse(Config, words, prog=PROG)
    require_out(cfg.video, Path(cfg.out))
    trained = open_trained(Path(cfg.run) if cfg.run else newest_trained(Path(cfg.runs)))
    _ = trained.sigmoids  # refused before anything is decoded
    wanted: Modality = trained.config.network["modality"]
    alone = why_not_alone(trained.config)
    fabric = start_fabric(cfg.precision, seed=0, device=cfg.device)
    channels_last(trained.classifier)
    model = fabric.setup(trained.classifier)
    say(f"run: {trained.run}, {trained.config.name}, {trained.checkpoint.name}, {describe(fabric)}")
    if alone is not None and wanted == "both":
        say(f"no curves of sound or picture alone: {alone}")

    def predict(video: Video, out: Path) -> Curve:
        require_folder(out)
        require_apart(video.path, out)
        expected = num_windows(video.duration_s, cfg.every)
        with tqdm(total=expected, unit="window", disable=None, dynamic_ncols=True, leave=False) as bar:
            curve, stills = watch(
                trained,
                model,
                video,
                every_s=cfg.every,
                batch_size=cfg.batch_size,
                device=fabric.device,
                seen=bar.update,
                warn=warn,
            )
        if cfg.player != "none" and not plays(video):
            say(f"making {video.path.name} playable for browsers")
        write_curve(curve, stills, video, out, how=cfg.player)
        return curve

    out, failed = Path(cfg.out), 0
    for source, folder in places(cfg.video, out):
        try:
            require_ours(folder)
            with at_hand(source, wanted=wanted, alone=alone, allow_private=cfg.allow_private) as video:
                curve = predict(video, folder)
        except UserError as error:
            if folder == out:
                raise
            name = printable(Path(source))
            warn(str(error) if name in str(error) else f"{name}: {error}")
            failed += 1
            continue
        share = curve.probabilities.max()
        shown = folder / ("curve.png" if cfg.player == "none" else "player.html")
        say(f"{source}: {curve.verdict} ({share:.0%}), {len(curve.starts_s)} windows; {shown}")
    if failed:
        raise UserError(f"{failed} of the files in {cfg.video} failed, as told above; the others are in {out}")
    say(f"done: {out}")


def require_no_flags_for_names(words: Sequence[str]) -> None:
    """Refuse a video whose name reads as a flag.

    Raises
    ------
    UserError
        If there is one.
    """
    for word in words:
        if word.startswith("-") and "=" not in word and (has_media_name(Path(word)) or is_folder(word)):
            raise UserError(f"{word} reads as a flag: give ./{word}")


def require_out(video: str, out: Path) -> None:
    """Refuse a place where no curve can be, before anything is computed.

    Raises
    ------
    UserError
        If a file stands there, nothing can be written there, or it is the folder of the videos.
    """
    require_folder(out)
    try:
        is_their_own = out.exists() and is_folder(video) and out.samefile(video)
    except OSError as error:  # a name that is too long
        raise UserError(f"--out {out}: {error.strerror}; name another") from None
    if is_their_own:
        raise UserError(f"--out {out} is the folder of the videos, whose names its folders would have; name another")


def places(video: str, out: Path) -> Iterator[tuple[str, Path]]:
    """Give every video with the folder that its curve belongs in.

    Raises
    ------
    UserError
        If a folder holds no media.
    """
    folder = Path(video)
    if is_link(video):
        scheme, rest = video.split(":", 1)
        yield f"{scheme.lower()}:{rest}", out
        return
    if not is_folder(video):
        yield video, out
        return
    files = [file for file in media_files(folder) if not is_made(file)]
    if not files:
        raise UserError(f"{video} holds no file with a name of sound or video, such as song.mp4")
    for file in files:
        yield str(file), out / file.relative_to(folder)


@contextmanager
def at_hand(source: str, *, wanted: Modality, alone: str | None, allow_private: bool) -> Iterator[Video]:
    """Open a file, or fetch a link for as long as it is read."""
    if not is_link(source):
        yield open_video(Path(source), wanted=wanted, alone=alone)
        return
    say(f"fetching {source}")
    with ExitStack() as stack:
        with tqdm(unit="B", unit_scale=True, disable=None, dynamic_ncols=True, leave=False) as bar:
            told = fetched(source, modality=wanted, allow_private=allow_private, seen=lambda n: bar.update(n - bar.n))
            path, title = stack.enter_context(told)
        yield open_video(path, wanted=wanted, alone=alone, title=title, link=source)


if __name__ == "__main__":
    main()
