"""The crawl end to end: real yt-dlp, real ffmpeg, a catalogue on loopback."""

from __future__ import annotations

import contextlib
import hashlib
import random
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.catalogue.media import recording, recordings
from tests.catalogue.site import PLUGINS, Catalogue, Video
from tests.catalogue.soak import CREATIVE_COMMONS, build, library
from tests.disks import mounted, resize
from tests.flows.command import Command, fingerprint, finish

FAULTS = {
    "missing": "unavailable",
    "private": "private",
    "age": "age-gated",
    "geo-blocked": "geo-blocked",
    "media-forbidden": "forbidden",
    "truncated": "network",
    "slow": "timeout",
}


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """A folder of recordings that all tests of a machine share."""
    return tmp_path_factory.getbasetemp().parent / "catalogue-media"


def crawl_words(folder: Path, *sources: str) -> list[str]:
    """Words of a crawl that a loopback site bears."""
    words = [word for source in sources for word in ("--source", source)]
    words += ["--search-prefix", "catsearch", "--plugins", str(PLUGINS), "--allow-private"]
    words += ["--sleep-s", "0", "0", "--max-fetch-s", "6", "--max-clip-mb", "5", "--workers", "2"]
    words += ["--filters", "off"]  # test pictures and tones are no music videos
    return [*words, "--out", str(folder / "set"), "--store", str(folder / "store")]


def states(store: Path) -> dict[str, tuple[str, str | None, str | None]]:
    """State, code and file of every clip, by the video's id."""
    if not (store / "crawl.sqlite").exists():
        return {}
    with contextlib.closing(sqlite3.connect(f"file:{store / 'crawl.sqlite'}?mode=ro", uri=True)) as database:
        rows = database.execute("SELECT video, state, code, sha256 FROM clip").fetchall()
    assert len({row[0] for row in rows}) == len(rows)
    return {video: (state, code, sha256) for video, state, code, sha256 in rows}


def index(folder: Path) -> dict[str, dict[str, object]]:
    rows = pq.read_table(folder / "set/index.parquet").to_pylist()
    assert len({row["source_id"] for row in rows}) == len(rows)
    return {row["source_id"]: row for row in rows}


@pytest.fixture(scope="module")
def site(media):
    """Six good videos on four ways, and one of each fault; two keys whose results overlap."""
    made = recordings(media, 3)
    good = [
        Video(id=f"good-{i}", recording=made[i % 3], kind=("mp4", "hls", "link")[i % 3], title=f"Song {i}/../\x1b[31m")
        for i in range(6)
    ]
    good[0] = Video(id="good-0", recording=made[0], licence=CREATIVE_COMMONS, title="Free song")
    bad = [Video(id=fault, recording=made[0], fault=fault) for fault in FAULTS]
    silent = Video(id="silent", recording=recording(media, "silent-song", sound=False))
    keys = {"sad song": ["good-0", "good-1", *FAULTS, "silent"], "glad song": ["good-1", "good-2", "good-0"]}
    with Catalogue([*good, *bad, silent], searches=keys, playlists={"mine": ["good-3", "good-0"]}) as running:
        yield running


@pytest.fixture(scope="module")
def crawled(site, tmp_path_factory):
    """One crawl of everything: searches, a file of keys and links, a playlist."""
    folder = tmp_path_factory.mktemp("crawl")
    links = [site.page("good-4"), site.file("good-5"), "file:///etc/hostname", site.watch("good-1")]
    (folder / "mixed.txt").write_text("\n".join(["# keys and links", "glad song", site.playlist("mine"), *links]))
    words = crawl_words(folder, "search:sad song", str(folder / "mixed.txt"))
    code, text, err = finish(*words, PREFECT_HOME=str(folder / "prefect"), **site.environment)
    assert code == 0, err
    return folder, words, text, err


def test_every_candidate_ends_in_one_state_and_the_counts_add_up(crawled):
    folder, _, text, err = crawled
    assert text == (
        "6 kept, 7 rejected, 2 failed; age-gated 1; forbidden 1; geo-blocked 1; network 1; no-audio 1; private 1; "
        "timeout 1; unavailable 1; unsupported-link 1\n"
    )
    assert "14 of 14 clips: 6 fetched," in err
    rows = index(folder)
    assert len(rows) == 15
    for fault, code in FAULTS.items():
        assert rows[f"catalogue:{fault}"]["code"] == code, rows[f"catalogue:{fault}"]["detail"]
    assert rows["catalogue:silent"]["code"] == "no-audio"
    assert rows["file:///etc/hostname"]["code"] == "unsupported-link"
    known = {video: (state, code) for video, (state, code, _) in states(folder / "store").items()}
    assert known == {name: (row["status"], row["code"]) for name, row in rows.items()}


