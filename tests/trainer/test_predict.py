"""The real command on real files: from a video to its curve."""

import csv
import functools
import gc
import io
import json
import os
import queue
import re
import shutil
import signal
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline import media
from pipeline.clips import ClipSpan
from pipeline.prepare import Recipe, features
from trainer import predict, videos
from trainer.checkpoint import latest
from trainer.inputs import Inputs
from trainer.trained import open_trained

CHANGING = "testsrc2=size=160x90:rate=12,hue=h=30*t"
RISING = "aevalsrc='0.4*sin(2*PI*(200+20*t)*t)':s=44100"
FLOATS = ("-c:a", "pcm_f32le")
STREAMABLE = ("-movflags", "+faststart")


@pytest.fixture(scope="module")
def film(tmp_path_factory, make_media):
    return make_media(
        tmp_path_factory.mktemp("film") / "a song.mp4", picture=CHANGING, sound=RISING, seconds=61, extra=STREAMABLE
    )


@pytest.fixture(scope="module")
def run(runs, tmp_path_factory):
    """A fine-tuned run that was trained with modality dropout, as far as anybody can see."""
    copy = tmp_path_factory.mktemp("run") / "run"
    shutil.copytree(runs / "finetuned", copy)
    config = json.loads((copy / "config.json").read_text())
    config["train"]["modality_dropout"] = 0.2
    (copy / "config.json").write_text(json.dumps(config))
    path = latest(copy, "best") / "state.json"
    state = json.loads(path.read_text())
    for read, change in [("audio", 0.5), ("video", -0.5)]:
        both = state["sigmoids"]["both"]
        state["sigmoids"][read] = both | {"offsets": [offset + change for offset in both["offsets"]]}
    path.write_text(json.dumps(state))
    return copy


@pytest.fixture(scope="module")
def done(film, run, tmp_path_factory):
    out = tmp_path_factory.mktemp("curves") / "song"
    predict.main([str(film), "--run", str(run), "--every", "10", "--out", str(out)])
    return out


def read_json(out):
    return json.loads((out / "curve.json").read_text(encoding="utf-8"))


def test_curve_json_tells_windows_scores_and_where_they_come_from(done, run):
    curve = read_json(done)
    labels = open_trained(run).labels
    assert curve["labels"] == labels
    assert curve["starts_s"] == [0, 10, 20, 30]
    assert curve["times_s"] == [15, 25, 35, 45]
    assert (curve["window_s"], curve["every_s"]) == (30, 10)
    for said in (curve, curve["modalities"]["audio"], curve["modalities"]["video"]):
        scores, probabilities = np.array(said["scores"]), np.array(said["probabilities"])
        assert scores.shape == probabilities.shape == (4, len(labels))
        assert ((scores > 0) & (scores < 1)).all()
        np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    mean = dict(zip(labels, np.array(curve["probabilities"]).mean(0), strict=True))
    assert curve["verdict"]["probabilities"] == pytest.approx(mean, abs=1e-5)
    assert curve["verdict"]["label"] == max(mean, key=mean.get)
    assert (curve["title"], curve["source"], curve["run"]) == ("a song", "a song.mp4", run.name)
    assert curve["problems"] == []
    assert curve["sigmoids"] == {read: one.as_dict() for read, one in open_trained(run).sigmoids.items()}
    for read, one in open_trained(run).sigmoids.items():
        said = curve if read == "both" else curve["modalities"][read]
        np.testing.assert_allclose(said["scores"], one(np.array(said["probabilities"])), atol=1e-3)  # of six decimals
    assert str(run.parent) not in (done / "curve.json").read_text()


