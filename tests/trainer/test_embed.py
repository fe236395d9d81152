"""The real commands: a set embedded, its nearest neighbours, and its map in a browser."""

import base64
import io
import json
import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from tests.pages import chromium
from trainer import embed, nearest, pretrain
from trainer.checkpoint import latest, load_weights
from trainer.embedder import open_embedder
from trainer.embeddings import DESCRIBED, FILES, VectorFile, open_embeddings, vector_file, with_places
from trainer.inputs import Inputs
from trainer.layout import MAX_POINTS, chosen_rows, lay_out
from trainer.loader import Loader
from trainer.models.blocks import global_average
from trainer.models.presets import build_encoder, config_from_dict
from trainer.neighbours import content_similarity, emotion_distance, nearest_each
from trainer.order import Order
from trainer.page import html
from trainer.runs import read_config
from trainer.shards import ShardSet, keys_of
from trainer.thumbnails import Thumbnails
from trainer.trained import open_trained

HOSTILE = (
    "</script><script>document.title='broken'</script><img src=x onerror=alert(1)>\"' {{ 7*7 }} \u202e\u2028\x1b[31m"
)


def described(root, change):
    """Rewrite what a set's commit records say of its samples."""
    for path in root.glob("*-*.parquet"):
        table = pq.read_table(path)
        rows = table.to_pylist()
        for row in rows:
            row.update(change(row))
        pq.write_table(type(table).from_pylist(rows, schema=table.schema), path)


@pytest.fixture(scope="module")
def songs(sets, tmp_path_factory):
    """The labelled set, with titles, two clips of one song, and a title that tries to break out."""
    root = tmp_path_factory.mktemp("songs") / "mved"
    shutil.copytree(sets / "mved", root)
    groups = {"train/0.mp4": "song", "train/3.mp4": "song", "test/5.mp4": "song"}
    titles = {"test/2.mp4": HOSTILE, "test/3.mp4": "A Long Walk", "val/0.mp4": "long ago", "val/1.mp4": None}
    links = {"test/2.mp4": "javascript:alert(1)", "test/3.mp4": "https://example.org/watch?v=1"}
    described(
        root,
        lambda row: {
            "title": titles.get(row["source_id"], row["source_id"]),
            "link": links.get(row["source_id"], row["source_id"]),
            "source_group": groups.get(row["source_id"], row["source_id"]),
            "start_s": 12.5,
        },
    )
    return root


