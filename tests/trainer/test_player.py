"""The page of a video in a real browser: it plays, the cursor follows, and hands and keys do what they say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import media
from tests.conftest import run_ffmpeg
from tests.pages import Page, chromium, contrast
from tests.pipeline.test_playable import turned
from trainer import player, predict, writing
from trainer.curve import Curve, Said, to_csv, to_json, to_srt
from trainer.errors import UserError
from trainer.page import html
from trainer.videos import open_video

LABELS = ["Excited", "Fear", "Neutral", "Relaxation", "Sad", "Tension"]
HOSTILE = "</script><script>document.title='broken'</script><!-- \"' onload=x {{ 7*7 }} & \u202e\u2028"
FILM_S = 40.0
LEFT_PX, MARGINS_PX = 40, 52  # of the chart: on the left, and on both sides


def make_curve(*, duration_s: float = FILM_S, every_s: float = 1.0, alone: bool = True, **changes: Any) -> Curve:
    """A curve of waves, another for each emotion and for sound and picture alone."""
    starts_s = np.arange(0, duration_s - 30 + 1e-9, every_s)

    def said(phase: float) -> Said:
        scores = 0.5 + 0.45 * np.sin(starts_s[:, None] / duration_s * 9 + np.arange(len(LABELS)) * 1.3 + phase)
        return Said(scores=scores.round(6), probabilities=scores / scores.sum(1, keepdims=True))

    about = {
        "source": "film.mp4",
        "read": "both",
        "run": "first",
        "checkpoint": "best-00000018",
        "network": "slow-fast tiny",
        "predicted": "2026-11-23T13:53:26.034+00:00",
        "problems": [],
    }
    told = {
        "labels": LABELS,
        "title": "a film",
        "duration_s": duration_s,
        "every_s": every_s,
        "window_s": 30.0,
        "starts_s": starts_s.tolist(),
        "said": said(0),
        "alone": {"audio": said(1), "video": said(2)} if alone else {},
        "why_not_alone": None if alone else "it was trained with both",
    }
    return Curve(**(told | {"about": about | changes.pop("about", {})} | changes))


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    """Forty seconds that every browser plays."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    sources = ["-f", "lavfi", "-i", "testsrc2=size=64x36:rate=10", "-f", "lavfi", "-i", "sine=frequency=440"]
    codecs = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-c:a", "aac"]
    run_ffmpeg(*sources, "-t", str(FILM_S), *codecs, str(path))
    return path


def write(curve: Curve, path: Path, out: Path, *, how: player.How = "embed") -> Path:
    """Write the page with what belongs to it, without the slow picture."""
    out.mkdir(exist_ok=True)
    texts = {"curve.csv": to_csv(curve), "curve.srt": to_srt(curve), "curve.json": to_json(curve)}
    player.write_player(curve, open_video(path, wanted="both", alone=None), out, texts=texts, how=how)
    return out


@pytest.fixture(scope="module")
def whole(film, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    writing.write_curve(make_curve(), [], open_video(film, wanted="both", alone=None), out)
    return out


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@contextmanager
def opened(browser: Any, folder: Path, *, width: int = 1280, ready: bool = True, **options: Any) -> Iterator[Any]:
    """Open a folder's player: nothing complains, nothing sticks out, nothing comes from elsewhere."""
    page = browser.new_page(viewport={"width": width, "height": 800}, **options)
    said: list[str] = []
    asked: set[str] = set()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda sent: asked.add(sent.url))
    page.goto((folder / "player.html").as_uri())
    if ready:
        until(page, "document.querySelector('video').readyState >= 2")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    yield page
    assert said == []
    own = {path.as_uri() for path in folder.iterdir()}
    assert [url for url in asked - own if not url.startswith(("blob:", "data:"))] == []
    page.close()


def until(page: Any, condition: str) -> None:
    """Wait for something to become true; Playwright's own way wants an eval, which the page's policy refuses."""
    for _ in range(600):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"this never came: {condition}")


def video(page: Any, what: str) -> Any:
    return page.evaluate(f"document.querySelector('video').{what}")


def seek(page: Any, time_s: float) -> None:
    page.evaluate(f"document.querySelector('video').currentTime = {time_s}")
    until(page, f"document.getElementById('plot').getAttribute('aria-valuenow') == {int(time_s)}")


def cursor_s(page: Any) -> float:
    """Where the cursor stands, read off the drawing."""
    moved = page.evaluate("document.querySelector('.moving').getAttribute('transform')")
    drawn_px = page.evaluate("document.getElementById('plot').clientWidth") - MARGINS_PX
    return (float(re.findall(r"[\d.]+", moved)[0]) - LEFT_PX) / drawn_px * video(page, "duration")


