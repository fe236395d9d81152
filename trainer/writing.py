"""The files of a prediction: written all of them or none."""

from collections.abc import Sequence
from pathlib import Path

from trainer import player
from trainer.curve import Curve, to_csv, to_json, to_srt
from trainer.errors import UserError, one_line
from trainer.files import is_publishing, require_own, says, together
from trainer.player import How, write_player
from trainer.plots import plot_curve
from trainer.stills import Still
from trainer.videos import Video

FILES = ("curve.json", "curve.csv", "curve.srt", "curve.png", *player.FILES)


def is_curve(folder: Path) -> bool:
    """Tell whether a prediction's ``curve.json`` stands in a folder: its other files are known by that."""
    return says(folder / "curve.json", "curve_version", "labels", "scores")


def require_ours(out: Path) -> None:
    """Refuse a folder where files of a prediction's names are of others.

    Raises
    ------
    UserError
        Naming the first.
    """
    require_own(out, FILES, mark=is_curve, by="an earlier trainer.predict")


def require_apart(video: Path, out: Path) -> None:
    """Refuse to put another file in the video's own place.

    Raises
    ------
    UserError
        If the video is one of those that an earlier prediction wrote there.
    """
    if video.name in FILES and video.parent.resolve() == out.resolve():
        raise UserError(f"{video} would be overwritten by this prediction: give another --out")


def is_made(path: Path) -> bool:
    """Tell whether a video was put there by a prediction, beside its curve."""
    return path.name in FILES and (is_curve(path.parent) or is_publishing(path.parent))


def write_curve(curve: Curve, stills: Sequence[Still], video: Video, out: Path, *, how: How = "embed") -> None:
    """Write curve, table, subtitles, picture and page into a folder, which is made.

    Raises
    ------
    UserError
        If that cannot be done; what lay there is as it was.
    """
    texts = {"curve.csv": to_csv(curve), "curve.srt": to_srt(curve), "curve.json": to_json(curve)}
    try:
        with together(out, FILES, last="curve.json") as made:
            frames = [(still.time_s, still.frame_HWC) for still in stills]
            plot_curve(
                curve.times_s,
                curve.said.scores,
                curve.labels,
                made / "curve.png",
                duration_s=curve.duration_s,
                stills=frames,
                aspect=video.aspect,
            )
            for name, text in texts.items():
                (made / name).write_text(text, encoding="utf-8", newline="")
            write_player(curve, video, made, texts=texts, how=how)
    except OSError as error:
        raise UserError(f"the curve cannot be written to {out}: {one_line(error)}") from None
