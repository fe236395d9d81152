"""``croissant.json``: the set described for machines, by MLCommons' Croissant 1.1 (JSON-LD).

https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html. Files are named relative to the folder; neither date
nor creator is told, since the set knows neither: whoever publishes it adds them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from pipeline.page.clips import stored_members
from pipeline.page.licences import card_licences, hub_licence, spdx_link
from pipeline.schema import INDEX, MEMBERS, SHEET, SPLITS, Manifest, file_of

CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The specification's own."""

CONFORMS_TO = ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"]

MAX_TARS = 2_000  # of a set that are named one by one


class StoredFile(NamedTuple):
    """A file of the set."""

    name: str
    num_bytes: int
    sha256: str


def croissant(
    manifest: Manifest,
    *,
    title: str,
    tars: Sequence[StoredFile],
    index: StoredFile,
    columns: Collection[str],
    licences: Sequence[str | None],
) -> str:
    """Text of ``croissant.json``.

    Parameters
    ----------
    manifest
        What ``dataset.json`` says.
    title
        The set's name, as on its card.
    tars
        All tars with their sizes and hashes, by name; those of a huge set are cut off and told in words.
    index
        ``index.parquet``.
    columns
        Those it has: an older set's lacks what came later.
    licences
        Different licences of the kept clips, None for clips that came without one.
    """
    samples = sum(split["samples"] for split in manifest.splits.values())
    named = tars[:MAX_TARS]
    described: dict[str, Any] = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": title,
        "description": f"{samples} clips of 30 s from music videos as model-ready tensors: frames, log-mel and phase "
        f"at three rates, in WebDataset tars; every candidate, kept or not, has a row in index.parquet."
        + (f" {len(named)} of {len(tars)} tars are named here." if len(named) < len(tars) else ""),
        "keywords": ["music", "video", "emotion", "webdataset"],
        "rai:dataCollection": "Music videos of a user's choice: searches, links, folders or a labelled set. "
        "Column `query` tells what listed a clip, `link` where it came from.",
        "rai:dataPreprocessingProtocol": [
            f"30 s of each video, decoded once; recipe {json.dumps(manifest.recipe, sort_keys=True)}"
        ],
        "rai:personalSensitiveInformation": [
            "Clips show and play recognisable people; titles and uploaders' names stand in the index."
        ],
        "distribution": [
            _file_object(index, "application/x-parquet", "One row a candidate, kept or not."),
            *(_file_object(tar, "application/x-tar", "Samples as WebDataset members.") for tar in named),
            *_file_sets(manifest, [tar.name for tar in named]),
        ],
        "recordSet": [*_splits(manifest), *_labels(manifest), _candidates(columns)],
    }
    if card_licences(licences):
        named_licences = {text: hub_licence(text) for text in licences if text}
        described["license"] = sorted({spdx_link(name) if name else text for text, name in named_licences.items()})
    return json.dumps(described, indent=1, ensure_ascii=False) + "\n"


def _file_object(file: StoredFile, kind: str, words: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": file.name,
        "name": file.name,
        "description": words,
        "contentUrl": file.name,
        "contentSize": f"{file.num_bytes} B",
        "encodingFormat": kind,
        "sha256": file.sha256,
    }


def _file_sets(manifest: Manifest, tars: list[str]) -> list[dict[str, Any]]:
    if not tars:
        return []
    files = [file_of(name, manifest.recipe) for name in stored_members(manifest.recipe)]
    members = {file: "image/jpeg" if file == SHEET else "application/octet-stream" for file in files}
    members |= ({"cls": "text/plain"} if manifest.labels else {}) | {"json": "application/json"}
    words = {f"{m.name}.npy": f"NumPy {m.dtype}, shape {'x'.join(map(str, m.shape))}" for m in MEMBERS.values()}
    words |= {SHEET: "64 frames of 128 x 128, RGB, in a sheet of 8 x 8, row by row"}
    words |= {"cls": "index of the class", "json": "where the clip came from and how it was made"}
    return [
        {
            "@type": "cr:FileSet",
            "@id": f"samples-{ending.partition('.')[0]}",
            "name": f"samples-{ending.partition('.')[0]}",
            "description": words[ending],
            "containedIn": [{"@id": tar} for tar in tars],
            "encodingFormat": kind,
            "includes": f"*.{ending}",
        }
        for ending, kind in members.items()
    ]


def _splits(manifest: Manifest) -> list[dict[str, Any]]:
    known = {"train": "cr:TrainingSplit", "val": "cr:ValidationSplit", "test": "cr:TestSplit"}
    if not manifest.splits:
        return []
    described = {
        "@type": "cr:RecordSet",
        "@id": "splits",
        "name": "splits",
        "description": "Splits of the kept clips; `unlabeled` is for training without labels.",
        "dataType": "cr:Split",
        "key": {"@id": "splits/name"},
        "field": [
            {"@type": "cr:Field", "@id": "splits/name", "name": "name", "dataType": "sc:Text"},
            {"@type": "cr:Field", "@id": "splits/url", "name": "url", "dataType": "sc:URL"},
        ],
        "data": [
            {"splits/name": split, "splits/url": known.get(split, "cr:TrainingSplit")}
            for split in SPLITS
            if split in manifest.splits
        ],
    }
    return [described]


def _labels(manifest: Manifest) -> list[dict[str, Any]]:
    if not manifest.labels:
        return []
    return [
        {
            "@type": "cr:RecordSet",
            "@id": "labels",
            "name": "labels",
            "description": "Classes by the number that a sample's `cls` holds.",
            "dataType": "sc:Enumeration",
            "key": {"@id": "labels/index"},
            "field": [
                {"@type": "cr:Field", "@id": "labels/index", "name": "index", "dataType": "sc:Integer"},
                {"@type": "cr:Field", "@id": "labels/name", "name": "name", "dataType": "sc:Text"},
            ],
            "data": [{"labels/index": i, "labels/name": label} for i, label in enumerate(manifest.labels)],
        }
    ]


def _candidates(columns: Collection[str]) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": "candidates",
        "name": "candidates",
        "description": "One row a candidate, kept or not; pictures and fingerprints are left to readers of parquet.",
        "field": [_field(column) for column in INDEX if column.name in columns and not pa.types.is_binary(column.type)],
    }


def _field(column: pa.Field) -> dict[str, Any]:
    is_list = pa.types.is_list(column.type)
    kind = column.type.value_type if is_list else column.type
    integer = "sc:Integer"
    name = {"string": "sc:Text", "double": "sc:Float", "int32": integer, "int64": integer, "bool": "sc:Boolean"}[
        str(kind)
    ]
    field = {
        "@type": "cr:Field",
        "@id": f"candidates/{column.name}",
        "name": column.name,
        "dataType": name,
        "source": {"fileObject": {"@id": "index.parquet"}, "extract": {"column": column.name}},
    }
    return field | ({"repeated": True} if is_list else {})
