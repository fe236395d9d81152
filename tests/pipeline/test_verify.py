from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pickle
import re
import tarfile
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import shards, verify
from pipeline.locking import single_writer
from pipeline.page import clips
from pipeline.schema import INDEX
from pipeline.tars import MAX_MEMBER_BYTES, TarError, read_samples
from tests.pipeline.standing import LABELLED, Clip, build, copy

Members = dict[str, bytes]
Samples = list[tuple[str, Members]]


@pytest.fixture(scope="module")
def standing(tmp_path_factory) -> Path:
    """Eight clips, sound alone: train-000000, train-000001, val-000000 and test-000000, two clips each."""
    folder = tmp_path_factory.mktemp("sets") / "standing"
    build(folder, LABELLED)
    return folder


@pytest.fixture
def folder(standing, tmp_path) -> Path:
    return copy(standing, tmp_path / "set")


@pytest.fixture
def told(capsys) -> Callable[[Path], tuple[int, list[str]]]:
    """Run the command; its exit code, and its faults without the last line, which must count them."""

    def run(folder: Path) -> tuple[int, list[str]]:
        capsys.readouterr()
        code = verify.main([str(folder)])
        *lines, last = capsys.readouterr().out.splitlines()
        assert last.endswith(f": {len(lines) or 'no'} {'fault' if len(lines) < 2 else 'faults'}")
        assert code == (1 if lines else 0)
        return code, lines

    return run


# --- how a fault is written in --------------------------------------------------------------------------------------


def put(file: Path, content: bytes) -> None:
    """Write a file anew: its old bytes are another set's too."""
    file.unlink(missing_ok=True)
    file.write_bytes(content)


def rerecord(record: Path, change: Callable[[list[dict]], Any] = lambda rows: None, **promise: str) -> None:
    """Write a record anew, with rows or promises changed."""
    table = pq.read_table(record)
    rows = table.to_pylist()
    rows = change(rows) or rows
    metadata = {
        k.decode(): v.decode() for k, v in table.schema.metadata.items() if not k.startswith(b"ARROW")
    } | promise
    shards.write_rows(record, rows, INDEX, metadata=metadata)


def in_record(stem: str, change: Callable[[list[dict]], Any] = lambda rows: None, **promise: str) -> Callable:
    """The same fault in record and index: between them they agree."""

    def write(folder: Path) -> None:
        before = shards.read_rows(folder / f"{stem}.parquet")
        rerecord(folder / f"{stem}.parquet", change, **promise)
        after = shards.read_rows(folder / f"{stem}.parquet")
        old = {row["key"] for row in before}
        in_index(lambda rows: [row for row in rows if row["key"] not in old or row["status"] != "kept"] + after)(folder)

    return write


def in_index(change: Callable[[list[dict]], Any]) -> Callable:
    def write(folder: Path) -> None:
        rows = shards.read_rows(folder / "index.parquet")
        shards.write_rows(folder / "index.parquet", change(rows) or rows, INDEX)

    return write


def in_manifest(change: Callable[[dict], Any]) -> Callable:
    def write(folder: Path) -> None:
        raw = json.loads((folder / "dataset.json").read_text())
        change(raw)
        put(folder / "dataset.json", json.dumps(raw).encode())

    return write


def forged(change: Callable[[Samples], Any], *, name: str = "train-000000", kind: bytes = tarfile.REGTYPE) -> Callable:
    """A tar with other contents, under hashes of its own: what is wrong is for the deeper checks to find."""

    def write(folder: Path) -> None:
        with (folder / f"{name}.tar").open("rb") as stream:
            samples = [(sample.key, dict(sample.members)) for sample in read_samples(stream)]
        samples = change(samples) or samples
        put(folder / f"{name}.tar", tar_of(samples, kind=kind))
        reseal(folder / f"{name}.tar")

    return write


def tar_of(samples: Samples, *, kind: bytes = tarfile.REGTYPE) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for key, members in samples:
            for suffix, data in members.items():
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(data)
                if suffix == "link":
                    info.type, info.linkname, info.size = kind, "/etc/passwd", 0
                tar.addfile(info, io.BytesIO(data))
    return target.getvalue()


def reseal(tar: Path) -> None:
    """Give a tar's record the hashes of what is there now."""
    places = {}
    with tar.open("rb") as stream, contextlib.suppress(TarError):
        places = {sample.key: shards.where(sample) for sample in read_samples(stream)}
    promise = {"tar_sha256": hashlib.sha256(tar.read_bytes()).hexdigest(), "tar_bytes": str(tar.stat().st_size)}

    def change(rows: list[dict]) -> list[dict]:
        return [row | places.get(row["key"], {}) for row in rows]

    in_record(tar.stem, change, **promise)(tar.parent)


