"""The crawl of one request, driven without Prefect: what trouble of one candidate does to the others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from pipeline.clips import ClipSpan
from pipeline.crawl import Access
from pipeline.errors import DurationError
from pipeline.fetch import Crawl, CrawlSettings, host_of
from pipeline.filters.judge import OFF, Filters
from pipeline.filters.text import Rule, read_rules
from pipeline.prepare import Recipe, prepare
from pipeline.queries import candidates_of, read_queries
from pipeline.schema import Rejected, Sample
from pipeline.sources import Source
from pipeline.store import ClipKey, Store, Video, open_store
from pipeline.workers import WorkerPool
from tests.catalogue.media import recordings
from tests.catalogue.site import PLUGINS, Catalogue
from tests.catalogue.site import Video as Film


@pytest.fixture
def store(tmp_path) -> Iterator[Store]:
    with open_store(tmp_path / "store") as opened:
        yield opened


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return recordings(tmp_path_factory.getbasetemp().parent / "catalogue-media", 1)[0]


@pytest.fixture
def site(film, monkeypatch) -> Iterator[Catalogue]:
    films = [Film(id=name, recording=film) for name in ("a", "b", "c")]
    films += [Film(id=name, recording=film, fault="login") for name in ("wall", "fence")]
    lists = {"good": ["a", "b"], "late": ["c", "a"]}
    with Catalogue(films, searches={"song": ["wall", "a"], "void": []}, playlists=lists) as running:
        monkeypatch.setenv("CATALOGUE_URL", running.url)
        yield running


def crawl_of(store: Store, filters: Filters = OFF) -> Crawl:
    access = Access(allow_private=True, plugins=str(PLUGINS), request_pause_s=0, max_fetch_s=10)
    return Crawl(store, CrawlSettings(access=access, seed=0, modality="both", filters=filters, sleep_s=(0, 0)))


def listed(store: Store, *words: str, again: tuple[str, ...] = ()) -> list[Video]:
    queries = read_queries(words, search_prefix="catsearch", per_search=9)
    return crawl_of(store).list_videos(queries, again=again)


def fetched(store: Store, videos: list[Video], clips_per_video: int = 1) -> list[Source]:
    crawl = crawl_of(store)
    sources = candidates_of(videos, None, clips_per_video=clips_per_video)
    crawl.queue(sources)
    return list(crawl.fetch(sources))


def ends(sources: list[Source]) -> dict[str, str]:
    return {source.source_id: source.problem[0] if source.problem else "fetched" for source in sources}


def test_the_clips_of_one_private_video_are_no_wall_around_the_site(store, site):
    sources = fetched(store, listed(store, "search:song"), clips_per_video=3)
    found = ends(sources)
    assert {found[f"catalogue:wall{tail}"] for tail in ("", " (clip 2)", " (clip 3)")} == {"private"}
    assert found["catalogue:a"] == "fetched"


def test_a_list_that_breaks_off_today_is_listed_tomorrow(store, site):
    site.storm(rooms=("playlist",))
    with pytest.raises(Exception, match="asks for fewer requests"):
        listed(store, site.playlist("late"))
    site.calm()
    gone = site.playlist("late").replace(str(site.port), "1")
    (unread,) = listed(store, gone)
    assert unread.problem is not None
    assert unread.problem[0] == "network"
    assert ends(fetched(store, [unread])) == {gone: "network"}
    assert not store.is_listed(gone)
    assert [video.video_id for video in listed(store, site.playlist("late"))] == ["catalogue:c", "catalogue:a"]


def test_a_list_that_is_not_there_is_a_candidate_and_is_asked_for_again_when_told_to(store, site):
    missing = site.playlist("none")
    (video,) = listed(store, missing, site.playlist("good"))[:1]
    assert (video.video_id, video.problem and video.problem[0]) == (missing, "unavailable")
    asked = len(site.requests)
    assert listed(store, missing) == [replace(video, request=missing)]
    assert len(site.requests) == asked
    site.lists["playlist"]["none"] = ["b"]
    assert [v.video_id for v in listed(store, missing, again=("unavailable",))] == ["catalogue:b"]


def test_a_search_that_finds_nothing_is_made_again(store, site):
    assert listed(store, "search:void") == []
    site.searches["void"] = ["c"]
    assert [video.video_id for video in listed(store, "search:void")] == ["catalogue:c"]


def test_an_error_of_our_own_costs_one_candidate(store, site, monkeypatch):
    real = WorkerPool.run

    def broken(self, function, *words, **options):
        if "fetch" in words and "/watch/a" in str(words):
            raise DurationError(40.0)
        if "fetch" in words and "/watch/b" in str(words):
            raise ZeroDivisionError("ours")
        return real(self, function, *words, **options)

    monkeypatch.setattr(WorkerPool, "run", broken)
    sources = fetched(store, listed(store, site.playlist("good"), site.watch("c")))
    assert ends(sources) == {"catalogue:a": "undecodable", "catalogue:b": "internal", "catalogue:c": "fetched"}


def test_spans_are_drawn_anew_for_another_duration_and_beside_those_that_stand(store):
    keys = [ClipKey(video_id="v", number=n, seed=0, modality="both") for n in range(2)]
    store.add_listings({"q": [Video(video_id="v", link="https://a.org/v")]})
    store.enqueue(keys)
    store.set_resolved(Video(video_id="v", link="", duration_s=500.0))
    store.set_span(keys[0], ClipSpan(start_s=400.0))
    store.set_resolved(Video(video_id="v", link="", duration_s=500.0))
    assert store.spans(keys[0]) == {0: ClipSpan(start_s=400.0)}
    store.set_resolved(Video(video_id="v", link="", duration_s=120.0))
    assert store.spans(keys[0]) == {}


@pytest.mark.parametrize(
    ("link", "site_name"),
    [
        ("https://www.youtube.com/watch?v=x", "youtube.com"),
        ("https://m.youtube.com./watch?v=x", "youtube.com"),
        ("https://youtu.be/x", "youtube.com"),
        ("ytsearch5:song", "youtube.com"),
        ("https://vimeo.com/1", "vimeo.com"),
        ("http://127.0.0.1:80/x", "127.0.0.1"),
        ("http://[::1]/x", "::1"),
    ],
)
def test_a_site_is_one_whatever_its_host_is_called(link, site_name):
    assert host_of(link) == site_name


# --- rules of titles, descriptions, categories and lengths -------------------------------------------------------

RULES = """name,field,pattern,over_s,unless
interview,title,interview with,,official video
long,duration,,45,
lesson,description,in this video you learn,,
gaming,category,gaming,,
"""
TALK = {
    "by-title": {"title": "Interview with Somebody"},
    "by-length": {"listed_duration": True},  # the others' is not listed, and 40 s by their pages
    "by-description": {"description": "In this video\nyou learn three chords."},
    "by-category": {"categories": ("Gaming", "Music")},
    "song": {"title": "Interview with the Devil (Official Video)"},
}


@pytest.fixture
def talk(film, monkeypatch) -> Iterator[Catalogue]:
    """A site on which one video alone is what it is looked for."""
    films = [
        Film(id=name, recording=film, **({"duration_s": 44.0} if name != "by-length" else {}) | traits)
        for name, traits in TALK.items()
    ]
    with Catalogue(films, searches={"song": list(TALK)}) as running:
        monkeypatch.setenv("CATALOGUE_URL", running.url)
        yield running


@pytest.fixture
def rules(tmp_path) -> tuple[Rule, ...]:
    (tmp_path / "rules.csv").write_text(RULES)
    return read_rules(tmp_path / "rules.csv")


def rooms(site: Catalogue, name: str) -> list[str]:
    return list(dict.fromkeys(request.room for request in site.requests_of(f"{name}")))


def test_what_rules_drop_is_not_fetched_and_by_its_listed_words_not_even_asked_for(store, talk, rules):
    filters = Filters(mode="drop", rules=rules)
    crawl = crawl_of(store, filters=filters)
    sources = candidates_of(listed(store, "search:song"), None, clips_per_video=1)
    crawl.queue(sources)
    assert [why for _, why in crawl.refused(sources)] == [
        'rule interview: title has "interview with"',
        "rule long: it takes 50 s, more than 45",
    ]
    asked = {source.source_id for source in crawl.to_fetch(sources)}
    assert asked == {f"catalogue:{name}" for name in ("by-description", "by-category", "song")}
    found = {source.source_id.removeprefix("catalogue:"): source for source in crawl.fetch(sources)}
    assert {name: source.problem and source.problem[0] for name, source in found.items()} == {
        **dict.fromkeys(TALK, "text"),
        "song": None,
    }
    assert found["by-description"].problem == ("text", 'rule lesson: description has "in this video you learn"')
    assert found["by-category"].problem == ("text", 'rule gaming: category has "gaming"')
    assert {name: rooms(talk, name) for name in TALK} == {
        "by-title": [],
        "by-length": [],
        "by-description": ["watch"],
        "by-category": ["watch"],
        "song": ["watch", "media"],
    }
    # The index tells of each, though nothing was decoded.
    for name, rule in {"by-title": "interview", "by-description": "lesson", "by-category": "gaming"}.items():
        row = prepare(found[name], recipe=Recipe(), seed=0, filters=filters)
        assert isinstance(row, Rejected)
        assert (row.code, row.meta["text_rules"], row.meta["flagged"]) == ("text", [rule], ["text"])
    assert store.clip(ClipKey(video_id="catalogue:by-title", number=0, seed=0, modality="both")).code == "text"


def test_rules_of_one_request_do_not_bind_another_on_the_same_store(store, talk, rules):
    sources = candidates_of(listed(store, "search:song"), None, clips_per_video=1)
    first = crawl_of(store, filters=Filters(mode="drop", rules=rules))
    first.queue(sources)
    assert sum(source.problem is not None for source in first.fetch(sources)) == 4
    sources = candidates_of(store.videos(["catsearch9:song"]), None, clips_per_video=1)
    for filters in (OFF, Filters(mode="score", rules=rules), Filters(mode="drop", rules=rules[:1])):
        crawl = crawl_of(store, filters=filters)
        crawl.queue(sources)
        wanted = {source.source_id for source in crawl.to_fetch(sources)}
        assert len(wanted) == (3 if filters.mode == "drop" else 4)  # the song is there
    crawl = crawl_of(store, filters=Filters(mode="score", rules=rules))
    crawl.queue(sources)
    by_description = next(source for source in sources if "by-description" in source.source_id)
    (fetched_after_all,) = crawl.fetch([by_description])
    assert fetched_after_all.problem is None
    asked = len(talk.requests)
    # And what is fetched is not wanted by the first request still, which asks nobody.
    again = list(first.fetch([by_description]))
    assert [source.problem and source.problem[0] for source in again] == ["text"]
    assert len(talk.requests) == asked


def test_a_clip_that_was_fetched_is_scored_by_its_pages_words(store, talk, rules):
    filters = Filters(mode="score", rules=rules)
    crawl = crawl_of(store, filters=filters)
    sources = [s for s in candidates_of(listed(store, "search:song"), None, clips_per_video=1) if "by-c" in s.source_id]
    crawl.queue(sources)
    (source,) = crawl.fetch(sources)
    assert source.categories == ("Gaming", "Music")
    made = prepare(source, recipe=Recipe(), seed=0, filters=filters)
    assert isinstance(made, Sample)
    assert (made.meta["text_rules"], made.meta["flagged"][0]) == (["gaming"], "text")
