from __future__ import annotations

import inspect
import math
import tempfile
from dataclasses import fields
from http.cookiejar import MozillaCookieJar
from pathlib import Path

import pytest

from flows.build_shards import build_shards
from flows.crawling import room
from flows.request import BROWSERS, PROXY_VARIABLE, Request
from pipeline.errors import UserError
from pipeline.locations import folder_of
from pipeline.queries import Query
from pipeline.schema import CODES, INDEX
from pipeline.shards import write_rows
from pipeline.sources import Source
from pipeline.store import Video, open_store

COOKIE = "a.org\tFALSE\t/\tTRUE\t0\tsession\tsecret\n"


def request(**changes: object) -> Request:
    """What the command asks for, but for these parameters; nothing is read of what they name."""
    words = {"source": ["search:sad song"], "out": "set"} | changes
    bound = inspect.signature(build_shards.fn).bind(**words)
    bound.apply_defaults()
    return Request(**bound.arguments)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(PROXY_VARIABLE, raising=False)


def mistake(**changes: object) -> str:
    """The line that tells of it."""
    with pytest.raises(UserError) as caught:
        request(**changes)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_the_flows_parameters_are_the_requests_fields_and_the_defaults_are_no_mistake():
    assert [field.name for field in fields(Request)] == list(inspect.signature(build_shards.fn).parameters)
    request()


@pytest.mark.parametrize(
    "name",
    ["limit", "samples_per_shard", "workers", "per_search", "clips_per_video", "fetchers", "max_height", "max_clip_mb"],
)
def test_counts_begin_at_1(name):
    flag = f"--{name.replace('_', '-')}"
    for number in (0, -1):
        assert mistake(**{name: number}) == f"{flag} {number}: give a whole number from 1 up"
    assert getattr(request(**{name: 1}), name) == 1


def test_frames_are_lossless_unless_asked_for_as_jpeg_of_a_sensible_quality():
    assert (request().recipe.frames, request().recipe.jpeg_quality) == ("npy", None)
    assert request(frames="jpeg").recipe.jpeg_quality == 90
    assert request(frames="jpeg", jpeg_quality=75, modality="video").recipe.jpeg_quality == 75
    assert mistake(jpeg_quality=75) == "--jpeg-quality is for --frames jpeg; give both, or leave it out"
    for quality in (-1, 0, 96):
        assert mistake(frames="jpeg", jpeg_quality=quality) == f"--jpeg-quality {quality}: give 1 to 95"
    assert mistake(frames="jpeg", modality="audio") == (
        "--frames jpeg: a set of --modality audio has no frames; leave it out"
    )


def test_the_phase_stored_is_the_papers_likeliest_unless_the_angle_is_asked_for():
    assert request().recipe.phase == "projected"
    assert request().recipe.hash == request(phase="projected").recipe.hash != request(phase="angle").recipe.hash
    assert request(phase="angle", modality="audio").recipe.phase == "angle"
    assert mistake(phase="angle", modality="video") == (
        "--phase angle: a set of --modality video has no sound; leave it out"
    )


@pytest.mark.parametrize("source", [[], "", [""], ["search:sad", " "]])
def test_a_source_must_be_named(source):
    assert mistake(source=source) == (
        "--source is missing: a folder, search:KEY, a link, or a file of searches and links"
    )


@pytest.mark.parametrize("name", ["out", "store"])
def test_a_folder_without_a_name_is_not_the_one_we_stand_in(name):
    assert mistake(**{name: ""}) == f"--{name} is missing: name a folder"


@pytest.mark.parametrize(
    ("sleep_s", "told"),
    [
        ((10.0, 5.0), "10 5"),
        ((-1.0, 5.0), "-1 5"),
        ((math.nan, 5.0), "nan 5"),
        ((5.0, math.nan), "5 nan"),
        ((5.0, math.inf), "5 inf"),
    ],
)
def test_pauses_are_a_range(sleep_s, told):
    assert mistake(sleep_s=sleep_s) == (
        f"--sleep-s {told}: give the shortest pause, then the longest, from 0 up to a day"
    )


@pytest.mark.parametrize("sleep_s", [(0.0, 0.0), (7.0, 7.0), (5.0, 86_400.0)])
def test_pauses_may_be_equal_or_none(sleep_s):
    assert request(sleep_s=sleep_s).sleep_s == sleep_s