def member(name: str, data: bytes | Callable[[bytes], bytes]) -> Callable[[Samples], None]:
    """Give the first sample other bytes in one member."""

    def change(samples: Samples) -> None:
        members = samples[0][1]
        members[name] = data(members[name]) if callable(data) else data

    return change


def npy(array: np.ndarray, **how: Any) -> bytes:
    target = io.BytesIO()
    np.lib.format.write_array(target, array, **({"version": (1, 0)} | how))
    return target.getvalue()


def mel(**changes: Any) -> np.ndarray:
    array = np.zeros((2, 128, 469), np.float16)
    for at, value in changes.pop("at", {}).items():
        array[at] = value
    return array


def first(**values: Any) -> Callable[[list[dict]], None]:
    """Change the first row."""
    return lambda rows: rows[0].update(values)


def of_status(which: str, **values: Any) -> Callable[[list[dict]], None]:
    """Change the first row of a status."""
    return lambda rows: next(row for row in rows if row["status"] == which).update(values)


def flip(name: str, at: float) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        raw = bytearray((folder / name).read_bytes())
        raw[int(at * len(raw))] ^= 1
        put(folder / name, bytes(raw))

    return write


def cut(name: str, share: float) -> Callable[[Path], None]:
    return lambda folder: put(folder / name, (raw := (folder / name).read_bytes())[: int(share * len(raw))])


def bomb(size: int) -> Callable[[Path], None]:
    """A header that claims a size."""

    def write(folder: Path) -> None:
        info = tarfile.TarInfo("bomb_00000000_00000000.mel_8k.npy")
        info.size = size
        put(folder / "train-000000.tar", info.tobuf(tarfile.GNU_FORMAT) + bytes(10240))
        reseal(folder / "train-000000.tar")

    return write


def endless(folder: Path) -> None:
    raw = (folder / "train-000000.tar").read_bytes()
    *_, last = read_samples(io.BytesIO(raw))
    put(folder / "train-000000.tar", raw[: last.offset + last.num_bytes])


def other_columns(folder: Path) -> None:
    (folder / "train-000000.parquet").unlink()
    pq.write_table(pa.table({"key": [1]}), folder / "train-000000.parquet")


def repeated_column(folder: Path) -> None:
    table = pq.read_table(folder / "train-000000.parquet")
    (folder / "train-000000.parquet").unlink()
    pq.write_table(table.append_column("key", table.column("key")), folder / "train-000000.parquet")


def dangling(folder: Path) -> None:
    (folder / "train-000000.tar").unlink()
    (folder / "train-000000.tar").symlink_to(folder / "nowhere.tar")


def in_json(**values: Any) -> Callable:
    return forged(member("json", lambda raw: json.dumps(json.loads(raw) | values).encode()))


def moved_group(folder: Path) -> None:
    group = shards.read_rows(folder / "train-000000.parquet")[0]["source_group"]
    in_record("val-000000", first(source_group=group))(folder)
    forged(
        member("json", lambda raw: json.dumps(json.loads(raw) | {"source_group": group}).encode()), name="val-000000"
    )(folder)


class Payload:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path("unpickled"),)


PICKLED = npy(np.array([Payload()], dtype=object), allow_pickle=True)
DEEP = b"\x93NUMPY\x01\x00\xf6\x00" + (b"(" * 200).ljust(245) + b"\n"
KEY = r"[a-z0-9-]+_[0-9a-f]{8}_[0-9]{8}"
TRAIN, VAL = "train-000000", "val-000000"
MOMENTS = rf"{TRAIN}.tar: {KEY}: mel_\d+k.npy has another mean or mean square than its record says"
OTHER_HASH = rf"{TRAIN}.tar: has another SHA-256 than its record says"