def bars(page: Any) -> list[float]:
    """How long the bars are, as parts of the whole."""
    measure = "n => n.getBoundingClientRect().width / n.parentElement.clientWidth"
    return page.evaluate(f"[...document.querySelectorAll('.fill')].map({measure})")


def expected(curve: Curve, time_s: float, said: Said | None = None) -> np.ndarray:
    """The slow way: straight lines between the middles of windows."""
    scores = (said or curve.said).scores
    return np.array([np.interp(time_s, curve.times_s, column) for column in scores.T])


def test_the_video_plays_and_the_cursor_follows(browser, whole):
    with opened(browser, whole) as page:
        assert cursor_s(page) == 0
        page.keyboard.press("m")
        page.keyboard.press("k")
        together = (
            "() => { const v = document.querySelector('video'), p = document.getElementById('plot');"
            "const at = document.querySelector('.moving').transform.baseVal[0].matrix.e;"
            "return !v.paused && v.currentTime > 1"
            f" && Math.abs(at - {LEFT_PX} - v.currentTime / v.duration * (p.clientWidth - {MARGINS_PX})) < 3; }}"
        )
        until(page, together)
        page.keyboard.press("k")
        assert video(page, "paused")
        page.wait_for_timeout(100)
        assert cursor_s(page) == pytest.approx(video(page, "currentTime"), abs=0.02)
        assert page.text_content("#clock") == f"0:{int(video(page, 'currentTime')):02d}"
        assert video(page, "webkitAudioDecodedByteCount") > 0


def test_a_click_seeks_and_a_drag_goes_on_seeking(browser, whole):
    with opened(browser, whole) as page:
        box = page.locator("#plot").bounding_box()

        def x(share):
            return box["x"] + LEFT_PX + share * (box["width"] - MARGINS_PX)

        duration_s = video(page, "duration")
        page.mouse.click(x(0.25), box["y"] + 50)
        assert video(page, "currentTime") == pytest.approx(duration_s / 4, abs=0.05)
        page.mouse.down()
        page.mouse.move(x(0.5), box["y"] + 50)
        page.mouse.move(x(0.75), box["y"] - 60)  # the pointer may leave the chart meanwhile
        assert video(page, "currentTime") == pytest.approx(duration_s * 0.75, abs=0.05)
        page.mouse.up()
        page.mouse.move(x(0.1), box["y"] + 50)
        assert cursor_s(page) == pytest.approx(duration_s * 0.75, abs=0.05)


def test_the_bars_show_the_present_moment_of_what_is_chosen(browser, whole):
    curve = make_curve()
    with opened(browser, whole) as page:
        for name, said in (("all", None), ("audio", curve.alone["audio"]), ("video", curve.alone["video"])):
            page.click(f"[data-of={name}]")
            assert page.get_attribute(f"[data-of={name}]", "aria-pressed") == "true"
            assert page.locator("[data-of][aria-pressed=true]").count() == 1
            for time_s in (0.0, 15.0, 17.25, 21.5, 25.0, 39.0):  # before the first middle, on some, behind the last
                seek(page, time_s)
                row = expected(curve, time_s, said)
                assert bars(page) == pytest.approx(row, abs=0.005)
                told = [float(text.rstrip("%")) for text in page.locator(".percent").all_text_contents()]
                assert told == pytest.approx(100 * row, abs=0.51)
                best = int(row.argmax())
                assert page.text_content("#strongest") == f"{LABELS[best]} {told[best]:.0f}%"


def test_the_legend_takes_lines_and_bars_away_and_brings_them_back(browser, whole):
    with opened(browser, whole) as page:
        seek(page, 20)
        order = np.argsort(-expected(make_curve(), 20))
        button = page.get_by_role("button", name=LABELS[order[0]])
        line = page.locator(f"#plot path[data-line='{order[0]}']")
        assert line.count() == 2
        button.focus()
        page.keyboard.press("Space")  # is the button's here, not the video's
        assert button.get_attribute("aria-pressed") == "false"
        assert video(page, "paused")
        assert line.count() == 0
        assert not page.locator(".track").nth(order[0]).is_visible()
        assert page.text_content("#strongest").startswith(LABELS[order[1]])
        button.click()
        assert button.get_attribute("aria-pressed") == "true"
        assert line.count() == 2
        assert page.text_content("#strongest").startswith(LABELS[order[0]])
        for name in LABELS:
            page.get_by_role("button", name=name).click()
        assert page.text_content("#strongest") == html.NOTHING


