"""The whole road in ten minutes: music videos, shards, a pretrained and a fine-tuned network, scores, an emotion curve.

    make demo                              music from Debian's archive, made into 32 short videos with moving pictures
    make demo MEDIA=folder                 your own videos: a set without labels, and pretraining
    make demo MEDIA=folder LABELS=mved     MVED's layout, <split>/<class>/file, which is also found without being told
    make demo MEDIA=folder LABELS=file     a CSV with columns file, label, [split], [group]

Everything lands in demo/, which git ignores. Started again, it goes on with what stands there; each command is shown
as it is run and can be run alone. Labels are taken from the titles of the pieces, for this demo alone: what a composer
calls a piece is no annotation, and a tiny network on 32 clips shows that the road is open, not how far it leads.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow.parquet as pq
import tyro
from tqdm import tqdm

from pipeline.errors import UserError
from pipeline.sources import list_sources
from scripts.music import MOODS, UNLABELLED, fetch_music
from scripts.serve import HOST, PortTakenError, serving
from scripts.steps import ROOT, Report, StepError, python, read_json, run, write_whole
from scripts.visuals import STYLES, VIDEO_S, RenderError, Video, render, render_command

DEMO = Path("demo")  # relative to ROOT, as all paths below: so the commands shown are short

SONG = "song.mp4"
SONG_S = 150.0  # of the video whose emotion is told over time; the shortest piece lasts 162 s
STRETCHES_S = (5.0, 85.0)  # where the two videos of a piece begin; the shortest piece lasts 162 s
PORT = 8765  # fixed: a link is part of a clip's identity, so another port would make another clip
PRETRAIN_STEPS, FINETUNE_STEPS = 60, 24  # of 0.2 to 0.5 s each on two cores
PRETRAIN_LR, FINETUNE_LR = 3e-3, 1e-3  # so few steps of so small a network must be large ones
BATCH = 4
# Package 153 MB, music 106 MB, videos 136 MB, clips 50 MB, shards 160 MB and as much for parts, runs 10 MB.
MIN_FREE_BYTES = 1_000_000_000


def main(media: str = "", labels: str = "") -> None:
    """Run the demo.

    Args:
        media: A folder of your own videos; without one, videos are made of free music.
        labels: For your own videos: `mved`, or a CSV with columns file, label, [split], [group].
    """
    os.chdir(ROOT)
    report = Report()
    try:
        if labels and not media:
            raise StepError("LABELS goes with MEDIA=folder: the music's labels are its titles")
        if media:
            folder, sets = of_own_videos(Path(media), labels or None, report)
        else:
            folder, sets = of_music(report)
        train(folder, sets, report)
        if "labelled" in sets:
            predict(folder, str(Path(media) / first_kept(folder) if media else folder / SONG), report)
    except (StepError, RenderError, UserError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("demo: interrupted; `make demo` goes on from here", file=sys.stderr)
        raise SystemExit(130) from None
    print(f"\n{report.table()}\n")
    print(closing_words(folder, sets, own=bool(media)))


# --- music, videos, links ----------------------------------------------------------------------------------------


def of_music(report: Report) -> tuple[Path, list[str]]:
    """Music to videos to links to sets of shards; return their folder and names."""
    DEMO.mkdir(exist_ok=True)
    require_space(DEMO)
    music, folder = DEMO / "music", DEMO / "videos"
    with report.step("music", music) as made:
        made.append(fetch_music(music))
    with report.step("videos", folder) as made:
        made.append(make_videos(videos(), music, folder))
        make_videos([whole_song()], music, DEMO)
    links = {kind: DEMO / f"links-{kind}.txt" for kind in ("unlabeled", "labelled")}
    earlier = port_of(links["labelled"])
    try:
        with serving(folder, earlier or PORT, any_port=earlier is None) as port:
            write_links(links, DEMO / "labels.csv", port)
            print(f"\nserving {folder} at http://{HOST}:{port}/, from where yt-dlp fetches the links", flush=True)
            # Our own server, on this machine: no pauses are due to it, and the proxy is told that it may be reached.
            crawl = ["--store", str(DEMO / "crawl"), "--allow-private", "--sleep-s", "0", "0"]
            build(report, "unlabeled", source=links["unlabeled"], folder=DEMO, words=crawl)
            words = ["--labels", str(DEMO / "labels.csv"), "--split", "grouped", *crawl]
            build(report, "labelled", source=links["labelled"], folder=DEMO, words=words)
    except PortTakenError as error:
        raise StepError(
            f"{error}, and the links in {DEMO} name it: free it, or remove {DEMO}/ to begin anew"
        ) from error
    return DEMO, ["unlabeled", "labelled"]


def videos() -> list[Video]:
    """Videos wanted: two of each piece with a mood, one of the others.

    Each mood gets each style of picture once, so that no style tells a mood.
    """
    made = []
    styles = list(STYLES)
    for pieces in (*MOODS.values(), UNLABELLED):
        stretches = STRETCHES_S if pieces is not UNLABELLED else STRETCHES_S[:1]
        starts = [(piece, start_s) for start_s in stretches for piece in pieces]
        for style, (piece, start_s) in zip(styles, starts, strict=True):
            name = f"{piece.replace('_', '-')}-at-{start_s:g}-s"
            seed = int(hashlib.sha256(name.encode()).hexdigest(), 16) % 360
            made.append(Video(name=name, piece=piece, start_s=start_s, style=style, seed=seed))
        styles = styles[1:] + styles[:1]
    return made


def whole_song() -> Video:
    """A longer one, of a piece without a mood, that no set holds."""
    return Video(
        name=Path(SONG).stem, piece=UNLABELLED[0], start_s=0.0, style=next(iter(STYLES)), seed=0, length_s=SONG_S
    )


def make_videos(wanted: Sequence[Video], music: Path, folder: Path) -> str:
    """Make the videos that are not there yet, one a core at a time."""
    folder.mkdir(exist_ok=True)
    missing = [video for video in wanted if not (folder / f"{video.name}.mp4").exists()]

    def make(video: Video) -> None:
        render(video, music=music / f"{video.piece}.ogg", target=folder / f"{video.name}.mp4")

    if missing:
        one = missing[0]
        words = render_command(one, music=music / f"{one.piece}.ogg", target=folder / f"{one.name}.mp4")
        print(f"$ {shlex.join(words)}\n   and so on, {len(missing)} in all", flush=True)
        pool = ThreadPoolExecutor(max_workers=os.cpu_count() or 1)
        try:
            for _ in tqdm(pool.map(make, missing), total=len(missing), unit="video", disable=None):
                pass
        finally:
            pool.shutdown(cancel_futures=True)
    there = len(wanted) - len(missing)
    return f"{len(wanted)} videos of {VIDEO_S:g} s" + (f", {there} of them there already" if there else "")


def port_of(links: Path) -> int | None:
    """Port that the links of an earlier start name: clips are known by their links."""
    if not links.exists():
        return None
    return urlsplit(links.read_text().split("\n", 1)[0]).port


def write_links(links: dict[str, Path], labels: Path, port: int) -> None:
    """Write the two lists of links and the labels."""
    mood_of = {piece: mood for mood, pieces in MOODS.items() for piece in pieces}
    link_of = {video.name: f"http://{HOST}:{port}/{video.name}.mp4" for video in videos()}
    for kind, file in links.items():
        lines = [link_of[v.name] for v in videos() if (v.piece in mood_of) == (kind == "labelled")]
        write_whole(file, "".join(f"{line}\n" for line in lines))
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["link", "label", "group"])  # both videos of a piece go into one split
    writer.writerows([link_of[v.name], mood_of[v.piece], v.piece] for v in videos() if v.piece in mood_of)
    write_whole(labels, table.getvalue())


def require_space(folder: Path) -> None:
    """Say at the start that the disk will not do."""
    free = shutil.disk_usage(folder).free
    if free < MIN_FREE_BYTES and not (folder / "shards").exists():
        raise StepError(f"{folder.resolve()} has {free / 1e9:.1f} GB free, the demo needs {MIN_FREE_BYTES / 1e9:g} GB")


# --- your own videos ---------------------------------------------------------------------------------------------


def of_own_videos(media: Path, labels: str | None, report: Report) -> tuple[Path, list[str]]:
    """A folder's videos to one set of shards, labelled if it can be; return its folder and name."""
    if not media.is_dir():
        raise StepError(f"MEDIA={media}: no such folder")
    if labels not in (None, "mved") and not Path(labels).is_file():
        raise StepError(f"LABELS={labels}: no such file; give `mved`, or a CSV with columns file and label")
    if labels is None and any(source.problem is None for source in list_sources(str(media), labels="mved")):
        print(f"{media} has MVED's layout, <split>/<class>/file: its labels are used")
        labels = "mved"
    name = re.sub(r"[^a-z0-9]+", "-", media.resolve().name.lower()).strip("-") or "videos"
    folder = DEMO / f"{name}-{hashlib.sha256(str(media.resolve()).encode()).hexdigest()[:6]}"
    folder.mkdir(parents=True, exist_ok=True)
    if labels is None:
        build(report, "unlabeled", source=media, folder=folder)
        return folder, ["unlabeled"]
    print("one set is built: pretraining reads its training split without labels, so that no test clip is seen")
    build(report, "labelled", source=media, folder=folder, words=["--labels", labels])
    return folder, ["labelled"]