FAULTS: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    # a tar and its hashes
    "a flipped bit": (
        flip("train-000000.tar", 0.3),
        [rf"{TRAIN}.tar: {KEY}: was altered: its members have another hash", MOMENTS, OTHER_HASH],
    ),
    "a flipped bit in the padding": (
        flip("train-000000.tar", 0.9999),
        [rf"{TRAIN}.tar: is damaged: data stand behind its end mark", OTHER_HASH],
    ),
    "a tar cut short": (
        cut("train-000000.tar", 0.7),
        [rf"{TRAIN}.tar: is \d+ bytes, its record says \d+", rf"{TRAIN}.tar: is damaged: it ends in the middle of"],
    ),
    "a tar without its end mark": (
        endless,
        [rf"{TRAIN}.tar: is \d+ bytes, its record says \d+", r"is damaged: at byte \d+: it ends without its end mark"],
    ),
    "an empty tar": (
        lambda folder: put(folder / f"{TRAIN}.tar", b""),
        [rf"{TRAIN}.parquet: has 2 rows, more than its tar can hold", "index.parquet: names 2 samples", "dataset.json"],
    ),
    "something behind the end": (
        lambda folder: put(folder / f"{TRAIN}.tar", (folder / f"{TRAIN}.tar").read_bytes() + b"#!/bin/sh\n"),
        [rf"{TRAIN}.tar: is \d+ bytes", rf"{TRAIN}.tar: is damaged: data stand behind its end mark"],
    ),
    "a header that claims 8 GB": (bomb(8 << 30), [rf"{TRAIN}.tar: is damaged: .* claims 8589934592 bytes"]),
    "a header that claims less than nothing": (bomb(-1), [rf"{TRAIN}.tar: is damaged: .* claims -1 bytes"]),
    "a pipe in place of a tar": (
        lambda folder: ((folder / f"{TRAIN}.tar").unlink(), os.mkfifo(folder / f"{TRAIN}.tar")),
        [
            rf"{TRAIN}.tar: is no file",
            "index.parquet: names 2 samples of train-000000.tar that no record has",
            "dataset.json",
        ],
    ),
    # members
    "float32": (
        forged(member("mel_8k.npy", npy(mel().astype(np.float32)))),
        [rf"{TRAIN}.tar: {KEY}: mel_8k.npy is float32\(2, 128, 469\), the schema says float16\(2, 128, 469\)"],
    ),
    "big-endian": (
        forged(member("mel_8k.npy", npy(mel().astype(">f2")))),
        [rf"{TRAIN}.tar: {KEY}: mel_8k.npy is >f2\(2, 128, 469\)"],
    ),
    "a wrong shape": (
        forged(member("mel_8k.npy", npy(mel()[:, :, 1:]))),
        [rf"{TRAIN}.tar: {KEY}: mel_8k.npy is float16\(2, 128, 468\)"],
    ),
    "Fortran order": (
        forged(member("mel_8k.npy", npy(np.asfortranarray(mel())))),
        ["mel_8k.npy is stored column by column"],
    ),
    "not a number": (
        forged(member("mel_8k.npy", npy(mel(at={(0, 3, 4): np.nan})))),
        ["mel_8k.npy holds numbers that are"],
    ),
    "infinite": (
        forged(member("mel_8k.npy", npy(mel(at={(1, 3, 4): -np.inf, (1, 3, 5): np.inf})))),
        ["mel_8k.npy holds numbers that are not finite"],
    ),
    "a pickle": (forged(member("mel_8k.npy", PICKLED)), [rf"{TRAIN}.tar: {KEY}: mel_8k.npy is object\(1,\)"]),
    "a bare pickle": (forged(member("mel_8k.npy", pickle.dumps(Payload()))), ["mel_8k.npy has no header of an array"]),
    "a header of parentheses": (forged(member("mel_8k.npy", DEEP)), ["mel_8k.npy has no header of an array"]),
    "another .npy version": (
        forged(member("mel_8k.npy", npy(mel(), version=(2, 0)))),
        ["is of .npy version 2.0, not 1.0"],
    ),
    "an array cut short": (
        forged(member("mel_8k.npy", lambda raw: raw[:-2])),
        ["mel_8k.npy holds 240126 bytes of numbers, its shape takes 240128"],
    ),
    "another's sound": (forged(member("mel_8k.npy", npy(mel(at={(0, 0, 0): 1})))), [MOMENTS]),
    "two sounds exchanged": (
        forged(lambda s: s[0][1].update({"mel_8k.npy": s[1][1]["mel_8k.npy"]}) or None),
        [MOMENTS],
    ),
    "a member missing": (
        forged(lambda s: s[0][1].pop("mel_22k.npy") and None),
        [rf"{TRAIN}.tar: {KEY}: has no mel_22k.npy"],
    ),
    "a picture in a set of sound": (
        forged(member("frames.npy", b"")),
        ["has a member frames.npy, which no sample of this"],
    ),
    "a program for webdataset's decoder": (forged(member("pyd", pickle.dumps(Payload()))), ["has a member pyd, which"]),
    "a symbolic link": (forged(member("link", b""), kind=tarfile.SYMTYPE), ["is damaged: .*link is no plain file"]),
    "a hard link": (forged(member("link", b""), kind=tarfile.LNKTYPE), ["is damaged: .*link is no plain file"]),
    "a long name": (
        forged(member("link", b""), kind=tarfile.GNUTYPE_LONGNAME),
        ["is damaged: .*link is no plain file"],
    ),
    "too many members": (
        forged(lambda s: s[0][1].update({f"x{n}": b"" for n in range(20)}) or None),
        ["is damaged: .* is there twice, or one of more than 16 members"],
    ),
    "another class": (
        forged(member("cls", lambda raw: b"1" if raw == b"0" else b"0")),
        [rf"{TRAIN}.tar: {KEY}: cls is b'\d', its label \w+ is class \d"],
    ),
    "a class that is no number": (forged(member("cls", b"0\n")), ["cls is b'0.n', its label"]),
    "another label in json": (in_json(label="Joy"), [rf"{TRAIN}.tar: {KEY}: json says 'Joy' label, its record"]),
    "another start in json": (in_json(start_s=1.0), [rf"{TRAIN}.tar: {KEY}: json says 1.0 start_s, its record 30.25"]),
    "no split in json": (in_json(split=None), [rf"{TRAIN}.tar: {KEY}: json says None split, its record 'train'"]),
    "json that is none": (forged(member("json", b"{'a': 1}")), [rf"{TRAIN}.tar: {KEY}: json cannot be read"]),
    "json of another form": (forged(member("json", b"[[]]")), [rf"{TRAIN}.tar: {KEY}: json is no object"]),
    "json of depth": (forged(member("json", b"[" * 100_000)), [rf"{TRAIN}.tar: {KEY}: json cannot be read"]),
    # samples
    "another order": (
        forged(lambda s: s[::-1]),
        [rf"{TRAIN}.tar: its samples stand in another order than in the record"],
    ),
    "a sample missing": (forged(lambda s: s[1:]), [rf"{TRAIN}.tar: {KEY}: is in the record, and not in the tar"]),
    "a sample that nobody knows": (
        forged(lambda s: [*s, ("x_00000000_00000000", s[0][1])]),
        [rf"{TRAIN}.tar: x_00000000_00000000: is not in the record"],
    ),
    "members that are scattered": (
        forged(lambda s: [(s[0][0], {"cls": s[0][1].pop("cls")}), s[1], s[0]]),
        [
            rf"{KEY}: has no json",
            rf"{KEY}: has no mel_22k",
            "has no mel_32k",
            "has no mel_8k",
            "altered",
            "stand together",
            "lies at byte 0",
        ],
    ),
    # records
    "another recipe": (
        in_record(TRAIN, recipe_hash="f" * 16),
        [rf"{TRAIN}.parquet: is of recipe ffffffffffffffff, data"],
    ),
    "another size promised": (in_record(TRAIN, tar_bytes="7"), [rf"{TRAIN}.tar: is \d+ bytes, its record says 7"]),
    "another hash promised": (in_record(TRAIN, tar_sha256="0"), [rf"{TRAIN}.tar: has another SHA-256 than its record"]),
    "another sample's place": (
        in_record(TRAIN, first(sample_offset=512)),
        [rf"{TRAIN}.tar: {KEY}: lies at byte 0, \d+ bytes; its record says 512 and \d+"],
    ),
    "another sample's hash": (in_record(TRAIN, first(sample_sha256="0")), [rf"{TRAIN}.tar: {KEY}: was altered"]),
    "an unknown label": (
        in_record(TRAIN, first(label="Joy")),
        [rf"{TRAIN}.parquet: {KEY}: has label Joy", "json says", "dataset.json: splits.train.per_class"],
    ),
    "another split's row": (
        in_record(TRAIN, first(split="val")),
        [rf"{TRAIN}.parquet: {KEY}: names shard {TRAIN}.tar and split val", "json", "dataset.json: .*"],
    ),
    "another start": (
        in_record(TRAIN, first(start_s=7.0)),
        [rf"{KEY}: its title, source and start make the key", "json"],
    ),
    "a rejected clip in a shard": (
        in_record(TRAIN, first(status="rejected", code="static")),
        [
            rf"{TRAIN}.parquet: {KEY}: is rejected with code static, and stands in a shard",
            "index.parquet",
            "dataset.json",
        ],
    ),
    "another mean": (
        in_record(TRAIN, lambda rows: rows[0]["mean_mel_8k"].__setitem__(0, 0.5)),
        [MOMENTS, "dataset.json: normalization of mel_8k is not that of the records"],
    ),
    "a mean that slips by a millionth": (
        in_record(TRAIN, lambda rows: rows[0]["meansq_mel_8k"].__setitem__(0, rows[0]["meansq_mel_8k"][0] * 1.000001)),
        [MOMENTS, "dataset.json: normalization of mel_8k"],
    ),
    "no mean": (
        in_record(TRAIN, first(mean_mel_8k=None)),
        ["mel_8k.npy has no mean or mean square in its record", "dataset.json: normalization of mel_8k"],
    ),
    "a group in two splits": (moved_group, [rf"{VAL}.parquet: {KEY}: source group songs/.*mp4 is in train and val"]),
    "a key in two shards": (
        in_record(TRAIN, lambda rows: [*rows, rows[0]]),
        [rf"{TRAIN}.parquet: {KEY}: has a key that {TRAIN}.tar holds already", "index", "dataset.json"],
    ),
    "a record that is none": (
        lambda folder: put(folder / f"{TRAIN}.parquet", b"PAR1 and no more"),
        [rf"{TRAIN}.parquet: cannot be read", "index.parquet: names 2 samples of train-000000.tar", "dataset.json"],
    ),
    "a record of other columns": (
        other_columns,
        [rf"{TRAIN}.parquet: has int64 in column key, not string", "index.parquet", "dataset.json"],
    ),
    "no record": (
        lambda folder: (folder / f"{TRAIN}.parquet").unlink(),
        [rf"{TRAIN}.tar: has no commit record", "index.parquet: names 2 samples of train-000000.tar", "dataset.json"],
    ),
    "no tar": (
        lambda folder: (folder / f"{TRAIN}.tar").unlink(),
        [rf"{TRAIN}.parquet: is the record of a tar that is not there", "index.parquet: names 2", "dataset.json"],
    ),
    # the index
    "another title in the index": (
        in_index(of_status("kept", title="another")),
        [rf"index.parquet: {KEY}: has another title, unlike its shard's record"],
    ),
    "a row missing": (
        in_index(lambda rows: rows[1:]),
        [r"index.parquet: has no row for 1 samples of \w+-000000.tar, such as", "dataset.json: counts.kept is 8, and"],
    ),
    "a row twice": (
        in_index(lambda rows: [*rows, rows[-1]]),
        ["index.parquet: songs/talk.mp4: has more than one row", "dataset.json: counts"],
    ),
    "a kept clip that no shard holds": (
        in_index(lambda rows: [*rows, rows[0] | {"key": "x_00000000_00000000", "source_id": "x"}]),
        ["index.parquet: names 1 samples of .* that no record has, such as x_00000000", "dataset.json: counts.kept"],
    ),
    "an unknown status": (
        in_index(of_status("rejected", status="lost")),
        ["has status lost; known are", "counts.rejected"],
    ),
    "an unknown code": (
        in_index(of_status("rejected", code="boring")),
        ["is rejected, with code boring", "boring", "dupl"],
    ),
    "kept with a code": (
        in_index(of_status("kept", code="static")),
        [
            rf"index.parquet: {KEY}: is kept, with code static",
            "has another code, unlike",
            "counts.by_code.static is None",
        ],
    ),
    "rejected into a shard": (
        in_index(of_status("rejected", shard="train-000000.tar")),
        ["is rejected, with code .* shard"],
    ),
    "a failure that is none": (
        in_index(of_status("failed", code="text")),
        ["is failed, which does not go with", "in", "te"],
    ),
    "a damaged thumbnail": (
        in_index(
            lambda rows: [row.update(thumbnail=row["thumbnail"][:99]) for row in rows if row["thumbnail"]] and None
        ),
        ["index.parquet: songs/talk.mp4: has a thumbnail that cannot be decoded"],
    ),
    "a share above one": (
        in_index(of_status("rejected", speech_share=1.5)),
        ["index.parquet: .*: has speech_share 1.5, which lies between 0 and 1"],
    ),
    "a score that is no number": (
        in_index(of_status("rejected", loudness_db=float("nan"))),
        ["index.parquet: .*: has loudness_db nan, which lies between -120 and 20"],
    ),
    "a flag that no filter raises": (
        in_index(of_status("rejected", flagged=["speech", "boring"])),
        ["is flagged as boring, which no filter says"],
    ),
    "a thumbnail that is a program": (
        in_index(of_status("rejected", thumbnail=b"%!PS\n(x) show")),
        ["has a thumbnail that cannot be decoded: it is no JPEG$"],
    ),
    "more than its name of what was taken down": (
        in_index(of_status("rejected", code="purged")),
        ["was taken down, and still has .*duration_s, key, label, licence,", "by_code.duplicate", "by_code.purged"],
    ),
    "an index that is none": (
        lambda folder: put(folder / "index.parquet", b""),
        ["index.parquet: cannot be read", "counts"],
    ),
    "no index": (lambda folder: (folder / "index.parquet").unlink(), ["index.parquet: cannot be read", "counts"]),
    # dataset.json
    "another count": (
        in_manifest(lambda raw: raw["counts"].update(kept=9)),
        ["dataset.json: counts.kept is 9, and should be 8"],
    ),
    "a code that nobody has": (
        in_manifest(lambda raw: raw["counts"]["by_code"].update(static=1)),
        ["dataset.json: counts.by_code.static is 1, and should be None"],
    ),
    "another number of samples": (
        in_manifest(lambda raw: raw["splits"]["train"].update(samples=3)),
        ["dataset.json: splits.train.samples is 3, and should be 4"],
    ),
    "a shard too few": (
        in_manifest(lambda raw: raw["splits"]["train"]["shards"].pop()),
        [r"dataset.json: splits.train.shards is \['train-000000.tar'\], and should be"],
    ),
    "another class count": (
        in_manifest(lambda raw: raw["splits"]["train"]["per_class"].update(Sad=0)),
        ["dataset.json: splits.train.per_class.Sad is 0, and should be 3"],
    ),
    "another normalisation": (
        in_manifest(lambda raw: raw["normalization"]["mel_8k"]["std"].__setitem__(1, 1.5)),
        ["dataset.json: normalization of mel_8k is not that of the records"],
    ),
    "a normalisation too many": (
        in_manifest(lambda raw: raw["normalization"].update(frames={"mean": [0], "std": [1]})),
        [r"dataset.json: normalization is of \['frames', .*, the records have"],
    ),
    "another recipe than its hash": (
        in_manifest(lambda raw: raw["recipe"].update(denoise="a lot")),
        ["dataset.json: recipe_hash is"],
    ),
    "labels twice": (in_manifest(lambda raw: raw.update(labels=["Sad", "Sad"])), ["dataset.json: names a label twice"]),
    "another schema version": (
        in_manifest(lambda raw: raw.update(schema_version=9)),
        ["dataset.json: it is of schema ver"],
    ),
    "filters that are no settings": (
        in_manifest(lambda raw: raw["settings"].update(filters=["speech"])),
        ["dataset.json: has filters of another form than it should"],
    ),
    "a threshold in words": (
        in_manifest(lambda raw: raw["settings"].update(filters={"mode": "drop", "thresholds": {"speech": "low"}})),
        ["dataset.json: has a threshold that is no number"],
    ),
    "a version that is a number": (
        in_manifest(lambda raw: raw["versions"].update(numpy=2)),
        ["dataset.json: has versions of another form than it should"],
    ),
    "a manifest of another form": (
        in_manifest(lambda raw: raw.update(splits=[])),
        ["dataset.json: has splits of another"],
    ),
    "no manifest": (
        lambda folder: (folder / "dataset.json").unlink(),
        ["dataset.json: cannot be read: .*No such file"],
    ),
    # the folder
    "a stray tar": (
        lambda folder: put(folder / "train-000000 (copy).tar", b""),
        [r"train-000000 \(copy\).tar: is no shard"],
    ),
    "a half-written file": (
        lambda folder: put(folder / ".train-000009.tar.77.tmp", b"x"),
        [r"\.train-000009.tar.77.tmp: was left by a run that was killed"],
    ),
    "a record without shards": (
        in_record("train-000000", first(shard=None)),
        [r"train-000000.parquet: .* names shard None", r"index.parquet: .* is kept, with code None"],
    ),
    "a start that is endless": (
        in_record("train-000000", first(start_s=float("inf"))),
        ["train-000000.parquet: .* make the key None", "json says .* start_s"],
    ),
    "a column twice": (
        repeated_column,
        ["train-000000.parquet: has more than one column key", "names 2 samples of", "dataset.json: "],
    ),
    "a number beyond all numbers": (
        in_manifest(lambda raw: raw["normalization"]["mel_8k"]["std"].__setitem__(1, 10**400)),
        ["dataset.json: normalization of mel_8k is not that of the records"],
    ),
    "a number whose square is beyond them": (
        in_manifest(lambda raw: raw["normalization"]["mel_8k"]["std"].__setitem__(1, 1e300)),
        ["dataset.json: normalization of mel_8k is not that of the records"],
    ),
    "a tar that leads nowhere": (
        dangling,
        [
            "train-000000.tar: is no file",
            "train-000000.parquet: is the record of a tar",
            "names 2 samples",
            "dataset.json: ",
        ],
    ),
    "a log that is none": (
        lambda folder: put(folder / "purged.jsonl", b"rm -rf\n"),
        ["purged.jsonl: .* line 1 is no line"],
    ),
    "a name that was given up": (
        lambda folder: put(folder / "purged.jsonl", b'{"removed": {"val-000000.tar": "0"}}\n'),
        ["val-000000.tar: has the name of a shard that purged.jsonl says is gone"],
    ),
}