@pytest.mark.parametrize("limit_s", [0.0, -1.0, math.nan, math.inf, 1e300])
def test_a_fetch_has_a_limit(limit_s):
    assert mistake(max_fetch_s=limit_s) == f"--max-fetch-s {limit_s:g}: give seconds above 0, up to a day"


@pytest.mark.parametrize("seed", [2**63, -(2**63) - 1, 10**30])
def test_a_seed_fits_the_crawls_record(seed):
    assert mistake(seed=seed) == f"--seed {seed}: give a whole number of 64 bits"
    for fitting in (2**63 - 1, -(2**63), 0):
        request(seed=fitting)


@pytest.mark.parametrize("prefix", ["", "yt search", "ytsearch:", "ytsearch5", "5", "https://a.org", "ytsearchü"])
def test_a_search_prefix_is_a_word(prefix):
    """A number at its end would run into the number of results."""
    assert (
        mistake(search_prefix=prefix) == f"--search-prefix {prefix}: give an extractor's search key, such as ytsearch"
    )


@pytest.mark.parametrize("prefix", ["ytsearch", "ytsearchdate", "p2psearch", "x"])
def test_a_plugins_search_prefix_is_taken(prefix):
    (query,) = request(search_prefix=prefix, per_search=3).queries()
    assert query == Query(request=f"{prefix}3:sad song", is_search=True)


def test_codes_to_retry_are_known_ones():
    assert mistake(retry="network,boredom, sleep").startswith("--retry boredom, sleep: no such code; known are ")
    assert request(retry=" network, timeout,,").again == {"network", "timeout"}
    assert request(retry=",".join(CODES.keys() - {"purged"})).again == CODES.keys() - {"purged"}
    assert mistake(retry="network,purged") == "--retry purged: what was taken down is not brought back"
    assert request(retry=None).again == frozenset()
    assert mistake(retry=" ,") == "--retry names no code; give some, separated by commas"


# --- how it goes out -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (None, "--cookies cookies.txt cannot be read: No such file or directory"),
        ("", "--cookies cookies.txt is no cookies file in Netscape's format"),
        ('[{"name": "session"}]', "--cookies cookies.txt is no cookies file in Netscape's format"),
        (f"# Netscape HTTP Cookie File\n{COOKIE}too\tfew\n", "--cookies cookies.txt is no cookies file in Netscape's"),
        (b"\xff\xfe\x00", "--cookies cookies.txt cannot be read: it is no text"),
        (b"# Netscape HTTP Cookie File\n\xff\xfe\n" * 3000, "--cookies cookies.txt"),
        ("folder", "--cookies cookies.txt cannot be read: Is a directory"),
    ],
)
def test_a_cookies_file_that_cannot_be_used_is_told(content, line, capfd):
    file = Path("cookies.txt")
    if content == "folder":
        file.mkdir()
    elif content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert mistake(cookies="cookies.txt").startswith(line)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("header", ["# Netscape HTTP Cookie File", "# HTTP Cookie File"])
def test_a_cookies_file_is_read_and_left_as_it_is(header):
    file = Path("cookies.txt")
    file.write_text(f"{header}\n\n{COOKIE}#HttpOnly_b.org\tFALSE\t/\tTRUE\t1\told\tvalue\n")
    before = file.read_bytes()
    assert request(cookies="cookies.txt").crawl().access.cookies == "cookies.txt"
    assert file.read_bytes() == before
    jar = MozillaCookieJar("cookies.txt")
    jar.load(ignore_discard=True, ignore_expires=True)
    assert len(jar) == 2


@pytest.mark.parametrize("browser", ["", "netscape", "Firefox", ":Profile 1"])
def test_a_browser_is_a_known_one(browser):
    assert mistake(cookies_from_browser=browser) == (
        f"--cookies-from-browser {browser}: known are {', '.join(BROWSERS)}"
    )


def test_a_browser_may_have_a_profile():
    assert request(cookies_from_browser="chrome:Profile 1").crawl().access.cookies_from_browser == "chrome:Profile 1"


def test_browsers_are_those_that_yt_dlp_knows():
    from yt_dlp.cookies import SUPPORTED_BROWSERS

    assert set(BROWSERS) == set(SUPPORTED_BROWSERS)


