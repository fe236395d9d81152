"""What the page shows of single clips: a card each, and of a few all that the networks get."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from pipeline.locations import Folder
from pipeline.page import clips, pictures
from pipeline.page.clips import Row
from pipeline.page.index import Index
from pipeline.page.outcome import short_detail
from pipeline.page.pictures import Picture, Spectrogram
from pipeline.schema import SAMPLE_RATES_HZ, Manifest
from pipeline.text import clean_text
from pipeline.thumbnail import thumbnail

SHOWN = (
    *("key", "source_id", "title", "link", "uploader", "split", "label", "width_px", "height_px", "flagged"),
    *("shard", "sample_offset", "sample_bytes"),
)
DROPPED = ("source_id", "title", "link", "uploader", "code", "detail", "thumbnail")


@dataclass(frozen=True, kw_only=True)
class ClipCard:
    """One clip of a grid."""

    title: str
    link: str | None
    place: str | None
    """The path of a local file, where it says more than the title."""
    picture: Picture | None
    about: list[str]
    """Class, split, uploader: what is known."""
    codes: list[str]
    """Why it was dropped, or would be."""
    detail: str


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One clip as the networks get it."""

    title: str
    frames: list[Picture]
    spectrograms: list[tuple[str, list[Spectrogram]]]
    """Member, and its two channels."""


def kept_cards(folder: Folder, index: Index, positions: Sequence[int]) -> list[ClipCard]:
    """Cards of kept clips, in the order chosen; a clip whose tar is not there, or holds no picture, has none."""
    rows = index.rows(positions, SHOWN)
    samples = clips.read_samples(folder, list(rows.values()), members=["frames"])
    cards = []
    for position in positions:
        row = rows[position]
        sample = samples.get(row["key"])
        picture = None
        if sample is not None:
            aspect = row["width_px"] / row["height_px"] if row["width_px"] and row["height_px"] else 16 / 9
            picture = pictures.stored_thumbnail(thumbnail(sample.arrays["frames"], aspect=aspect))
        about = [word for word in map(clean_text, (row["label"], row["split"], row["uploader"])) if word]
        cards.append(_card(row, picture, about=about, codes=row["flagged"] or [], detail=""))
    return cards


def rejected_cards(index: Index) -> list[ClipCard]:
    """Cards of clips that were not kept and whose picture stands in the index."""
    positions = clips.choose_rejected(index)
    rows = index.rows(positions, DROPPED)
    cards = []
    for position in positions:
        row = rows[position]
        if (picture := pictures.stored_thumbnail(row["thumbnail"])) is not None:
            about = [word for word in [clean_text(row["uploader"])] if word]
            codes, detail = [row["code"]] if row["code"] else [], short_detail(row["detail"])
            cards.append(_card(row, picture, about=about, codes=codes, detail=detail))
    return cards


def _card(row: Row, picture: Picture | None, *, about: list[str], codes: list[str], detail: str) -> ClipCard:
    title, link, place = clips.title_of(row), clips.web_link(row["link"]), clean_text(row["link"]) or ""
    return ClipCard(
        title=title,
        link=link,
        place=None if link or place == title + PurePosixPath(place).suffix else place,
        picture=picture,
        about=about,
        codes=codes,
        detail=detail,
    )


def shown_clips(folder: Folder, index: Index, manifest: Manifest) -> list[Shown]:
    """A few kept clips with all that their samples hold, as pictures."""
    positions = clips.choose_kept(index, count=clips.NUM_HEARD)
    rows = index.rows(positions, SHOWN)
    members = clips.stored_members(manifest.recipe)
    samples = clips.read_samples(folder, list(rows.values()), members=members)
    phase = str(manifest.recipe.get("phase", "projected"))
    shown = []
    for position in positions:
        if (sample := samples.get(rows[position]["key"])) is not None:
            drawn = [
                (name, [pictures.mel_picture(name, array), pictures.phase_picture(name, array, phase=phase)])
                for name, array in sorted(sample.arrays.items(), key=lambda item: -SAMPLE_RATES_HZ.get(item[0], 0))
                if name in SAMPLE_RATES_HZ
            ]
            frames = pictures.slow_frames(sample.arrays["frames"]) if "frames" in sample.arrays else []
            shown.append(Shown(title=clips.title_of(rows[position]), frames=frames, spectrograms=drawn))
    return shown