def test_a_sound_set_has_no_fault(standing, told):
    assert told(standing) == (0, [])
    assert not list(standing.rglob("*.tmp"))


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_told_with_its_file_and_sample(name, folder, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write, expected = FAULTS[name]
    write(folder)
    code, lines = told(folder)
    assert code == 1
    assert not Path("unpickled").exists()
    for words in expected:
        assert any(re.search(words, line) for line in lines), (words, lines)
    strays = [line for line in lines if not any(re.search(words, line) for words in expected)]
    assert not strays


def test_the_faults_are_many_more_than_twenty():
    assert len(FAULTS) > 80


@settings(max_examples=30)
@given(st.sampled_from(["train-000001.tar", "test-000000.tar"]), st.floats(0, 1, exclude_max=True), st.integers(0, 7))
def test_any_flipped_bit_of_any_tar_is_found(standing, tmp_path_factory, name, at, bit):
    folder = copy(standing, tmp_path_factory.mktemp("flipped") / "set")
    raw = bytearray((folder / name).read_bytes())
    raw[int(at * len(raw))] ^= 1 << bit
    put(folder / name, bytes(raw))
    assert any(fault.file == name for fault in verify.faults(folder, verify.Checked()))


@settings(max_examples=60)
@given(
    st.sampled_from(["train-000000.parquet", "index.parquet", "dataset.json"]),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=9)), min_size=1, max_size=5),
)
def test_whatever_stands_in_a_table_it_is_told_and_never_raised(standing, tmp_path_factory, name, scribbles):
    folder = copy(standing, tmp_path_factory.mktemp("scribbled") / "set")
    raw = bytearray((folder / name).read_bytes())
    for at, data in scribbles:
        place = int(at * len(raw))
        raw[place : place + len(data)] = data
    put(folder / name, bytes(raw))
    for fault in verify.faults(folder, verify.Checked()):
        assert "\n" not in str(fault)