def test_a_windows_numbers_are_those_of_the_sample_that_a_shard_would_hold(done, film, run, monkeypatch):
    """One window cut, prepared and judged by hand."""
    monkeypatch.setattr(media, "LEADS_S", ())  # decoded from the start: a resampler that begins elsewhere differs
    trained = open_trained(run)
    clip = media.decode_clip(film, ClipSpan(start_s=20.0), media.probe(film), with_small=False, with_print=False)
    arrays, _ = features(clip, recipe=Recipe(**trained.config.recipe))
    specs = trained.classifier.encoder.inputs
    to_inputs = Inputs(specs, trained.config.normalization, torch.device("cpu"))
    with torch.inference_mode():
        logits = trained.classifier(to_inputs({name: torch.from_numpy(a[None]) for name, a in arrays.items()}))
    probabilities = logits.double().softmax(1).numpy()
    curve = read_json(done)
    np.testing.assert_allclose(curve["probabilities"][2], probabilities[0], atol=1e-5)
    np.testing.assert_allclose(curve["scores"][2], trained.sigmoids["both"](probabilities)[0], atol=1e-5)


def test_table_and_subtitles_say_the_same(done):
    curve = read_json(done)
    rows = list(csv.DictReader(io.StringIO((done / "curve.csv").read_text(encoding="utf-8"))))
    assert len(rows) == 4
    for row, scores, alone in zip(rows, curve["scores"], curve["modalities"]["audio"]["scores"], strict=True):
        assert [float(row[label]) for label in curve["labels"]] == scores
        assert [float(row[f"audio_{label}"]) for label in curve["labels"]] == alone
    blocks = (done / "curve.srt").read_text(encoding="utf-8").strip().split("\n\n")
    stamps = [re.findall(r"00:(\d\d):(\d\d),(\d\d\d)", block) for block in blocks]
    seconds = [[int(m) * 60 + int(s) + int(ms) / 1000 for m, s, ms in stamp] for stamp in stamps]
    assert seconds == [[0, 20], [20, 30], [30, 40], [40, pytest.approx(60, abs=0.6)]]
    for block, scores in zip(blocks, curve["scores"], strict=True):
        best = curve["labels"][int(np.argmax(scores))]
        assert block.splitlines()[2].startswith(f"{best} {max(scores):.0%}")