BAD_PROXIES = ["a.org:3128", "https://a.org:3128", "socks5://a.org", "http://", "http://[bad", "http://a.org:port",
               "http://a.org:99999", "http://a.org:0"]  # fmt: skip


@pytest.mark.parametrize("proxy", BAD_PROXIES)
def test_a_proxy_is_an_http_one(proxy, monkeypatch):
    assert mistake(proxy=proxy) == "--proxy: only proxies of the form http://host:port are used"
    monkeypatch.setenv(PROXY_VARIABLE, proxy)
    assert mistake() == "CRAWL_PROXY: only proxies of the form http://host:port are used"


def test_a_password_is_never_a_parameter_nor_shown(monkeypatch):
    line = mistake(proxy="http://user:secret@a.org:3128")
    assert line == "--proxy with a password would be written down: put it into the variable CRAWL_PROXY"
    monkeypatch.setenv(PROXY_VARIABLE, "socks5://user:secret@a.org")
    assert "secret" not in mistake()
    monkeypatch.setenv(PROXY_VARIABLE, "http://user:secret@a.org:3128")
    settings = request(proxy="http://other:3128").crawl()
    assert settings.access.proxy == "http://user:secret@a.org:3128"  # the variable counts
    assert "secret" not in repr(settings)
    assert "secret" not in repr(request())


def test_a_proxy_without_a_password_may_be_a_parameter():
    assert request(proxy="http://[::1]:3128").crawl().access.proxy == "http://[::1]:3128"
    assert request().crawl().access.proxy is None


@pytest.mark.parametrize("plugins", ["gone", "", "file.py"])
def test_plugins_are_a_folder(plugins):
    Path("file.py").touch()
    assert mistake(plugins=plugins) == (
        f"--plugins {plugins}: no such folder; `default` loads the yt-dlp plugins installed"
    )


def test_plugins_may_be_those_installed_or_a_folder_of_ones_own():
    Path("mine").mkdir()
    for plugins in ("default", "mine", None):
        assert request(plugins=plugins).crawl().access.plugins == plugins


# --- what is asked for -----------------------------------------------------------------------------------------------


def test_one_word_or_several_name_the_source():
    assert request(source="search:sad").words == request(source=["search:sad"]).words == ["search:sad"]
    assert request(source="search:sad").is_crawl


def test_a_folder_is_read_and_not_crawled():
    Path("media").mkdir()
    Path("media/a.mp4").touch()
    asked = request(source="media", clips_per_video=2)
    assert not asked.is_crawl
    assert [source.source_id for source in asked.folder()] == ["a.mp4", "a.mp4 (clip 2)"]


def test_a_folder_of_this_machine_may_be_an_address():
    here = Path.cwd().as_uri()
    Path("media").mkdir()
    Path("media/a.mp4").touch()
    asked = request(
        source=f"{here}/media", out=f"{here}/set", store=f"{here}/store", clips=f"FILE://localhost{here[7:]}/c"
    )
    asked.check()
    assert [source.source_id for source in asked.folder()] == ["a.mp4"]
    places = (asked.out_folder, asked.store_folder, asked.clips_folder)
    assert places == tuple(Path.cwd() / name for name in ("set", "store", "c"))


@pytest.mark.parametrize("name", ["source", "out", "store", "clips"])
@pytest.mark.parametrize("address", ["s3:/bucket/x", "S3:x", "file:/x", "file://host/x"])
def test_what_is_nearly_an_address_is_no_folder_of_that_name(name, address):
    asked = request(**{name: address})
    with pytest.raises(UserError, match=f"--{name} {address} is no address"):
        asked.check()
    assert not any(Path.cwd().iterdir())


@pytest.mark.parametrize("name", ["out", "store", "clips"])
def test_an_address_of_what_is_no_store_is_no_folder(name):
    for address in ("ftp://host/x", "memory://x"):
        with pytest.raises(UserError, match=f"--{name} {address} is no folder"):
            request(**{name: address}).check()
    assert mistake(store="S3://bucket/x").startswith("--store S3://bucket/x: the crawl's record is a local file")


