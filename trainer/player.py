"""``player.html``: a video beside its curves, in one file that fetches nothing, or with the video beside it."""

import base64
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from markupsafe import Markup

from trainer.curve import Curve
from trainer.errors import UserError
from trainer.page import html
from trainer.videos import MIMES, Video, playable

How = Literal["embed", "beside", "none"]

MAX_EMBED_BYTES = 64_000_000
"""Of a video within the page: 85 MB of text, of which a browser holds some copies while it opens it; phones have few
hundred to spare."""
FILES = ("player.html", *(f"player.{ending}" for ending in MIMES))

_PIECE_BYTES = 3 << 18  # whole groups of three, so that pieces of base64 can be joined


def write_player(curve: Curve, video: Video, made: Path, *, texts: Mapping[str, str], how: How) -> None:
    """Write the page, and where it does not hold the video, that beside it.

    Parameters
    ----------
    texts
        Files that the page offers, by name; among them ``curve.json``, from which it draws.
    how
        ``embed`` has the video in the page if it is at most ``MAX_EMBED_BYTES``, ``beside`` never; ``none`` writes
        nothing.

    Raises
    ------
    OSError
        If the disk is full.
    """
    if how == "none":
        return
    with TemporaryDirectory(dir=made, prefix="player-") as scratch:
        path: Path | None = None
        beside = why_not = changes = mime = None
        try:
            found = playable(video, Path(scratch))
        except UserError as error:
            why_not = str(error)
        else:
            path, changes, mime = found.path, found.changes, found.mime
            if how == "beside" or path.stat().st_size > MAX_EMBED_BYTES:
                beside = f"player.{found.ending}"
                _link(path, made / beside)
        page = html.pieces(
            "player.html.j2",
            styles=["report.css", "player.css"],
            script="player.js",
            curve=curve,
            chances=sorted(zip(curve.probabilities.tolist(), curve.labels, strict=True), reverse=True),
            texts=dict(texts),
            has_picture=video.probe.video_stream is not None,
            aspect=video.aspect,
            beside=beside,
            mime=mime,
            embedded=None if path is None or beside else _base64(path),
            changes=changes,
            why_not=why_not,
        )
        with (made / "player.html").open("w", encoding="utf-8") as file:
            file.writelines(page)


def _base64(path: Path) -> Iterator[Markup]:
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            yield Markup(base64.b64encode(piece).decode())


def _link(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where that cannot be: on another disk, or of another owner."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