def test_every_key_does_what_the_line_of_help_says(browser, whole):
    with opened(browser, whole) as page:
        total_s = video(page, "duration")
        for focus in ("body", "#plot", "video"):
            page.evaluate(f"document.querySelector('{focus}').focus()")
            for key, from_s, to_s in [
                ("ArrowRight", 20, 25),
                ("ArrowLeft", 20, 15),
                ("ArrowLeft", 2, 0),
                ("j", 20, 10),
                ("l", 20, 30),
                ("L", 20, 30),
                ("l", 35, total_s),
                ("0", 20, 0),
                ("3", 20, 0.3 * total_s),
                ("9", 20, 0.9 * total_s),
                ("Home", 20, 0),
                ("End", 20, total_s),
            ]:
                seek(page, from_s)
                page.keyboard.press(key)
                assert video(page, "currentTime") == pytest.approx(to_s, abs=0.01), (focus, key)
            seek(page, 5)
            for key in ("Space", "k"):
                page.keyboard.press(key)
                assert not video(page, "paused"), (focus, key)
                page.keyboard.press(key)
                assert video(page, "paused"), (focus, key)
            page.keyboard.press("m")
            assert video(page, "muted")
            page.keyboard.press("m")
            assert not video(page, "muted")
            seek(page, 20)
            page.keyboard.press("Control+ArrowRight")
            page.keyboard.press("x")
            assert video(page, "currentTime") == pytest.approx(20, abs=1)  # Chromium's own key goes on a little
        named = {key.lower() for key in page.locator("kbd").all_text_contents()}
        assert named == {"space", "k", "←", "→", "j", "l", "0", "9", "home", "end", "m"}


def test_the_keyboard_alone_reaches_everything_and_shows_where_it_is(browser, whole):
    with opened(browser, whole) as page:
        reached = []
        where = (
            "() => { const e = document.activeElement; return e.id || e.dataset.of || e.dataset.file || e.innerText; }"
        )
        for _ in range(30):
            page.keyboard.press("Tab")
            reached.append(page.evaluate(where))
            if reached[-1] != "video":  # the browser's own
                assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid", reached[-1]
            if reached[-1] == "curve.json":
                break
        others = [name for name in reached if name != "video"]
        assert others == ["plot", "all", "audio", *LABELS, "curve.csv", "curve.srt", "curve.json"]


def test_the_chart_is_told_in_words(browser, whole):
    curve = make_curve()
    with opened(browser, whole) as page:
        plot = page.locator("#plot")
        told = page.text_content(f"#{plot.get_attribute('aria-describedby')}")
        assert told.startswith(f"As a whole {curve.verdict}.")
        for label, column in zip(LABELS, curve.said.scores.T, strict=True):
            at_s = curve.times_s[int(column.argmax())]
            assert f"{label} {column.max():.0%} at 0:{int(at_s):02d}" in told
        seek(page, 21)
        row = expected(curve, 21)
        words = f"0:21 of 0:40, {LABELS[int(row.argmax())]} {row.max():.0%}"
        assert plot.get_attribute("aria-valuetext") == words
        assert float(plot.get_attribute("aria-valuemax")) == 40


def test_the_page_gives_the_files_of_its_curve(browser, whole):
    with opened(browser, whole) as page:
        for name in ("curve.csv", "curve.srt", "curve.json"):
            with page.expect_download() as download:
                page.click(f"text={name}")
            assert download.value.suggested_filename == name
            assert Path(download.value.path()).read_bytes() == (whole / name).read_bytes()


def test_what_titles_and_labels_hold_stays_text(browser, film, tmp_path):
    about = {"problems": [HOSTILE], "source": HOSTILE, "run": HOSTILE}
    curve = make_curve(title=HOSTILE, labels=[HOSTILE, *LABELS[1:]], alone=False, why_not_alone=HOSTILE, about=about)
    out = write(curve, film, tmp_path / "out")
    page = Page(out, "player.html")
    assert [tag for tag, _ in page.tags].count("script") == 3
    assert not [name for _, told in page.tags for name in told if name.startswith("on")]
    assert not page.values("style")
    assert set(page.values("href")) == {"data:,", "#"}
    with opened(browser, out) as shown:
        assert shown.evaluate("document.querySelector('title').text") == f"{HOSTILE}: emotion over time"
        texts = shown.evaluate("JSON.parse(document.getElementById('texts').textContent)")
        assert texts["curve.json"] == to_json(curve)
        assert HOSTILE.split("\u202e")[0] in shown.text_content("h1")
        assert shown.locator("[data-of]").count() == 0