@given(st.lists(st.tuples(st.integers(0, 511), st.integers(0, 255)), max_size=20), st.integers(0, 20_000))
def test_whatever_a_header_says_a_tar_is_read_or_refused(scribbles, length):
    raw = bytearray(tar_of([("a", {"json": b"{}"}), ("b", {"json": b"{}", "cls": b"1"})]))
    for at, byte in scribbles:
        raw[at] = byte
    raw[148:156] = b"%06o\0 " % (sum(raw[:148]) + sum(raw[156:512]) + 8 * 32)  # so that the header is believed
    with contextlib.suppress(TarError):
        for sample in read_samples(io.BytesIO(bytes(raw[:length]))):
            assert sample.num_bytes <= length


def test_no_more_than_a_sample_is_in_memory_whatever_a_tar_claims(tmp_path):
    with (tmp_path / "bomb.tar").open("wb") as stream:
        info = tarfile.TarInfo("a.mel_8k.npy")
        info.size = 1 << 30
        stream.write(info.tobuf(tarfile.USTAR_FORMAT))
        stream.truncate(2 << 30)  # sparse: it takes no room
    tracemalloc.start()
    with (tmp_path / "bomb.tar").open("rb") as stream, pytest.raises(TarError, match="claims 1073741824 bytes"):
        list(read_samples(stream))
    assert tracemalloc.get_traced_memory()[1] < MAX_MEMBER_BYTES
    tracemalloc.stop()