@pytest.fixture(scope="module")
def done(songs, runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("embedded") / "mved"
    embed.main(["--run", str(runs / "finetuned"), "--shards", str(songs), "--out", str(out), "--batch-size", "5"])
    return out


@pytest.fixture(scope="module")
def content_alone(sets, runs, tmp_path_factory):
    """The unlabelled set, embedded by a pretrained run."""
    out = tmp_path_factory.mktemp("embedded") / "unlabeled"
    embed.main(["--run", str(runs / "pretrained"), "--shards", str(sets / "unlabeled"), "--out", str(out)])
    return out


def asked(capsys, done, *words):
    capsys.readouterr()
    nearest.main(["--embeddings", str(done), "--json", *map(str, words)])
    return json.loads(capsys.readouterr().out)


def key_of(done, source):
    table = pq.read_table(done / "embeddings.parquet")
    return table["key"][table["source_id"].to_pylist().index(source)].as_py()


def test_rows_are_the_sets_samples_in_tar_order_as_the_index_describes_them(done, songs):
    table = pq.read_table(done / "embeddings.parquet")
    vectors_ND = np.load(done / "embeddings.npy")
    assert {path.name for path in done.iterdir()} == set(FILES)
    assert table["key"].to_pylist() == keys_of(ShardSet.open(str(songs)).shards)
    assert vectors_ND.shape == (24, json.loads((done / "embed.json").read_text())["dimensions"])
    assert vectors_ND.dtype == np.float32
    records = [row for path in songs.glob("*-*.parquet") for row in pq.read_table(path).to_pylist()]
    of_key = {row["key"]: {name: row[name] for name in DESCRIBED} for row in records}
    assert table.select(DESCRIBED).to_pylist() == [of_key[key] for key in table["key"].to_pylist()]
    assert np.isfinite(table["x"].to_numpy()).all()


def test_embeddings_and_probabilities_are_those_of_the_classifier_by_hand(done, songs, runs):
    trained = open_trained(runs / "finetuned")
    data, table = ShardSet.open(str(songs)), pq.read_table(done / "embeddings.parquet")
    to_inputs = Inputs(trained.classifier.encoder.inputs, trained.config.normalization, torch.device("cpu"))
    order = Order(batch_size=3, shuffle=False)
    place = {key: row for row, key in enumerate(table["key"].to_pylist())}
    vectors_ND, labels = np.load(done / "embeddings.npy"), trained.labels
    probabilities_NK = np.stack([table[f"probability_{label}"].to_numpy() for label in labels], 1)
    scores_NK = np.stack([table[f"score_{label}"].to_numpy() for label in labels], 1)
    for batch in Loader(data, data.split("test"), members=to_inputs.members, order=order).batches():
        rows = [place[key] for key in batch["keys"]]
        with torch.no_grad():
            inputs = to_inputs(batch)
            embedding = trained.classifier.embed(inputs).numpy()
            probabilities = trained.classifier(inputs).double().softmax(1).numpy()
        np.testing.assert_allclose(vectors_ND[rows], embedding, atol=1e-5)
        np.testing.assert_allclose(probabilities_NK[rows], probabilities, atol=1e-5)
        np.testing.assert_allclose(scores_NK[rows], trained.sigmoids["both"](probabilities), atol=1e-5)
        assert [table["label"][row].as_py() for row in rows] == [labels[i] for i in batch["label"]]


def test_a_pretrained_run_gives_the_averages_of_its_latents_and_no_emotions(content_alone, sets, runs, refused):
    config = read_config(runs / "pretrained")
    encoder = build_encoder(config_from_dict(config.network)).eval()
    load_weights(latest(runs / "pretrained"), encoder, prefix="encoder.")
    data = ShardSet.open(str(sets / "unlabeled"))
    to_inputs = Inputs(encoder.inputs, config.normalization, torch.device("cpu"))
    loader = Loader(data, data.shards, members=to_inputs.members, order=Order(batch_size=10, shuffle=False))
    (batch,) = loader.batches()
    with torch.no_grad():
        wanted = torch.cat([global_average(x) for x in encoder(to_inputs(batch)).values()], 1).numpy()
    np.testing.assert_allclose(np.load(content_alone / "embeddings.npy"), wanted, atol=1e-5)
    table = pq.read_table(content_alone / "embeddings.parquet")
    assert table.column_names == [*DESCRIBED, "x", "y"]
    assert table["label"].null_count == 10
    line = refused(nearest.main, "--embeddings", content_alone, "--key", batch["keys"][0], "--by", "emotion")
    assert "tells no emotions" in line


def test_reader_processes_change_nothing(done, songs, runs, tmp_path):
    words = ["--run", str(runs / "finetuned"), "--shards", str(songs), "--out", str(tmp_path), "--batch-size", "5"]
    embed.main([*words, "--workers", "2", "--split", "train"])
    mine, whole = pq.read_table(tmp_path / "embeddings.parquet"), pq.read_table(done / "embeddings.parquet")
    rows = [row for row, split in enumerate(whole["split"].to_pylist()) if split == "train"]
    assert mine.select(DESCRIBED).to_pylist() == whole.select(DESCRIBED).take(rows).to_pylist()
    np.testing.assert_allclose(np.load(tmp_path / "embeddings.npy"), np.load(done / "embeddings.npy")[rows], atol=1e-5)


@pytest.mark.parametrize("by", ["content", "emotion"])
def test_nearest_equals_the_slow_obvious_loop(done, capsys, by):
    opened = open_embeddings(done)
    vectors_ND = np.array(opened.vectors_ND, np.float64)
    deviation_D = vectors_ND.std(0)
    deviation_D[deviation_D == 0] = 1
    standard_ND = (vectors_ND - vectors_ND.mean(0)) / deviation_D
    keys, mine = opened.table["key"].to_pylist(), 7
    values = {}
    for row, key in enumerate(keys):
        a, b = standard_ND[mine], standard_ND[row]
        p, q = opened.probabilities[mine], opened.probabilities[row]
        cosine = a @ b / np.sqrt((a @ a) * (b @ b))
        hellinger = np.sqrt(max(0.0, 1 - sum(np.sqrt(x * y) for x, y in zip(p, q, strict=True))))
        values[key] = cosine if by == "content" else hellinger
    del values[keys[mine]]
    wanted = sorted(values, key=lambda key: -values[key] if by == "content" else values[key])[:6]
    answer = asked(capsys, done, "--key", keys[mine], "--by", by, "--count", 6)
    assert [one["key"] for one in answer["nearest"]] == wanted
    measure = {"content": "similarity", "emotion": "distance"}[by]
    assert answer["measure"] == measure
    np.testing.assert_allclose([one[measure] for one in answer["nearest"]], [values[key] for key in wanted], atol=1e-6)


def test_a_planted_duplicate_is_found_first_and_other_sources_leave_it_out(done, tmp_path, capsys):
    planted = tmp_path / "planted"
    shutil.copytree(done, planted)
    vectors_ND = np.load(planted / "embeddings.npy")
    rows = pq.read_table(done / "embeddings.parquet")["source_id"].to_pylist()
    vectors_ND[rows.index("test/5.mp4")] = vectors_ND[rows.index("train/0.mp4")]
    np.save(planted / "embeddings.npy", vectors_ND)
    key, twin = key_of(done, "train/0.mp4"), key_of(done, "test/5.mp4")
    answer = asked(capsys, planted, "--key", key, "--count", 30)["nearest"]
    assert (answer[0]["key"], answer[0]["same_source"]) == (twin, True)
    assert answer[0]["similarity"] == pytest.approx(1)
    assert len(answer) == 23  # all but itself
    assert sorted(one["source_id"] for one in answer if one["same_source"]) == ["test/5.mp4", "train/3.mp4"]
    others = asked(capsys, planted, "--key", key, "--count", 30, "--other-sources")["nearest"]
    assert others == [one for one in answer if not one["same_source"]]


def test_a_clip_is_found_by_words_of_its_title_and_names_move_no_cursor(done, capsys, refused):
    answer = asked(capsys, done, "--title", "walk LONG")
    assert (answer["query"]["title"], answer["query"]["start_s"]) == ("A Long Walk", 12.5)
    assert "2 clips; name one by --key: " in refused(nearest.main, "--embeddings", done, "--title", "long")
    nearest.main(["--embeddings", str(done), "--key", key_of(done, "test/2.mp4"), "--count", "23"])
    nearest.main(["--embeddings", str(done), "--key", key_of(done, "train/0.mp4"), "--count", "23"])
    lines = capsys.readouterr().out.splitlines()
    assert all(line.isprintable() for line in lines)
    assert len(lines) == 2 * 25
    assert "onerror" in lines[0]
    assert [line.split()[0] for line in lines if line.startswith("same source")] == ["same"] * 2


def test_a_video_is_embedded_by_the_run_that_embedded_the_set(done, runs, tmp_path, make_media, capsys, refused):
    song = make_media(tmp_path / "a song.mp4", seconds=31)
    answer = asked(capsys, done, "--video", song, "--every", 1, "--count", 3, "--by", "emotion")
    assert (answer["query"]["title"], answer["query"]["windows"]) == ("a song", 2)
    said = answer["query"]["probabilities"]
    assert sum(said.values()) == pytest.approx(1, abs=1e-5)
    table = open_embeddings(done)
    distance = emotion_distance(np.array(list(said.values())), table.probabilities)
    assert answer["nearest"][0]["distance"] == pytest.approx(distance.min())
    assert "multiple of 0.5" in refused(nearest.main, "--embeddings", done, "--video", song, "--every", "0.3")
    whole = make_media(tmp_path / "whole.mkv", seconds=80)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (told,) = asked(capsys, done, "--video", cut, "--every", 30)["query"]["problems"]
    assert re.fullmatch(r"cut.mkv: only \d\d of 80 s could be decoded", told)
    mute = make_media(tmp_path / "mute.mp4", sound=None, seconds=31)
    assert "has no sound" in refused(nearest.main, "--embeddings", done, "--video", mute)
    moved = tmp_path / "moved"
    shutil.copytree(done, moved)
    about = json.loads((done / "embed.json").read_text())
    (moved / "embed.json").write_text(json.dumps(about | {"run": "nowhere"}))
    assert "name its place by --run" in refused(nearest.main, "--embeddings", moved, "--video", song)
    (moved / "embed.json").write_text(json.dumps(about | {"weights": "others"}))
    assert "has other weights" in refused(nearest.main, "--embeddings", moved, "--video", song)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--embeddings", "{empty}", "--key", "x"], "no embed.json there"),
        (["--embeddings", "{broken}", "--key", "x"], "cannot be read"),
        (["--key", "nobody"], "--key nobody: no clip"),
        (["--title", "  "], "give a word"),
        (["--title", "nobody"], "no clip"),
        ([], "one of --key, --title and --video"),
        (["--key", "x", "--title", "y"], "one of --key, --title and --video"),
        (["--key", "x", "--count", "0"], "--count 0"),
        (["--video", "{empty}/none.mp4"], "there is no such file"),
        (["--video", "{empty}"], "is a folder; name a file in it"),
        (["--key", "x", "--every", "0"], "--every 0"),
    ],
)
def test_a_mistaken_question_gets_one_line(words, line, done, tmp_path, refused):
    (tmp_path / "empty").mkdir()
    shutil.copytree(done, tmp_path / "broken")
    np.save(tmp_path / "broken" / "embeddings.npy", np.zeros((3, 3), np.float32))
    told = [word.format(empty=tmp_path / "empty", broken=tmp_path / "broken") for word in words]
    assert line in refused(nearest.main, *(told if "--embeddings" in told else ["--embeddings", done, *told]))