def test_the_picture_shows_the_video_under_the_axis(done):
    with Image.open(done / "curve.png") as picture:
        colours = np.asarray(picture.convert("RGB"))
    strip = colours[int(0.8 * len(colours)) : int(0.88 * len(colours)), 200:-200].reshape(-1, 3)
    assert len(np.unique(strip // 32, axis=0)) > 20  # a test picture has many colours, an axis has few


def test_the_video_plays_in_a_page_unless_nobody_wants_one(done, film, run, tmp_path, capsys):
    curves = {"curve.json", "curve.csv", "curve.srt", "curve.png"}
    assert {path.name for path in done.iterdir()} == curves | {"player.html"}
    assert "made anew: picture" in (done / "player.html").read_text()  # MPEG-4, which no browser plays
    predict.main([str(film), "--run", str(run), "--every", "30", "--player", "none", "--out", str(tmp_path / "out")])
    assert {path.name for path in (tmp_path / "out").iterdir()} == curves
    assert "out/curve.png\n" in capsys.readouterr().out


def test_no_curve_of_a_modality_that_the_network_never_had_to_do_without(film, runs, tmp_path, capsys):
    predict.main([str(film), "--run", str(runs / "finetuned"), "--every", "30", "--out", str(tmp_path / "out")])
    curve = read_json(tmp_path / "out")
    assert curve["modalities"] == {}
    assert "--modality-dropout" in curve["modalities_reason"]
    assert "no curves of sound or picture alone: " in capsys.readouterr().out


def test_a_video_without_sound_needs_a_run_that_can_do_without(run, runs, tmp_path, make_media, refused):
    mute = make_media(tmp_path / "mute.mp4", sound=None, seconds=31)
    line = refused(predict.main, mute, "--run", runs / "finetuned", "--out", tmp_path / "out")
    assert "mute.mp4 has no sound" in line
    assert "--modality-dropout" in line
    assert not (tmp_path / "out").exists()
    predict.main([str(mute), "--run", str(run), "--out", str(tmp_path / "out")])
    curve = read_json(tmp_path / "out")
    assert curve["read"] == "video"
    video = open_trained(run).sigmoids["video"]
    assert curve["sigmoids"] == {"video": video.as_dict()}
    np.testing.assert_allclose(curve["scores"], video(np.array(curve["probabilities"])), atol=1e-3)
    assert curve["modalities_reason"] == "the video has video alone"


def test_of_a_folder_each_file_gets_its_curve_and_each_failure_its_line(film, run, tmp_path, make_media, capsys):
    folder, out = tmp_path / "videos", tmp_path / "curves"
    (folder / "b").mkdir(parents=True)
    shutil.copy(film, folder / "b" / "song.mp4")
    make_media(folder / "brief.mp4", seconds=5)
    (folder / "broken.webm").write_bytes(b"no media at all" * 100)
    (folder / "notes.txt").write_text("no video by its name")
    (folder / os.fsdecode(b"caf\xe9.mp4")).write_bytes(b"")
    (folder / "._song.mp4").write_bytes(b"beside each file that macOS copies")
    unfinished = folder / "earlier" / ".unfinished" / "player-1"  # of a prediction that was killed
    unfinished.mkdir(parents=True)
    shutil.copy(film, unfinished / "playable.mp4")
    with pytest.raises(SystemExit) as stop:
        predict.main([str(folder), "--run", str(run), "--every", "30", "--out", str(out)])
    assert stop.value.code == 2
    said = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in said] == ["warning", "warning", "warning", "error"]
    assert "brief.mp4: 5" in said[0]
    assert "broken.webm: " in said[1]
    assert said[2] == f"warning: {folder}/caf\\udce9.mp4: this name is not in UTF-8; rename the file"
    assert said[3] == f"error: 3 of the files in {folder} failed, as told above; the others are in {out}"
    assert {path.name for path in out.rglob("*") if path.is_dir()} == {"b", "song.mp4"}
    assert read_json(out / "b" / "song.mp4")["starts_s"] == [0, 30]


def test_a_video_that_breaks_off_is_told_as_far_as_it_goes(run, tmp_path, make_media, capsys):
    whole = make_media(tmp_path / "whole.mkv", picture=CHANGING, sound=RISING, seconds=90)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    predict.main([str(cut), "--run", str(run), "--every", "30", "--out", str(tmp_path / "out")])
    told = read_json(tmp_path / "out")["problems"]
    assert len(told) == 1
    assert re.search(r"cut.mkv: only \d\d of 90 s could be decoded", told[0])
    assert told[0] in capsys.readouterr().err
    assert str(tmp_path) not in (tmp_path / "out" / "curve.json").read_text()


@pytest.mark.parametrize("batch_size", [1, 4])
def test_windows_before_a_fault_are_judged_however_many_at_a_time(run, tmp_path, make_media, batch_size, capsys):
    loud = tmp_path / "loud.wav"
    make_media(loud, picture=None, sound="aevalsrc='if(gt(t,43),1e9,sin(900*t))'", seconds=58, extra=FLOATS)
    predict.main([str(loud), "--run", str(run), "--batch-size", str(batch_size), "--out", str(tmp_path / "out")])
    curve = read_json(tmp_path / "out")
    assert curve["starts_s"] == [0, 5, 10]
    assert "louder than any sound" in curve["problems"][0]
    assert "only 40 of 58 s" in curve["problems"][1]


def test_a_picture_that_goes_on_without_sound_is_told(run, tmp_path, make_media, capsys):
    uneven = make_media(tmp_path / "uneven.mp4", sound="sine=sample_rate=44100:duration=31", seconds=45)
    predict.main([str(uneven), "--run", str(run), "--player", "none", "--out", str(tmp_path / "out")])
    (told,) = read_json(tmp_path / "out")["problems"]
    assert told == "uneven.mp4: the sound ends after 31 s, while the picture goes on"
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["missing.mp4"], "there is no such file"),
        (["{film}", "--every", "0.3"], "--every 0.3: give a multiple of 0.5"),
        (["{film}", "--every", "-5"], "give a multiple of 0.5"),
        (["{film}", "--run", "{pretrained}"], "a finetune run is needed here"),
        (["{empty}"], "holds no file with a name of sound or video"),
        (["http://127.0.0.1:9/x.mp4"], "127.0.0.1"),
        (["HTTP://127.0.0.1:9/x.mp4"], "http://127.0.0.1:9/x.mp4: "),
        (["x" * 300], "File name too long"),
        (["-song.mp4"], "give ./-song.mp4"),
        (["{film}", "--out", "{film}", "--run", "refused later"], "is no folder"),
        (["{film}", "--out", "x" * 300, "--run", "refused later"], "File name too long"),
        (["{empty}", "--out", "{empty}", "--run", "refused later"], "is the folder of the videos"),
    ],
)
def test_a_mistake_gets_one_line(words, line, film, run, runs, tmp_path, refused):
    (tmp_path / "empty").mkdir()
    names = {"film": film, "pretrained": runs / "pretrained", "empty": tmp_path / "empty"}
    defaults = ["--run", run, "--every", "30", "--out", tmp_path / "out"]
    assert line in refused(predict.main, *defaults, *(word.format(**names) for word in words))