def test_a_policy_lets_the_page_run_its_own_script_alone(whole):
    (policy,) = [
        told["content"]
        for _, told in Page(whole, "player.html").tags
        if told.get("http-equiv") == "Content-Security-Policy"
    ]
    parts = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert parts["default-src"] == "'none'"
    assert parts["media-src"] == "blob:"
    assert re.fullmatch(r"'sha256-[\w+/]{43}='", parts["script-src"])
    assert re.fullmatch(r"'sha256-[\w+/]{43}='", parts["style-src"])


def test_a_video_beside_its_page_is_the_original_and_plays(browser, film, tmp_path):
    out = write(make_curve(), film, tmp_path / "out", how="beside")
    assert (out / "player.mp4").samefile(film)
    with opened(browser, out) as page:
        page.keyboard.press("5")
        assert video(page, "currentTime") == pytest.approx(video(page, "duration") / 2)
        page.keyboard.press("k")
        until(page, "document.querySelector('video').currentTime > 20.5")
    (out / "player.mp4").unlink()
    page = browser.new_page()
    page.goto((out / "player.html").as_uri())
    page.wait_for_selector("text=cannot play the file player.mp4")
    page.close()


@pytest.mark.parametrize(
    ("how", "spare_bytes", "names"),
    [
        ("embed", 0, {"player.html"}),
        ("embed", -1, {"player.html", "player.mp4"}),
        ("beside", 0, {"player.html", "player.mp4"}),
        ("none", 0, set()),
    ],
)
def test_a_video_is_in_its_page_up_to_a_size_else_beside_it(film, tmp_path, monkeypatch, how, spare_bytes, names):
    monkeypatch.setattr(player, "MAX_EMBED_BYTES", film.stat().st_size + spare_bytes)
    out = write(make_curve(), film, tmp_path / "out", how=how)
    assert {path.name for path in out.iterdir()} == names
    assert film.exists()


def test_what_no_browser_plays_is_made_anew_and_plays(browser, tmp_path):
    run_ffmpeg(
        "-f", "lavfi", "-i", "testsrc2=size=64x36:rate=10", "-t", "6", "-c:v", "mpeg4", str(tmp_path / "old.avi")
    )
    out = write(make_curve(), tmp_path / "old.avi", tmp_path / "out")
    with opened(browser, out) as page:
        page.keyboard.press("k")
        until(page, "document.querySelector('video').currentTime > 0.5")
        assert page.is_visible("text=made anew: picture, at 360p or less")
        assert video(page, "videoWidth") == 64


def test_sound_alone_plays_beside_its_curves(browser, tmp_path):
    run_ffmpeg("-f", "lavfi", "-i", "sine=frequency=440", "-t", "6", str(tmp_path / "song.flac"))
    out = write(make_curve(alone=False), tmp_path / "song.flac", tmp_path / "out")
    with opened(browser, out) as page:
        page.keyboard.press("k")
        until(page, "document.querySelector('video').currentTime > 0.5")
        assert page.is_visible("text=Not by sound or picture alone: it was trained with both.")


def test_without_a_video_the_curves_can_be_read_all_the_same(browser, film, tmp_path, monkeypatch):
    def fail(*_):
        raise UserError("Invalid data found")

    monkeypatch.setattr(player, "playable", fail)
    out = write(make_curve(), film, tmp_path / "out")
    with opened(browser, out, ready=False) as page:
        assert page.is_visible("text=No video here: Invalid data found")
        page.keyboard.press("5")
        page.keyboard.press("k")
        assert page.text_content("#clock") == "0:20"
        assert bars(page) == pytest.approx(expected(make_curve(), 20), abs=0.005)


def test_an_ffmpeg_that_is_killed_while_it_converts_costs_the_video_and_not_the_curve(tmp_path, monkeypatch):
    run_ffmpeg(
        "-f", "lavfi", "-i", "testsrc2=size=64x36:rate=10", "-t", "1", "-c:v", "mpeg4", str(tmp_path / "old.avi")
    )
    killed = tmp_path / "ffmpeg"
    killed.write_text("#!/bin/sh\nkill -KILL $$\n")
    killed.chmod(0o700)
    monkeypatch.setattr(media, "ffmpeg_exe", lambda: str(killed))
    out = write(make_curve(), tmp_path / "old.avi", tmp_path / "out")
    assert "No video here: ffmpeg was stopped by signal 9" in (out / "player.html").read_text()