def test_what_cannot_be_embedded_gets_one_line_and_leaves_what_was_there(done, songs, runs, sets, tmp_path, refused):
    def line(**changed):
        words = {"run": runs / "finetuned", "shards": songs, "out": tmp_path / "out"} | changed
        return refused(embed.main, *(word for name, value in words.items() for word in (f"--{name}", value)))

    assert "there is no such run folder" in line(run=tmp_path / "none")
    assert "has no split 'unlabeled'" in line(split="unlabeled")
    assert "is no folder" in line(out=songs / "dataset.json")
    assert "give 1 or more" in line(**{"batch-size": 0})
    assert not (tmp_path / "out").exists()
    out, broken = tmp_path / "done", tmp_path / "broken"
    shutil.copytree(done, out)
    shutil.copytree(songs, broken)
    raw = bytearray((broken / "val-000000.tar").read_bytes())
    start = raw.index(b".mel_8k.npy")
    start = raw.index(b"\x93NUMPY", start)
    raw[start : start + 6] = b"broken"
    (broken / "val-000000.tar").write_bytes(raw)
    assert "val-000000.tar" in line(shards=broken, out=out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in done.iterdir()
    }


def test_a_set_of_sound_alone_has_a_map_without_pictures(runs, make_set, tmp_path, refused):
    root = make_set(tmp_path / "set", splits={"unlabeled": [None] * 3}, labels=None, modality="audio")
    line = refused(embed.main, "--run", runs / "pretrained", "--shards", root, "--out", tmp_path / "out")
    assert "has no frames" in line
    run = tmp_path / "run"
    words = ["--shards", str(root), "--out", str(run), "--preset", "tiny", "--max-steps", "1", "--batch-size", "3"]
    pretrain.main([*words, "--pictures-every", "0"])
    embed.main(["--run", str(run), "--shards", str(root), "--out", str(tmp_path / "out")])
    about = json.loads((tmp_path / "out" / "embed.json").read_text())
    assert (about["map"]["thumbnails"], about["map"]["method"]) == (0, "pca")
    page = (tmp_path / "out" / "map.html").read_text()
    assert "The set holds no pictures." in page
    assert "data:image/jpeg" not in page