def test_the_newest_run_that_has_validated_is_taken(film, runs, tmp_path, capsys):
    predict.main([str(film), "--runs", str(runs), "--every", "30", "--out", str(tmp_path / "out")])
    assert f"run: {runs / 'finetuned'}, " in capsys.readouterr().out


# yt-dlp leaves answers that it did not read to the garbage collector, which closes them here and nowhere else.
@pytest.mark.filterwarnings("ignore:Exception ignored in.*socket:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_a_link_is_fetched_whole_by_the_crawler(film, run, tmp_path, refused):
    handler = functools.partial(_Quiet, directory=str(film.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        link = f"http://127.0.0.1:{server.server_port}/a%20song.mp4"
        out = tmp_path / "out"
        assert "allow" in refused(predict.main, link, "--run", run, "--out", out)
        predict.main([link, "--run", str(run), "--every", "30", "--allow-private", "--out", str(out)])
        server.shutdown()
    curve = read_json(out)
    assert curve["starts_s"] == [0, 30]
    assert curve["source"] == link
    gc.collect()


# Converts for ever, after it has had its parent told to stop.
_HANGING = """#!/bin/sh
case "$*" in *playable.mp4*)
    echo $$ > {pid}
    sleep 0.5  # until Popen has returned: a signal that comes in it finds no child to end
    kill -TERM $PPID
    exec sleep 600
esac
exec {ffmpeg} "$@"
"""


def test_sigterm_ends_it_as_ctrl_c_does_and_its_encoder_with_it(film, run, tmp_path, monkeypatch, capsys):
    def die(number, frame):
        raise AssertionError("nobody else heeds it")

    hanging, out = tmp_path / "ffmpeg", tmp_path / "out"
    hanging.write_text(_HANGING.format(pid=tmp_path / "pid", ffmpeg=media.ffmpeg_exe()))
    hanging.chmod(0o700)
    monkeypatch.setattr(media, "ffmpeg_exe", lambda: str(hanging))
    before = signal.signal(signal.SIGTERM, die)
    try:
        with pytest.raises(SystemExit) as stop:
            predict.main([str(film), "--run", str(run), "--every", "30", "--out", str(out)])
        assert signal.getsignal(signal.SIGTERM) is die
    finally:
        signal.signal(signal.SIGTERM, before)
    assert stop.value.code == 128 + signal.SIGTERM
    said = capsys.readouterr()
    assert said.err.splitlines()[-1] == "error: interrupted"
    assert said.out.splitlines()[-1] == "making a song.mp4 playable for browsers"
    assert list(out.iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_how_much_of_a_link_is_there_is_told_while_it_comes(tmp_path, monkeypatch):
    monkeypatch.setattr(videos, "LOOK_S", 0.001)
    (tmp_path / "clip.mkv.part").write_bytes(bytes(1234))
    told = queue.SimpleQueue()
    with videos._looking(tmp_path, told.put):
        assert told.get(timeout=60) == 1234


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *words):
        pass