def test_the_index_tells_where_a_clip_came_from(crawled, site):
    row = index(crawled[0])["catalogue:good-0"]
    assert row["link"] == site.watch("good-0")
    assert (row["title"], row["uploader"], row["upload_date"]) == ("Free song", "Somebody", "20210304")
    assert (row["licence"], row["query"]) == (CREATIVE_COMMONS, "catsearch50:sad song")
    assert row["duration_s"] == pytest.approx(50, abs=0.1)
    assert 0 <= row["start_s"] <= 20
    assert row["valid_s"] == 30
    assert index(crawled[0])["catalogue:good-1"]["title"] == "Song 1/../ [31m"


def test_a_clip_is_the_section_of_its_video_that_was_planned(crawled, site, tmp_path):
    """Frames of the stored section against those of the whole file, at the span that the index names."""
    from pipeline import media as decoder
    from pipeline.clips import ClipSpan

    for name in ("good-0", "good-1", "good-2"):
        row = index(crawled[0])[f"catalogue:{name}"]
        file = crawled[0] / "store/clips" / row["sha256"][:2] / f"{row['sha256']}.mkv"
        span = ClipSpan(start_s=row["start_s"])
        section = decoder.probe(file)
        assert section.start_s <= span.start_s
        whole_file = site.videos[name].recording.files[360]
        if site.videos[name].kind == "hls":  # its timeline begins with its first packet of sound
            segments = sorted(site.videos[name].recording.hls.glob("360-*.ts"))
            whole_file = tmp_path / "whole.ts"
            whole_file.write_bytes(b"".join(segment.read_bytes() for segment in segments))
        cut = decoder.decode_clip(file, decoder.within(span, section), section)
        whole = decoder.decode_clip(whole_file, span, decoder.probe(whole_file))
        same = (cut.frames_THWC == whole.frames_THWC).all(axis=(1, 2, 3))
        assert same.sum() >= 62, name  # times are rounded to milliseconds: a frame that begins on the grid may slip
        assert len(cut.audio) == len(whole.audio)


def test_only_sections_are_fetched(crawled, site):
    """Of a 50-s file, 32 s and what lies between its beginning and the keyframe before them."""
    sizes = {name: site.videos[name].recording.files[360].stat().st_size for name in ("good-0", "good-2")}
    for name, size in sizes.items():
        file = index(crawled[0])[f"catalogue:{name}"]
        stored = crawled[0] / "store/clips" / file["sha256"][:2] / f"{file['sha256']}.mkv"
        assert stored.stat().st_size < 0.85 * size


def test_a_second_run_asks_the_sites_for_what_failed_and_for_nothing_else(crawled, site):
    folder, words, text, _ = crawled
    before = {path: path.stat().st_mtime_ns for path in (folder / "store/clips").rglob("*.mkv")}
    asked = len(site.requests)
    code, again, err = finish(*words, PREFECT_HOME=str(folder / "prefect"), **site.environment)
    assert (code, again) == (0, text), err
    assert {request.video for request in site.requests[asked:]} == {"truncated", "slow"}
    assert {path: path.stat().st_mtime_ns for path in (folder / "store/clips").rglob("*.mkv")} == before


@pytest.mark.slow
def test_another_recipe_is_built_from_the_clips_that_are_there(crawled, site, tmp_path):
    folder, words, _, _ = crawled
    asked = len(site.requests)
    words = [str(tmp_path / "set") if word == str(folder / "set") else word for word in words]
    code, text, err = finish(*words, "--no-denoise", "--limit", "2", **site.environment)
    assert (code, text) == (0, "2 kept, 0 rejected, 0 failed\n"), err
    assert len(site.requests) == asked


def test_a_dry_run_lists_and_estimates_and_fetches_no_media(site, tmp_path):
    asked = len(site.requests)
    words = crawl_words(tmp_path, "search:glad song")
    words[words.index("--sleep-s") + 1 : words.index("--sleep-s") + 3] = ["5", "10"]
    code, text, err = finish(*words, "--dry-run", **site.environment)
    assert code == 0, err
    assert f"{site.watch('good-1')}\tSong 1/../ [31m" in text
    assert "3 candidates, 0 done already, 3 to fetch" in text
    assert "about 0:00:36 at 12.0 s a clip: 7.5 s of pause and 4.5 s for page and section (assumed" in text
    assert {request.room for request in site.requests[asked:]} == {"search"}
    assert not (tmp_path / "set").exists()


