"""The loopback catalogue that tests of the crawl use: real yt-dlp reads it, and its faults are what they say."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest

from tests.catalogue.media import recordings
from tests.catalogue.site import PLUGINS, Catalogue, Recording, Video

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