def test_the_room_told_is_that_of_the_disks_that_hold_something(bucket, monkeypatch):
    free = {Path("set"): 3e9, Path("store/clips"): 2e9, Path(tempfile.gettempdir()): 1e9}
    monkeypatch.setattr("flows.crawling.free_bytes", free.__getitem__)
    remote = f"{bucket}/x"
    shards = "temporary files (TMPDIR) take up to 1.28 GB on disk, where 1.0 GB are free"
    unknown = f"in {remote}, of which this machine does not know what is free"
    with open_store(Path("store")) as store:
        asked = request(workers=2)
        assert list(room(store, asked)) == ["free on disk: 2.0 GB"]
        asked = request(workers=2, out=remote)
        clips = "of that, the clips: on disk, where 2.0 GB are free"
        assert list(room(store, asked)) == [clips, f"of that, the set: {unknown}", shards]
    with open_store(Path("other"), clips=folder_of(remote)) as store:
        assert list(room(store, asked)) == [f"of that, the clips: {unknown}", f"of that, the set: {unknown}", shards]
        clip = "temporary files (TMPDIR) take up to 0.01 GB on disk, where 1.0 GB are free"
        own = "of that, the set: on disk, where 3.0 GB are free"
        assert list(room(store, request(workers=2))) == [f"of that, the clips: {unknown}", own, clip]


def test_candidates_of_a_crawl_are_labelled_by_a_table():
    Path("labels.csv").write_text("link,label\nhttps://a.org/1,Sad\n")
    asked = request(source="https://a.org/1", labels="labels.csv", clips_per_video=2)
    (row,) = asked.label_rows() or []
    one, two = asked.candidates([Video(video_id="site:1", link="https://a.org/1")], {"site:1": row})
    assert (one.label, two.label, two.number) == ("Sad", "Sad", 1)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"source": ["gone"]}, "--source gone: no such folder or list"),
        ({"source": ["search:"]}, "holds a search without a key"),
        ({"labels": "mved"}, "--labels mved goes with a folder"),
        ({"labels": "gone.csv"}, "gone.csv: no such file"),
        ({"exclude": ["gone"]}, "--exclude gone is no data set"),
        ({"source": "media", "exclude": ["gone"]}, "--exclude gone is no data set"),
    ],
)
def test_lists_tables_and_sets_are_read_before_anything_begins(changes, line):
    Path("media").mkdir()
    asked = request(**changes)
    with pytest.raises(UserError, match=line) as caught:
        asked.check()
    assert "\n" not in str(caught.value)


def test_split_is_for_labelled_sets():
    with pytest.raises(UserError, match="--split is for labelled sets"):
        request(split="grouped").build([])


def test_the_crawl_goes_out_as_it_was_asked_to():
    write_rows(Path("test set/index.parquet"), [{"status": "kept", "source_id": "site:1"}], INDEX)
    asked = request(
        seed=3,
        modality="audio",
        license="creative-commons",
        sleep_s=(0.5, 2.0),
        fetchers=2,
        exclude=["test set"],
        max_height=240,
        max_fetch_s=60.0,
        max_clip_mb=20,
        allow_private=True,
    )
    settings = asked.crawl()
    assert (settings.seed, settings.modality, settings.license) == (3, "audio", "creative-commons")
    assert (settings.sleep_s, settings.fetchers) == ((0.5, 2.0), 2)
    access = settings.access
    assert (access.max_height_px, access.max_fetch_s, access.max_clip_bytes) == (240, 60.0, 20_000_000)
    assert access.allow_private
    assert access.request_pause_s == 0.5  # within a page no longer than between two
    assert request().crawl().access.request_pause_s == 1.0
    known = {"link": "https://a.org/1", "title": "", "groups": ()}
    sources = [Source(source_id=name, video_id=name, **known) for name in ("site:1", "site:2")]
    told = [source.problem for source in asked.build(sources).sources]
    assert told == [("excluded", "test set holds this video"), None]


def test_workers_must_see_the_clips_where_the_store_remembers_them(tmp_path):
    written = tmp_path / "set/.build/request.json"
    assert request(store="new").shared == [written, tmp_path / "new"]
    with open_store(Path("near"), clips=Path("elsewhere")):
        pass
    assert request(store="near").shared == [written, tmp_path / "elsewhere"]
    assert (tmp_path / "elsewhere").is_dir()  # before anything is fetched