# --- steps -------------------------------------------------------------------------------------------------------


def build(report: Report, name: str, *, source: Path, folder: Path, words: Sequence[str] = ()) -> None:
    """Bring one set of shards up to date."""
    out = folder / "shards" / name
    with report.step(f"shards, {name}", out) as made:
        words = ["--source", str(source), "--out", str(out), *words]
        changed = run([*python("flows.build_shards"), *words], makes=out / "index.parquet")
        counts = read_json(out / "dataset.json")["counts"]
        lost = [f"{counts[status]} {status}" for status in ("rejected", "failed") if counts[status]]
        made.append(", ".join([f"{counts['kept']} clips", *lost, *already(changed)]))


def train(folder: Path, sets: Sequence[str], report: Report) -> None:
    """Pretrain on the first set; fine-tune and score on the labelled one, if there is one."""
    shards, runs = folder / "shards", folder / "runs"
    pretrained, finetuned = runs / "pretrain", runs / "finetune"
    common = ["--preset", "tiny", "--batch-size", str(BATCH), "--resume"]
    with report.step("pretrain", pretrained) as made:
        steps = ["--max-steps", str(PRETRAIN_STEPS), "--lr", str(PRETRAIN_LR)]
        words = ["--shards", str(shards / sets[0]), "--out", str(pretrained), *steps, *common]
        changed = run([*python("trainer.pretrain"), *words], makes=pretrained / "log.jsonl")
        made += [f"{PRETRAIN_STEPS} steps, slow-fast, tiny", *already(changed)]
    if "labelled" not in sets:
        return
    labelled = shards / "labelled"
    with report.step("fine-tune", finetuned) as made:
        steps = ["--max-steps", str(FINETUNE_STEPS), "--lr", str(FINETUNE_LR), "--eval-every", str(FINETUNE_STEPS // 4)]
        steps += ["--init", str(pretrained)]
        words = ["--shards", str(labelled), "--out", str(finetuned), *steps, *common]
        changed = run([*python("trainer.finetune"), *words], makes=finetuned / "log.jsonl")
        made += [f"{FINETUNE_STEPS} steps from pretrained", *already(changed)]
    splits = read_json(labelled / "dataset.json")["splits"]
    split = next((name for name in ("test", "val", "train") if splits.get(name, {}).get("samples")), "test")
    if split != "test":
        print(f"\nthe set has no test split; scoring on {split}, which flatters")
    with report.step("evaluate", finetuned / "metrics.json") as made:
        words = ["--run", str(finetuned), "--shards", str(labelled), "--split", split]
        run([*python("trainer.evaluate"), *words])
        metrics = read_json(finetuned / "metrics.json")
        made.append(f"accuracy {metrics['accuracy']:.2f} on {metrics['n']} {split} clips")


def first_kept(folder: Path) -> str:
    """Name the file that the labelled set's first clip is of."""
    columns = ["source_id", "status"]
    rows = pq.read_table(folder / "shards" / "labelled" / "index.parquet", columns=columns).to_pylist()
    return str(next(row["source_id"] for row in rows if row["status"] == "kept"))


def predict(folder: Path, song: str, report: Report) -> None:
    """Tell the emotion of a whole video over time."""
    out = folder / "curve"
    with report.step("predict", out) as made:
        words = [song, "--run", str(folder / "runs" / "finetune"), "--out", str(out)]
        run([*python("trainer.predict"), *words])
        made.append(f"{len(read_json(out / 'curve.json')['times_s'])} windows of {song}")


def already(changed: bool) -> list[str]:
    """Words for a step that found everything done."""
    return [] if changed else ["there already"]


def closing_words(folder: Path, sets: Sequence[str], *, own: bool) -> str:
    """What to look at."""
    runs = folder / "runs"
    lines = [f"{folder}/shards/{name}/report.html: what the set holds, and what was left out and why" for name in sets]
    lines.append(f"{runs}/pretrain/report.html: what pretraining learned of each channel, with pictures")
    if "labelled" in sets:
        lines.append(f"{runs}/finetune/report.html: the scores, the curves, and beside it metrics.json and pictures")
        lines.append(f"{folder}/curve/player.html: a whole video beside its emotions over time")
        low, high = read_json(runs / "finetune" / "metrics.json")["accuracy_interval"]
        lines.append(f"The accuracy's 95% interval is {low:.2f} to {high:.2f}.")
    else:
        lines.append("Left out: fine-tuning and scores, which need labels: LABELS=mved, or LABELS=file with file,label")
    if not own:
        lines.append(
            "The labels are moods read off the titles of the pieces: for this demo alone, and no truth. A tiny"
        )
        lines.append("network, few steps and few clips show that the road is open, not how far it leads.")
    return "\n".join(lines)


if __name__ == "__main__":
    tyro.cli(main, prog="python -m scripts.demo", description=__doc__)
