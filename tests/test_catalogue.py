"""The loopback catalogue that tests of the crawl use: real yt-dlp reads it, and its faults are what they say."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest

from tests.catalogue.bodies import HUGE_BYTES
from tests.catalogue.media import garbled, recording, recordings
from tests.catalogue.site import PLUGINS, Catalogue, Recording, Video
from tests.catalogue.soak import FAULTS, Library, build
from tests.catalogue.videos import STATUS_FAULTS, WORD_FAULTS
from tests.waiting import PATIENCE_S, wait_until

CREATIVE_COMMONS = "Creative Commons Attribution license (reuse allowed)"

# What a crawler does, in a process of its own: plugins stay out of the tests' yt-dlp.
ASK_YT_DLP = """
import json, sys
import yt_dlp
from yt_dlp.globals import plugin_dirs
from yt_dlp.utils import download_range_func

plugins, folder, *links = sys.argv[1:]
plugin_dirs.value = [plugins] if plugins else []

class Silent:
    def debug(self, message): pass
    warning = error = debug

options = {
    "logger": Silent(), "noprogress": True, "extract_flat": "in_playlist", "format": "best[height<=360]/best",
    "download_ranges": download_range_func(None, [(12, 24)]), "outtmpl": folder + "/%(id)s.%(ext)s",
}
answers = []
for link in links:
    with yt_dlp.YoutubeDL(options) as downloader:
        try:
            info = downloader.sanitize_info(downloader.extract_info(link, download=folder != "-"))
            answers.append(info)
        except yt_dlp.utils.DownloadError as error:
            answers.append({"error": str(error)})