def test_rows_may_be_written_in_any_order(tmp_path):
    wanted = np.random.default_rng(0).normal(size=(20, 7)).astype(np.float32)
    with vector_file(tmp_path / "v.npy", num_rows=20, width=7) as file:
        assert isinstance(file, VectorFile)
        for row in np.random.default_rng(1).permutation(20):
            file.write(int(row), wanted[row])
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), wanted)


def test_a_large_sets_map_is_a_random_sample_the_same_each_time(done):
    rows = chosen_rows(3 * MAX_POINTS, first=100)
    assert len(set(rows.tolist())) == MAX_POINTS
    np.testing.assert_array_equal(rows, chosen_rows(3 * MAX_POINTS, first=100))
    assert rows[:100].max() > 2 * MAX_POINTS
    np.testing.assert_array_equal(chosen_rows(5, first=10), np.arange(5))
    table = pq.read_table(done / "embeddings.parquet").drop_columns(["x", "y"])
    placed = with_places(table, np.array([3, 1]), np.array([[1, 2], [3, 4]], np.float32))
    assert placed["x"].to_pylist()[:5] == [None, 3, None, 1, None]
    assert placed["y"].null_count == 22


def test_the_map_keeps_neighbours_together_and_is_the_same_each_time():
    rng = np.random.default_rng(0)
    cloud = np.repeat(np.arange(3), 15)
    points = rng.normal(size=(45, 12)) + 8 * rng.normal(size=(3, 12))[cloud]
    places, method = lay_out(points)
    assert method["method"] == "t-sne"
    np.testing.assert_array_equal(places, lay_out(points)[0])
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    assert (cloud[apart.argmin(1)] == cloud).all()