def test_a_set_of_sound_and_picture_without_labels_is_sound_and_its_faults_are_found(tmp_path, told):
    clips = [Clip(name=f"youtube:abcdefghij{n}", label=None) for n in range(3)]
    build(tmp_path / "set", clips, modality="both")
    assert told(tmp_path / "set") == (0, [])
    forged(member("frames.npy", lambda raw: raw[:-1] + bytes([raw[-1] ^ 1])), name="unlabeled-000000")(tmp_path / "set")
    forged(member("cls", b"0"), name="unlabeled-000001")(tmp_path / "set")
    code, lines = told(tmp_path / "set")
    assert code == 1
    assert [line.split(": ", 2)[2] for line in lines] == [
        "frames.npy has another mean or mean square than its record says",
        "has a member cls, which no sample of this set has",
    ]


def test_a_set_of_an_earlier_release_is_sound_without_the_columns_that_it_lacks(folder, told):
    later = [
        "sample_sha256",
        "sample_offset",
        "sample_bytes",
        "thumbnail",
        "duplicate_of",
        "flagged",
        "loudness_db",
        "music_share",
    ]
    for file in folder.glob("*.parquet"):
        table = pq.read_table(file).drop_columns(later)
        file.unlink()
        pq.write_table(table, file)
    assert told(folder) == (0, [])
    flip("train-000000.tar", 0.3)(folder)
    code, lines = told(folder)
    assert code == 1
    assert re.search(OTHER_HASH, lines[-1])