@pytest.mark.slow
def test_what_its_words_say_is_no_music_video_costs_a_page_at_most_and_has_its_row(media, tmp_path):
    (made,) = recordings(media, 1)
    talk = [
        Video(id="talk", recording=made, title="Interview with Somebody"),
        Video(id="lesson", recording=made, title="Three chords", description="In this video I will teach you three."),
    ]
    with Catalogue(talk, searches={"song": ["talk", "lesson"]}) as site:
        words = crawl_words(tmp_path, "search:song")
        words[words.index("--filters") + 1] = "drop"
        code, text, err = finish(*words, "--dry-run", **site.environment)
        assert code == 0, err
        why = 'rule interview-en: title has "interview with"'
        assert f"{site.watch('talk')}\tInterview with Somebody\tnot fetched: {why}\n" in text
        assert "2 candidates, 0 done already, 1 to fetch, 1 rejected by their words\n" in text
        assert "1 pages to read and 1 sections to fetch" in text
        code, text, err = finish(*words, **site.environment)
        assert (code, text) == (1, "0 kept, 2 rejected, 0 failed; text 2\n"), err
        assert [(r.room, r.video) for r in site.requests if r.video] == [("watch", "lesson")]
    rows = index(tmp_path)
    for name, rule in {"talk": "interview-en", "lesson": "description-en"}.items():
        row = rows[f"catalogue:{name}"]
        assert (row["code"], row["text_rules"], row["flagged"]) == ("text", [rule], ["text"])
        assert row["detail"].startswith(f"rule {rule}: ")
    assert {state for state, code, _ in states(tmp_path / "store").values()} == {"rejected"}


@pytest.mark.slow
def test_a_site_that_wants_fewer_requests_is_left_alone_and_the_crawl_goes_on_later(site, tmp_path):
    words = crawl_words(tmp_path, "search:glad song", site.page("good-4"), site.page("good-3"))
    site.forget()
    site.storm(after=8)
    try:
        code, text, err = finish(*words, **site.environment)
    finally:
        site.calm()
    assert (code, text) == (3, ""), err
    last = [line for line in err.splitlines() if line.startswith("build-shards: ")]
    assert len(last) == 1
    assert "127.0.0.1 asks for fewer requests (HTTP 429" in last[0]
    assert "run the same command later" in last[0]
    assert "Traceback" not in err
    known = Counter(state for state, _, _ in states(tmp_path / "store").values())
    assert known["queued"] >= 1
    assert set(known) <= {"queued", "fetched", "kept"}
    code, text, err = finish(*words, **site.environment)
    assert (code, text) == (0, "5 kept, 0 rejected, 0 failed\n"), err


@pytest.mark.slow
def test_licence_exclusion_retry_and_clips_that_are_not_kept(crawled, site, tmp_path):
    folder, _, _, _ = crawled
    words = crawl_words(tmp_path, "search:glad song", site.page("good-3"))
    code, text, err = finish(*words, "--license", "creative-commons", "--keep-clips", "no", **site.environment)
    assert (code, text) == (0, "1 kept, 3 rejected, 0 failed; licence 3\n"), err
    assert list((tmp_path / "store/clips").rglob("*.mkv")) == []
    # With the filter off, those that it rejected are tried again, if they are asked for.
    code, text, err = finish(*words, "--retry", "licence", **site.environment)
    assert (code, text) == (0, "4 kept, 0 rejected, 0 failed\n"), err
    # A set that stands is not changed by a wish that comes late; a new one is.
    code, text, err = finish(*words, "--exclude", str(folder / "set"), **site.environment)
    assert (code, text) == (2, "")
    assert "holds 4 clips of the excluded sets already" in err
    words[words.index(str(tmp_path / "set"))] = str(tmp_path / "other/set")
    code, text, err = finish(*words, "--exclude", str(folder / "set"), **site.environment)
    assert (code, text) == (1, "0 kept, 4 rejected, 0 failed; excluded 4\n"), err
    details = {row["source_id"]: row["detail"] for row in index(tmp_path / "other").values()}
    assert details["catalogue:good-1"].endswith("holds this video")
    # The playlist's page of the same recording is another video by its link, and the same one by its sound; or by its
    # bytes, where the site's port happens to have a clip drawn that begins with the same frame.
    assert re.search(" as in |holds this file$", details[site.page("good-3")])


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_costs_no_candidate(site, tmp_path):
    """The store on a disk of its own that is too small; made larger, the crawl goes on."""
    with mounted(tmp_path / "store", size="1500k") as disk:
        words = crawl_words(tmp_path, "search:glad song", site.page("good-3"))
        code, text, err = finish(*words, **site.environment)
        assert (code, text) == (2, ""), err
        assert "Traceback" not in err
        (line,) = [line for line in err.splitlines() if line.startswith("build-shards: ")]
        assert "No space left on device" in line or "disk is full" in line
        assert {state for state, _, _ in states(disk).values()} <= {"queued", "fetched", "kept"}
        resize(disk, "100m")
        code, text, err = finish(*words, **site.environment)
        assert (code, text) == (0, "4 kept, 0 rejected, 0 failed\n"), err