@pytest.mark.parametrize("num_points", [1, 2, 3, 4, 5])
def test_few_points_and_points_that_do_not_differ_have_places_too(num_points):
    for points in (np.zeros((num_points, 4)), np.random.default_rng(0).normal(size=(num_points, 4))):
        places, _ = lay_out(points)
        assert places.shape == (num_points, 2)
        assert np.isfinite(places).all()
        rows, alike = nearest_each(points, 3)
        assert rows.shape == alike.shape == (num_points, min(3, num_points - 1))
        assert not (rows == np.arange(num_points)[:, None]).any()


def test_a_clip_that_is_the_mean_is_like_nothing():
    vectors = np.array([[1.0, 5.0], [3.0, 5.0], [2.0, 5.0]], np.float32)
    np.testing.assert_allclose(content_similarity(vectors[0], vectors), [1, -1, 0])
    np.testing.assert_allclose(content_similarity(vectors[2], vectors), 0)


def test_hellinger_distance_is_0_of_the_same_and_1_of_nothing_in_common():
    certain = np.array([[1.0, 0, 0], [0, 1, 0], [0.5, 0.5, 0]])
    np.testing.assert_allclose(emotion_distance(certain[0], certain), [0, 1, np.sqrt(1 - np.sqrt(0.5))])