def test_a_video_that_its_phone_turned_has_the_place_that_it_is_shown_in(tmp_path):
    out = write(make_curve(), turned(tmp_path / "turned.mp4"), tmp_path / "out")
    assert 'width="640" height="853"' in (out / "player.html").read_text()  # 480 x 640 pixels are shown


def test_why_there_is_no_video_names_no_folder_of_the_machine(tmp_path):
    path = tmp_path / "old.avi"
    run_ffmpeg("-f", "lavfi", "-i", "testsrc2=size=64x36:rate=10", "-t", "1", "-c:v", "mpeg4", str(path))
    video = open_video(path, wanted="both", alone=None)
    path.write_bytes(path.read_bytes()[:300])
    player.write_player(make_curve(), video, tmp_path, texts={"curve.json": to_json(make_curve())}, how="embed")
    page = (tmp_path / "player.html").read_text()
    assert re.search("No video here: ffmpeg: old.avi: ", page)
    assert str(tmp_path) not in page


def test_three_hours_and_a_single_window_are_drawn(browser, film, tmp_path):
    long = make_curve(duration_s=10_830, every_s=5)
    assert len(long.starts_s) == 2161
    with opened(browser, write(long, film, tmp_path / "long")) as page:
        paths = page.eval_on_selector_all("#plot path:not(.held)", "all => all.map(one => one.getAttribute('d'))")
        assert [path.count("L") for path in paths] == [2160] * len(LABELS)
        assert "180:00" in page.locator("#plot text").all_text_contents()
        page.keyboard.press("5")
    with opened(browser, write(make_curve(duration_s=30), film, tmp_path / "short")) as page:
        assert bars(page) == pytest.approx(expected(make_curve(duration_s=30), 0), abs=0.005)


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (768, "light"), (1280, "dark")])
def test_it_fits_phones_and_desks_in_light_and_dark(browser, whole, width, scheme):
    with opened(browser, whole, width=width, color_scheme=scheme) as page:
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
        screen, plot, now = (page.locator(name).bounding_box() for name in ("video", "#plot", ".now"))
        assert (plot["x"] > screen["x"] + screen["width"]) == (width == 1280)
        assert (now["x"] > screen["x"] + screen["width"]) == (width == 768)
        assert plot["width"] >= 0.9 * min(width - 32, 500)
        for box in page.locator("button").all():
            assert box.bounding_box()["height"] >= 24


def test_a_turned_phone_has_its_chart_drawn_anew_and_less_motion_means_steps(browser, whole):
    with opened(browser, whole, width=360, reduced_motion="reduce") as page:
        page.set_viewport_size({"width": 780, "height": 360})
        until(page, "document.querySelector('#plot .grid').getAttribute('x2') > 700")
        page.keyboard.press("m")
        page.keyboard.press("k")
        until(page, "document.getElementById('plot').getAttribute('aria-valuenow') >= 1")


def test_the_player_has_no_colours_but_those_measured():
    css = (html.TEMPLATES / "player.css").read_text()
    assert set(re.findall(r"#[0-9a-f]{3,8}\b", css)) == {"#000"}  # behind a picture
    measured = (html.TEMPLATES / "report.css").read_text()
    for scheme in re.findall(r":root \{(.*?)\}", measured, re.DOTALL):
        color = dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6});", scheme))
        assert min(contrast(color[f"c{i}"], color["panel"]) for i in range(8)) >= 3  # a bar on its track
        assert contrast(color["quiet"], color["ground"]) >= 3  # the edge of a button


def test_a_video_that_lies_beside_its_page_is_no_new_one_of_the_folder(film, tmp_path):
    (tmp_path / "film.mp4").hardlink_to(film)
    out = write(make_curve(), film, tmp_path / "out", how="beside")
    (out / "curve.json").write_text(to_json(make_curve()))
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "player.html").write_text("a page of mine")
    (tmp_path / "own" / "player.mp4").hardlink_to(film)
    mine = [tmp_path / "film.mp4", tmp_path / "own" / "player.mp4"]
    assert [source for source, _ in predict.places(str(tmp_path), tmp_path / "out")] == [*map(str, mine)]


def test_a_video_is_not_overwritten_by_its_own_prediction(film, tmp_path):
    out = tmp_path / "out"
    writing.require_apart(film, out)
    (out / "player.mp4").parent.mkdir()
    (out / "player.mp4").hardlink_to(film)
    writing.require_apart(film, out)  # once more
    with pytest.raises(UserError, match="give another --out"):
        writing.require_apart(out / "player.mp4", out)