print(json.dumps(answers))
"""


def ask_yt_dlp(site: Catalogue, *links: str, folder: Path | None = None, plugins: bool = True) -> list[dict[str, Any]]:
    """Have yt-dlp read links, and download the seconds 12 to 24 where a folder is given."""
    environment = {name: value for name, value in os.environ.items() if name != "YTDLP_NO_PLUGINS"}
    told = subprocess.run(
        [sys.executable, "-c", ASK_YT_DLP, str(PLUGINS) if plugins else "", str(folder or "-"), *links],
        env={**environment, **site.environment},
        check=True,
        capture_output=True,
        text=True,
    )
    answers: list[dict[str, Any]] = json.loads(told.stdout)
    return answers


def get(site: Catalogue, path: str, headers: dict[str, str] | None = None, *, timeout: float = 5) -> tuple[int, bytes]:
    """Status and body of a plain request."""
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=timeout)
    try:
        connection.request("GET", path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[Recording]:
    """Two recordings: the first with its index at the front, the second at the end."""
    return recordings(tmp_path_factory.mktemp("media"), 2, seconds=36)


@pytest.fixture
def site(two: list[Recording]) -> Iterator[Catalogue]:
    """A catalogue of good videos."""
    videos = [
        Video(id="a1", recording=two[0], title="A & B - <Song>", licence=CREATIVE_COMMONS, listed_duration=True),
        Video(id="b-2", recording=two[1], kind="hls", uploader="Another"),
        Video(id="c3", recording=two[1], kind="link", says_duration=False, listed_duration=True),
    ]
    lists = {"all of it": ["c3", "a1"]}
    with Catalogue(
        videos,
        searches={"sad song": ["a1", "b-2", "c3"], "glad": ["c3"]},
        playlists=lists,
        channels=lists,
        page_size=2,
    ) as catalogue:
        yield catalogue


def test_yt_dlp_searches_by_pages_and_lists_without_asking_for_each_video(site: Catalogue) -> None:
    links = ["catsearch2:sad song", "catsearchall:sad song", site.playlist("all of it"), site.channel("all of it")]
    few, many, playlist, channel = ask_yt_dlp(site, *links)
    assert [entry["id"] for entry in few["entries"]] == ["a1", "b-2"]
    assert [entry["id"] for entry in many["entries"]] == ["a1", "b-2", "c3"]
    assert [entry["id"] for entry in playlist["entries"]] == ["c3", "a1"]
    assert playlist["entries"] == channel["entries"]
    first = many["entries"][0]
    assert (first["url"], first["ie_key"], first["title"]) == (site.watch("a1"), "Catalogue", "A & B - <Song>")
    assert [entry.get("duration") for entry in many["entries"]] == [36, None, None]
    assert site.count("/search") == 3
    assert not site.requests_in("watch", "media")


def test_yt_dlp_reads_a_page_with_the_plugin_and_without_it(site: Catalogue) -> None:
    video, hls, link = ask_yt_dlp(site, *map(site.watch, ("a1", "b-2", "c3")))
    told = {"title": "A & B - <Song>", "uploader": "Somebody", "upload_date": "20210304", "duration": 36}
    assert {**video, **told, "license": CREATIVE_COMMONS} == video
    assert [found["height"] for found in video["formats"]] == [360, 720]
    assert [found["protocol"] for found in hls["formats"]] == ["m3u8_native"] * 2
    assert (hls["uploader"], hls.get("license"), link.get("duration")) == ("Another", None, None)
    assert [found["url"] for found in link["formats"]] == [site.file("c3")]
    links = [site.page("a1"), site.page("b-2"), site.file("c3"), site.hls("a1")]
    pages = ask_yt_dlp(site, *links, plugins=False)
    assert [len(found["formats"]) for found in pages] == [2, 2, 1, 2]
    assert {found["extractor_key"] for found in pages} == {"HTML5MediaEmbed", "Generic"}


def test_a_section_is_downloaded_from_an_mp4_and_from_hls(site: Catalogue, tmp_path: Path) -> None:
    ask_yt_dlp(site, *map(site.watch, ("a1", "b-2", "c3")), folder=tmp_path)
    for name in ("a1", "b-2", "c3"):
        with av.open(str(tmp_path / f"{name}.mp4")) as section:
            assert section.duration / av.time_base == pytest.approx(12, abs=3.1)  # cut at keyframes
            assert {stream.type for stream in section.streams} == {"video", "audio"}
        assert 0 < site.bytes_of(name) < 2 * site.videos[name].recording.files[360].stat().st_size
    assert site.bytes_served == sum(map(site.bytes_of, site.videos))
    assert all("user-agent" in request.headers for request in site.requests)


def test_ranges_and_marks_are_exact(site: Catalogue, two: list[Recording]) -> None:
    whole = two[1].files[360].read_bytes()
    status, served = get(site, "/media/c3-360.mp4")
    assert (status, len(served)) == (200, len(whole))
    assert served != whole
    assert served != get(site, "/media/b-2-360.mp4")[1]
    assert sum(a != b for a, b in zip(served, whole, strict=True)) <= 16
    mark = next(i for i in range(len(whole)) if served[i] != whole[i])
    for first, last in [(0, 0), (100, 99_999), (mark + 3, mark + 5), (mark - 9, mark + 99), (len(whole) - 5, "")]:
        status, part = get(site, "/media/c3-360.mp4", {"Range": f"bytes={first}-{last}"})
        assert status == 206
        assert part == served[first : len(whole) if last == "" else int(last) + 1]
    assert get(site, "/media/c3-360.mp4", {"Range": f"bytes={len(whole)}-"})[0] == 416
    assert [get(site, path)[0] for path in ("/media/c3-480.mp4", "/watch/none", "/playlist/none", "/")] == [404] * 4
    assert json.loads(get(site, "/search?q=none")[1]) == {"page": 1, "more": False, "results": []}


@pytest.mark.parametrize("name", STATUS_FAULTS)
def test_a_status_is_answered_for_the_page_or_for_the_media_alone(two: list[Recording], name: str) -> None:
    status = STATUS_FAULTS[name]
    videos = [Video(id="p", recording=two[0], fault=name), Video(id="m", recording=two[0], fault=f"media-{name}")]
    with Catalogue(videos) as site:
        assert [get(site, path)[0] for path in ("/watch/p", "/page/p", "/media/p-360.mp4")] == [status, status, 200]
        media = [f"/media/m{end}" for end in ("-360.mp4", "-720.mp4", ".m3u8", "/360.m3u8", "/360-0000.ts")]
        assert [get(site, path)[0] for path in ("/watch/m", *media)] == [200, *[status] * 5]


def test_yt_dlp_tells_a_pages_fault_in_the_words_of_large_sites(two: list[Recording]) -> None:
    videos = [Video(id=name, recording=two[0], fault=name) for name in WORD_FAULTS]
    with Catalogue([*videos, Video(id="login", fault="login")]) as site:
        answers = ask_yt_dlp(site, *map(site.watch, [*WORD_FAULTS, "login"]))
        generic = ask_yt_dlp(site, site.page("private"), plugins=False)[0]
    for words, answer in zip([*WORD_FAULTS.values(), "HTTP Error 401"], answers, strict=True):
        assert words in answer["error"]
    assert "Unsupported URL" in generic["error"]


@pytest.mark.parametrize(
    ("name", "error"), [("truncated", http.client.IncompleteRead), ("reset", ConnectionResetError)]
)
def test_a_body_ends_early_at_the_same_byte_however_often_it_is_asked_for(
    two: list[Recording], name: str, error: type[Exception]
) -> None:
    size = two[0].files[360].stat().st_size
    with Catalogue([Video(id="v", recording=two[0], fault=name)]) as site:
        for first in (0, 1000, 1000):
            with pytest.raises(error):
                get(site, "/media/v-360.mp4", {"Range": f"bytes={first}-"})
        requests = site.requests_of("v")
        assert [r.sent_bytes for r in requests] == [size // 8, size // 8 - 1000, size // 8 - 1000]
        assert get(site, "/media/v-360.mp4", {"Range": "bytes=0-99"})[0] == 206


def test_a_damaged_file_is_whole_for_http(two: list[Recording]) -> None:
    whole = two[1].files[360].read_bytes()
    with Catalogue([Video(id="v", recording=two[1], fault="damaged", marked=False)]) as site:
        assert get(site, "/media/v-360.mp4") == (200, whole[: len(whole) // 2])


def test_slow_and_silent_media_hold_their_clients_until_these_leave(two: list[Recording]) -> None:
    faults = {"s": "slow", "n": "never", "q": "page-never"}
    with Catalogue([Video(id=name, recording=two[0], fault=fault) for name, fault in faults.items()]) as site:
        for path in ("/media/n-360.mp4", "/watch/q"):
            with pytest.raises(TimeoutError):
                get(site, path, timeout=0.3)
        connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=5)
        began_s = time.monotonic()
        connection.request("GET", "/media/s-360.mp4")
        answer = connection.getresponse()
        assert answer.length == two[0].files[360].stat().st_size
        assert len(answer.read(3)) == 3
        assert time.monotonic() - began_s > 0.5
        connection.close()
        answer.close()
        wait_until(lambda: all(r.ended_s is not None for r in site.requests))
        assert site.bytes_of("s") < 10


def test_a_site_closes_at_once_though_clients_wait(two: list[Recording]) -> None:
    failed: list[type[BaseException]] = []

    def wait(site: Catalogue) -> None:
        try:
            get(site, "/media/n-360.mp4", timeout=PATIENCE_S)
        except OSError as error:
            failed.append(type(error))

    with Catalogue([Video(id="n", recording=two[0], fault="never")]) as site:
        waiting = threading.Thread(target=wait, args=(site,))
        waiting.start()
        wait_until(lambda: site.requests)
    waiting.join()
    assert failed == [http.client.RemoteDisconnected]  # and not that it waited in vain


def test_huge_media_claim_ten_gigabytes_and_have_no_ranges() -> None:
    with Catalogue([Video(id="h", fault="huge")]) as site:
        connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=5)
        connection.request("GET", "/media/h-360.mp4", headers={"Range": "bytes=5000-"})
        answer = connection.getresponse()
        assert (answer.status, answer.length) == (200, HUGE_BYTES)
        assert answer.read(40).count(b"mdat") == 1
        assert answer.read(1_000_000) == bytes(1_000_000)
        answer.close()
        connection.close()


def test_a_flaky_video_fails_a_few_times_and_a_redirect_leads_elsewhere(two: list[Recording]) -> None:
    videos = [
        Video(id="f", recording=two[0], fault="flaky", flaky_times=2),
        Video(id="r", recording=two[0], fault="redirect", redirect_to="http://127.0.0.2:1/x"),
    ]
    with Catalogue(videos) as site:
        assert [get(site, path)[0] for path in ("/watch/f", "/media/f-360.mp4", "/watch/f")] == [503, 503, 200]
        assert get(site, "/media/f-360.mp4")[0] == 200
        assert [get(site, path)[0] for path in ("/watch/r", "/media/r-360.mp4")] == [200, 302]


def test_a_storm_begins_and_ends_by_count_or_by_switch(site: Catalogue) -> None:
    site.storm(after=2, lasting=3)
    assert [get(site, "/watch/a1")[0] for _ in range(7)] == [200, 200, 429, 429, 429, 200, 200]
    site.storm(rooms={"media"})
    assert [get(site, path)[0] for path in ("/watch/a1", "/media/a1-360.mp4")] == [200, 429]
    site.calm()
    site.storming = True
    assert [get(site, path)[0] for path in ("/search?q=glad", "/media/a1-360.mp4", "/none")] == [429] * 3
    assert "429" in ask_yt_dlp(site, site.watch("a1"))[0]["error"]
    site.calm()
    assert get(site, "/watch/a1")[0] == 200


def test_guarded_rooms_open_to_the_cookie_alone_and_requests_are_kept_with_headers_and_times(
    two: list[Recording],
) -> None:
    with Catalogue([Video(id="v", recording=two[0])], cookie="session=s3cret") as site:
        assert get(site, "/watch/v")[0] == 200
        assert get(site, "/media/v.m3u8", {"Cookie": "session=s3cre"})[0] == 403
        time.sleep(0.2)
        assert get(site, "/media/v.m3u8", {"Cookie": "other=1; session=s3cret", "User-Agent": "me"})[0] == 200
        page, refused, allowed = site.requests_of("v")
        assert [r.status for r in site.requests_in("media")] == [403, 200]
        assert "cookie" not in page.headers
        assert (allowed.headers["cookie"], allowed.headers["user-agent"]) == ("other=1; session=s3cret", "me")
        assert 0.15 < allowed.at_s - refused.at_s < time.monotonic() - page.at_s
        site.forget()
        assert (site.requests, site.bytes_served) == ([], 0)


def test_bad_recordings_are_bad_as_named(tmp_path: Path, two: list[Recording]) -> None:
    def streams(made: Recording) -> set[str]:
        with av.open(str(made.files[360])) as file:
            return {stream.type for stream in file.streams}

    assert streams(recording(tmp_path, "quiet", seconds=4, sound=False)) == {"video"}
    assert streams(recording(tmp_path, "dark", seconds=4, picture=False)) == {"audio"}
    noise = garbled(tmp_path, two[0])
    assert streams(noise) == {"video", "audio"}
    decoded = {"video": 0, "audio": 0}
    with av.open(str(noise.files[360])) as file:
        for packet in file.demux():
            try:
                decoded[packet.stream.type] += len(packet.decode())
            except av.error.InvalidDataError:
                continue
    assert decoded == {"video": 36 * 15, "audio": 0}


def test_a_soak_has_every_fault_and_its_outcome_and_depends_on_the_seed_alone(two: list[Recording]) -> None:
    library = Library(good=two, garbled=two, no_audio=two, no_video=two, short=two)
    soak = build(library, seed=3)
    assert soak == build(library, seed=3)
    assert soak.expected != build(library, seed=4).expected
    assert len(soak.candidates) == 200
    assert 125 <= list(soak.expected.values()).count("kept") <= 145
    assert {c.video.fault for c in soak.candidates.values()} == {None, *(fault for fault, *_ in FAULTS)}
    found = {name for ids in soak.searches.values() for name in ids}
    assert found == {name for name, c in soak.candidates.items() if c.way == "search"}
    assert sum(map(len, soak.searches.values())) > len(found)
    with soak.open() as site:
        assert len(soak.expected_by_link(site)) == 200
        assert set(soak.links(site)) | {site.watch(name) for name in found} == set(soak.expected_by_link(site))
        assert len(soak.links(site)) > len(set(soak.links(site)))
    assert "slow" not in {c.video.fault for c in build(library, count=90, without=("slow",)).candidates.values()}


def test_a_fault_that_there_is_not_is_refused() -> None:
    for name in ("mising", "media-private", "page-", "pages-slow"):
        with pytest.raises(ValueError, match="no such fault"):
            Video(id="v", fault=name)