def test_the_sheet_holds_each_clips_middle_frame_in_its_place(done, songs):
    page = (done / "map.html").read_text()
    data = told(page)
    with Image.open(io.BytesIO(base64.b64decode(re.search(r"data:image/jpeg;base64,([^\"]+)", page)[1]))) as sheet:
        colours = np.asarray(sheet.convert("RGB"), float)
    size = data["sheet"]
    opened = ShardSet.open(str(songs))
    loader = Loader(opened, opened.shards, members=("frames",), order=Order(batch_size=24, shuffle=False))
    (batch,) = loader.batches()
    for i, key in enumerate(batch["keys"]):
        place = data["points"]["key"].index(key)
        y, x = (place // size["columns"]) * size["height"], (place % size["columns"]) * size["width"]
        mine = colours[y : y + size["height"], x : x + size["width"]].mean((0, 1))
        np.testing.assert_allclose(mine, batch["frames"][i, 32].numpy().mean((0, 1)), atol=3)


def test_many_pictures_are_small_and_a_sheet_of_none_is_none():
    assert Thumbnails.room_for(2000).size_px < Thumbnails.room_for(10).size_px
    assert Thumbnails.room_for(10).sheet() is None


def test_weights_of_the_run_are_told_by_their_hash(runs, done):
    assert json.loads((done / "embed.json").read_text())["weights"] == open_embedder(runs / "finetuned").weights


# --- the page


def told(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_the_page_says_what_the_table_says_and_lists_neighbours_by_content(done, capsys):
    points = told((done / "map.html").read_text())["points"]
    table = pq.read_table(done / "embeddings.parquet")
    assert points["key"] == table["key"].to_pylist()
    np.testing.assert_allclose(points["x"], table["x"].to_numpy(), atol=1e-3)
    for row in (0, 11):
        answer = asked(capsys, done, "--key", points["key"][row], "--count", 5)["nearest"]
        assert [points["key"][other] for other in points["near"][row]] == [one["key"] for one in answer]


def test_the_page_tells_what_set_and_run_are_called_and_not_where_they_lie(done, songs, runs):
    page = (done / "map.html").read_text()
    assert "<title>mved: map</title>" in page
    assert "<h1><bdi>mved</bdi></h1>" in page
    assert "as <bdi>finetuned</bdi> (" in page
    assert str(songs.parent) not in page
    assert str(runs) not in page
    assert html.last_part("s3://bucket/sets/mved/") == "mved"
    assert html.last_part(".") == "."


def test_the_pages_policy_allows_its_own_script_and_style_alone(done):
    page = (done / "map.html").read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert re.fullmatch(
        r"default-src 'none'; img-src data:; style-src 'sha256-[\w+/=]+'; script-src 'sha256-[\w+/=]+'; "
        r"base-uri 'none'; form-action 'none'",
        policy,
    )
    assert page.count("<script") == page.count("</script>") == 2
    assert HOSTILE in told(page)["points"]["title"]
    assert HOSTILE not in page
    assert "innerHTML" not in (html.TEMPLATES / "map.js").read_text()


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture
def opened(browser):
    """Open a map: nothing complains, nothing is fetched, nothing sticks out."""
    pages, said, wanted = [], [], []

    def visit(folder, width, scheme):
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme, has_touch=width < 500)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda sent: wanted.append(sent.url))
        page.goto((folder / "map.html").as_uri())
        pages.append(page)
        return page

    yield visit
    for page in pages:
        width = page.viewport_size["width"]
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.title().endswith(": map")
        page.close()
    assert said == []
    assert [url for url in wanted if not url.startswith(("data:", "file:"))] == []


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (768, "light"), (1280, "dark")])
def test_in_a_browser_a_clip_is_chosen_by_keys_and_pointer_and_shown(done, opened, width, scheme):
    page = opened(done, width, scheme)
    assert page.is_visible("#hint")
    page.focus("#map")
    page.keyboard.press("ArrowRight")
    first = page.text_content("#status")
    assert page.is_visible("#picture")
    assert page.locator("#said li").count() == 3
    assert page.locator("#near li").count() == 5
    assert "12" in page.text_content("#facts") or "13" in page.text_content("#facts")
    page.locator("#near button").first.click()
    assert page.text_content("#status") != first
    page.keyboard.press("Escape")
    assert page.is_visible("#hint")
    for key in ("+", "-", "0", "Shift+ArrowLeft", "Shift+ArrowRight"):
        page.keyboard.press(key)
    page.click("#whole")
    box = page.locator("#map").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.wheel(0, -200)
    page.mouse.down()
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    page.mouse.up()


def test_in_a_browser_a_hostile_title_is_text_and_no_link_but_of_the_web(done, opened):
    page = opened(done, 360, "light")
    page.fill("#find", "onerror")
    page.locator("#found button").click()
    assert page.text_content("#title").startswith("</script><script>")
    assert page.locator("#facts a").count() == 0
    page.fill("#find", "a long walk")
    page.locator("#found button").click()
    assert page.get_attribute("#facts a", "href") == "https://example.org/watch?v=1"
    page.fill("#find", "nobody's")
    assert "no clip" in page.text_content("#found")


def test_in_a_browser_names_in_the_legend_hide_their_clips(done, opened):
    def drawn(page):
        page.wait_for_timeout(50)
        return page.evaluate("document.getElementById('map').toDataURL()")

    page = opened(done, 768, "light")
    page.click("#pictures")
    everything = drawn(page)
    page.locator("#legend button").first.click()
    assert page.get_attribute("#legend li:first-child button", "aria-pressed") == "false"
    assert drawn(page) != everything
    page.locator("#legend button").first.click()
    assert drawn(page) == everything
    page.get_by_role("button", name="Likeliest emotion").click()
    assert page.locator("#legend button").count() >= 1


def test_in_a_browser_a_set_without_labels_and_emotions_has_a_map_without_a_legend(content_alone, opened):
    page = opened(content_alone, 360, "dark")
    assert page.locator("#legend button").count() == 0
    assert page.locator("#modes button").count() == 0
    page.focus("#map")
    page.keyboard.press("ArrowUp")
    assert page.locator("#near li").count() == 5
    assert page.locator("#said li").count() == 0