def test_a_sample_s_hash_is_that_of_names_and_bytes_in_their_order(standing):
    row = shards.read_rows(standing / "train-000000.parquet")[0]
    digest = hashlib.sha256()
    with tarfile.open(standing / "train-000000.tar") as tar:
        for info in tar:
            if info.name.startswith(row["key"]):
                data = tar.extractfile(info).read()
                digest.update(info.name.encode() + b"\0" + len(data).to_bytes(8, "little") + data)
    assert row["sample_sha256"] == digest.hexdigest()
    raw = (standing / "train-000000.tar").read_bytes()[row["sample_offset"] :][: row["sample_bytes"]]
    (alone,) = read_samples(io.BytesIO(raw + bytes(1024)))
    assert (alone.key, alone.sha256) == (row["key"], row["sample_sha256"])
    index = {r["key"]: r["sample_sha256"] for r in shards.read_rows(standing / "index.parquet")}
    assert index[row["key"]] == row["sample_sha256"]


def test_a_page_reads_no_more_of_a_tar_than_the_clips_that_it_shows(standing, tmp_path):
    rows = [row for row in pq.read_table(standing / "index.parquet").to_pylist() if row["status"] == "kept"]
    shard = "train-000000.tar"
    *others, last = sorted((row for row in rows if row["shard"] == shard), key=lambda row: row["sample_offset"])
    assert others
    raw = bytearray((standing / shard).read_bytes())
    raw[: last["sample_offset"]] = bytes([0xAA]) * last["sample_offset"]
    (tmp_path / shard).write_bytes(raw)
    read = clips.read_samples(tmp_path, rows, members=["mel_8k"])
    assert list(read) == [last["key"]]
    whole = clips.read_samples(standing, [row | {"sample_offset": None} for row in rows], members=["mel_8k"])
    np.testing.assert_array_equal(read[last["key"]].arrays["mel_8k"], whole[last["key"]].arrays["mel_8k"])
    forged = [last | {"sample_offset": -1}, last | {"sample_bytes": 1 << 40}, last | {"sample_bytes": 700}]
    assert [clips.read_samples(standing, [row], members=["mel_8k"]) for row in forged] == [{}, {}, {}]


