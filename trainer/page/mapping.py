"""The map of an embedded set, ``map.html``: one file that fetches nothing; its script is the page's own."""

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from trainer.page.html import pieces
from trainer.thumbnails import Sheet

NEIGHBOURS = 5
"""Clips that the page lists beside the chosen one."""


def map_page(
    about: Mapping[str, Any],
    table: pa.Table,
    probabilities_NK: np.ndarray,
    places_N2: np.ndarray,
    neighbours: tuple[np.ndarray, np.ndarray],
    sheet: Sheet | None,
) -> str:
    """Text of the page.

    Parameters
    ----------
    about
        What ``embed.json`` holds.
    table
        ``trainer.embeddings.DESCRIBED`` of the clips on the map.
    probabilities_NK
        Of its emotions, without a column where the run tells none.
    neighbours
        Of each clip on the map: which others are nearest by content, and how alike they are.
    sheet
        Pictures of the first so many clips.
    """
    names = list(dict.fromkeys([*(about["set_labels"] or []), *(about["labels"] or [])]))
    number = {name: i for i, name in enumerate(names)}
    columns = {name: table[name].to_pylist() for name in table.column_names}
    groups = {group: i for i, group in enumerate(dict.fromkeys(columns["source_group"]))}
    emotions = [number[label] for label in about["labels"] or []]
    rows, similarity = neighbours
    points = {
        "x": np.round(places_N2[:, 0].astype(float), 4).tolist(),
        "y": np.round(places_N2[:, 1].astype(float), 4).tolist(),
        "key": columns["key"],
        "title": [title or "" for title in columns["title"]],
        "source": [link or source for link, source in zip(columns["link"], columns["source_id"], strict=True)],
        "start": columns["start_s"],
        "group": [groups[group] for group in columns["source_group"]],
        "label": [number.get(label, -1) for label in columns["label"]],
        "likeliest": [emotions[i] for i in probabilities_NK.argmax(1)] if emotions else [],
        "said": np.round(probabilities_NK, 3).tolist() if emotions else [],
        "near": rows.tolist(),
        "alike": np.round(similarity, 3).tolist(),
    }
    told = None
    if sheet is not None:
        told = {"columns": sheet.columns, "width": sheet.width_px, "height": sheet.height_px}
    page = pieces(
        "map.html.j2",
        styles=("report.css", "map.css"),
        script="map.js",
        about=about,
        neighbours=NEIGHBOURS,
        sheet=None if sheet is None else "data:image/jpeg;base64," + base64.b64encode(sheet.jpeg).decode(),
        data={
            "names": names,
            "emotions": emotions,
            "labelled": bool(about["set_labels"]),
            "points": points,
            "sheet": told and told | {"count": about["map"]["thumbnails"]},
        },
    )
    return "".join(page)