@pytest.mark.slow
def test_two_hundred_candidates_killed_ten_times_end_as_an_unbroken_crawl_does(media, tmp_path):
    """Real faults, a storm of 429s, SIGKILL at random moments; nothing is fetched twice once it is stored."""
    soak = build(library(media), seed=1)
    rng = random.Random(5)
    with soak.open() as site:
        (tmp_path / "links.txt").write_text("\n".join(soak.links(site)))
        sources = [f"search:{key}" for key in soak.searches] + [str(tmp_path / "links.txt")]
        code, told, err = Command(*crawl_words(tmp_path / "whole", *sources), **site.environment).finish(timeout_s=900)
        assert code == 0, err
        num_requests = len(site.requests)
        site.forget()
        words = crawl_words(tmp_path / "broken", *sources)
        fetched: dict[str, int] = {}
        kills = 0
        for start in range(16):
            if start == 5:
                site.storm(after=20)
            running = Command(*words, **site.environment)
            killed = killed_after(running, site, rng.randrange(1, num_requests // 9))
            code, _, err = running.finish()
            site.calm()
            for video, requests in fetched.items():
                assert len(site.requests_of(video)) == requests, f"{video} was asked for again"
            fetched = requests_for_stored(site, tmp_path / "broken/store")
            kills += killed
            if kills == 10:
                break
            assert killed or (start == 5 and code == 3), err
        assert kills == 10
        code, text, err = Command(*words, **site.environment).finish(timeout_s=900)
        assert (code, text) == (0, told), err
        for video, requests in fetched.items():
            assert len(site.requests_of(video)) == requests, f"{video} was asked for again"
        expected = soak.expected_by_link(site)
    for name in ("whole", "broken"):
        rows = index(tmp_path / name)
        assert outcomes(rows.values()) == expected
        assert {video: code or state for video, (state, code, _) in states(tmp_path / name / "store").items()} == {
            source_id: row["code"] or row["status"] for source_id, row in rows.items()
        }
    assert clips(tmp_path / "broken/store") == clips(tmp_path / "whole/store")
    # How far a connection came before it broke is in the detail of that candidate, and differs from time to time;
    # croissant.json holds the hash of the index.
    but = {"index.parquet", "croissant.json"}
    one, other = (
        {name: digest for name, digest in fingerprint(tmp_path / run / "set").items() if name not in but}
        for run in ("whole", "broken")
    )
    assert one == other
    one, other = (
        [{k: v for k, v in row.items() if k != "detail"} for row in index(tmp_path / run).values()]
        for run in ("whole", "broken")
    )
    assert one == other


def outcomes(rows: Collection[Mapping[str, object]]) -> dict[str, object]:
    """``kept`` or the code, by link.

    The clip of a link that no plugin knows is drawn by its address, the site's port included: at one port in forty, two
    clips of one recording begin at the same millisecond. They are the same bytes, and the later is rightly a duplicate;
    the catalogue, which knows no port, expects it to be kept.
    """
    kept = {row["key"]: row for row in rows if row["status"] == "kept"}
    return {row["link"]: "kept" if is_copy(row, kept) else row["code"] or row["status"] for row in rows}


def is_copy(row: Mapping[str, object], kept: Mapping[object, Mapping[str, object]]) -> bool:
    """Whether it is a duplicate by its bytes and its place in the video, of a clip that is kept."""
    if row["code"] != "duplicate":
        return False
    other = kept[row["duplicate_of"]]
    return (row["sha256"], row["start_s"]) == (other["sha256"], other["start_s"])


def killed_after(running: Command, site: Catalogue, num_requests: int) -> bool:
    """SIGKILL once the site was asked so many times more, and a moment; False if it ends before."""
    start = len(site.requests)
    while running.process.poll() is None:
        if len(site.requests) >= start + num_requests:
            time.sleep(num_requests % 7 / 10)
            running.kill()
            return True
        time.sleep(0.02)
    return False


def requests_for_stored(site: Catalogue, store: Path) -> dict[str, int]:
    """Requests so far for the videos whose clip is stored."""
    stored = {video.removeprefix("catalogue:") for video, (_, _, sha256) in states(store).items() if sha256}
    # Other videos redirect to the media of some.
    stored -= {video.redirect_to.removeprefix("/media/").removesuffix("-360.mp4") for video in site.videos.values()}
    return {video: len(site.requests_of(video)) for video in stored if video in site.videos}


def clips(store: Path) -> dict[str, str]:
    """Every stored clip: its bytes under its name."""
    found = {}
    for file in (store / "clips").rglob("*.mkv"):
        found[file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
        assert file.name == f"{found[file.name]}.mkv"
    return found