def test_verifying_writes_nothing(standing, told):
    before = {file: (file.stat().st_mtime_ns, file.stat().st_ino) for file in standing.rglob("*")}
    assert told(standing) == (0, [])
    assert {file: (file.stat().st_mtime_ns, file.stat().st_ino) for file in standing.rglob("*")} == before


WRONG_FIELDS: list[dict] = [
    {"keys": 5},
    {"keys": [[]]},
    {"rows": ["x"]},
    {"rows": [{"link": None}]},
    {"rows": [{"source_id": "x", "link": 5}]},
    {"splits": []},
    {"splits": {"train": "1"}},
    {"rewritten": 5},
    {"emptied": ["train-000000.tar"]},
    {"rewritten": {"train-000000.tar": None}},
    {"when": None},
    {"reason": 5},
]


def journal_with(folder: Path, **wrong: object) -> None:
    sound = {"when": "", "reason": None, "rows": [], "keys": [], "splits": {}, "rewritten": {}, "emptied": {}}
    put(folder / ".build/purge.json", json.dumps(sound | wrong).encode())


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: [file.unlink() for file in folder.iterdir() if file.is_file()], "holds no data set; build one"),
        (lambda folder: put(folder / ".build/plan.parquet", b""), "stopped while it packed; run the same build again"),
        (lambda folder: put(folder / ".build/purge.json", b"{}"), "is no journal of a purge"),
        *((partial(journal_with, **wrong), "is no journal of a purge") for wrong in WRONG_FIELDS),
    ],
)
def test_a_mistake_is_one_line(spoil, words, folder, capsys):
    spoil(folder)
    assert verify.main([str(folder)]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    assert words in captured.err


def test_a_set_that_is_being_written_is_left_alone_and_one_half_prepared_is_not(folder, told, capsys):
    with single_writer(folder / ".build", doing="building", flag="--out"):
        assert verify.main([str(folder)]) == 2
    assert "another process is writing" in capsys.readouterr().err
    put(folder / ".build/part-0.tar", b"")
    assert told(folder) == (0, [])
