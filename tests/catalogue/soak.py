"""A catalogue of 200 candidates, good and bad, with what a crawl should make of each.

soak = build(library(folder), seed=0)
with soak.open() as site:
    ...  # crawl soak.searches (keys) and soak.links(site); then compare with soak.expected
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.catalogue.media import SHORT_S, garbled, recording, recordings
from tests.catalogue.site import Catalogue
from tests.catalogue.videos import Recording, Video

KEPT = "kept"
CREATIVE_COMMONS = "Creative Commons Attribution license (reuse allowed)"
NUM_SEARCHES = 6
PLUGIN = ("search", "watch")
PAGES = (*PLUGIN, "page")
MEDIA = (*PAGES, "file")
EVERY_WAY = ("search", "search", "search", "watch", "page", "file", "hls")
KINDS = ("mp4", "mp4", "hls", "link")
ONE_FILE = ("slow", "never", "truncated", "reset", "damaged", "huge", "redirect")

# (fault, code, how many of 200, ways on which it shows). The rest is good.
FAULTS: tuple[tuple[str, str, int, tuple[str, ...]], ...] = (
    ("missing", "unavailable", 5, PAGES),
    ("gone", "unavailable", 2, PAGES),
    ("removed", "unavailable", 2, PLUGIN),
    ("media-missing", "unavailable", 4, MEDIA),
    ("forbidden", "forbidden", 3, PAGES),
    ("media-forbidden", "forbidden", 3, MEDIA),
    ("private", "private", 4, PLUGIN),
    ("login", "private", 2, PAGES),
    ("age", "age-gated", 2, PLUGIN),
    ("geo-blocked", "geo-blocked", 3, PAGES),
    ("geo-words", "geo-blocked", 1, PLUGIN),
    ("broken", "network", 2, PAGES),
    ("media-broken", "network", 2, MEDIA),
    ("reset", "network", 3, MEDIA),
    ("page-reset", "network", 1, PAGES),
    ("truncated", "network", 4, MEDIA),
    ("slow", "timeout", 2, MEDIA),
    ("never", "timeout", 2, MEDIA),
    ("page-never", "timeout", 1, PAGES),
    ("damaged", "undecodable", 4, MEDIA),
    ("huge", "too-large", 2, MEDIA),
    ("flaky", KEPT, 4, MEDIA),
    ("redirect", KEPT, 3, MEDIA),
)

# (recordings of the library, code, how many of 200)
BAD_RECORDINGS = (
    ("garbled", "undecodable", 3),
    ("no_audio", "no-audio", 4),
    ("no_video", "no-video", 4),
    ("short", "too-short", 5),
)

Plan = tuple[dict[str, Any], str, tuple[str, ...]]  # traits of a video, what becomes of it, ways to it


@dataclass(frozen=True, kw_only=True)
class Library:
    """Recordings of which a soak's videos are made."""

    good: Sequence[Recording]
    """The index is at the end in every other one, from the second on."""
    garbled: Sequence[Recording]
    no_audio: Sequence[Recording]
    no_video: Sequence[Recording]
    short: Sequence[Recording]


def library(folder: Path, num_good: int = 12, *, seconds: float = SHORT_S) -> Library:
    """Make the recordings, or take those made before; a second or two each."""
    good = recordings(folder, num_good, seconds=seconds)
    return Library(
        good=good,
        garbled=[garbled(folder, of) for of in good[:2]],
        no_audio=[recording(folder, f"no-audio-{n}", number=n, seconds=seconds, sound=False) for n in (1, 4)],
        no_video=[recording(folder, f"no-video-{n}", number=n, seconds=seconds, picture=False) for n in (2, 5)],
        short=[recording(folder, f"short-{n}", number=n, seconds=20) for n in (3, 6)],
    )


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A video, the way on which the crawl comes to it, and what should become of it."""

    video: Video
    way: str
    """``search``: found by a key. Else it is in the list of links: ``watch`` (the plugin's page), ``page`` (read by the
    generic extractor), ``file`` (the plain mp4), ``hls`` (the plain playlist)."""
    expected: str
    """``kept``, or the code."""

    def link(self, site: Catalogue) -> str:
        """Its address, on either way."""
        return getattr(site, "watch" if self.way == "search" else self.way)(self.video.id)  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True)
class Soak:
    """The whole of it."""

    candidates: dict[str, Candidate]  # by video id
    searches: dict[str, list[str]]  # the keys overlap

    @property
    def expected(self) -> dict[str, str]:
        """``kept`` or the code, by video id."""
        return {name: candidate.expected for name, candidate in self.candidates.items()}

    def expected_by_link(self, site: Catalogue) -> dict[str, str]:
        """``kept`` or the code, by link."""
        return {candidate.link(site): candidate.expected for candidate in self.candidates.values()}

    def links(self, site: Catalogue) -> list[str]:
        """The list of links: all that no search finds, and a few that one does find, twice even."""
        linked = [c.link(site) for c in self.candidates.values() if c.way != "search"]
        found = [c.link(site) for c in self.candidates.values() if c.way == "search"][:3]
        return [*linked, *found, linked[0]]

    def open(self, **options: Any) -> Catalogue:
        """The site; to be used in a ``with``."""
        return Catalogue([c.video for c in self.candidates.values()], searches=self.searches, **options)


def build(library: Library, *, seed: int = 0, count: int = 200, without: Sequence[str] = ()) -> Soak:
    """Draw a soak's candidates.

    Parameters
    ----------
    library
        Of which recordings.
    seed
        The same seed gives the same soak.
    count
        Candidates; each fault comes as often as it does among 200, in proportion, but once at least.
    without
        Faults, and names of bad recordings, to leave out; good videos stand in.
    """
    rng = random.Random(seed)
    plans = list(_bad_plans(library, rng, count, without))
    if len(plans) >= count:
        raise ValueError(f"count {count}: the faults alone are {len(plans)}; leave some out")
    plans += [({"recording": library.good[n % len(library.good)]}, KEPT, EVERY_WAY) for n in range(count - len(plans))]
    rng.shuffle(plans)
    candidates: dict[str, Candidate] = {}
    for traits, code, ways in plans:
        way = rng.choice(ways)
        video = _video(rng, way, traits)
        candidates[video.id] = Candidate(video=video, way=way, expected=code)
    targets = [c.video.id for c in candidates.values() if c.expected == KEPT and c.video.fault is None]
    return Soak(candidates=_aim(candidates, rng, targets), searches=_searches(candidates, rng))


def _bad_plans(library: Library, rng: random.Random, count: int, without: Sequence[str]) -> Iterator[Plan]:
    for fault, code, of_200, ways in FAULTS:
        # Cut in the middle, a recording loses an index at its end; with one at the front a section may be whole.
        among = library.good[1::2] if fault == "damaged" else library.good
        for _ in range(0 if fault in without else max(1, round(of_200 * count / 200))):
            yield {"fault": fault, "recording": rng.choice(among)}, code, ways
    for name, code, of_200 in BAD_RECORDINGS:
        made = getattr(library, name)
        for number in range(0 if name in without else max(1, round(of_200 * count / 200))):
            traits: dict[str, Any] = {"recording": made[number % len(made)]}
            if name == "short" and number % 3:  # one tells its length, one does not, one says more than is true
                traits |= {"says_duration": False} if number % 3 == 1 else {"duration_s": SHORT_S}
            yield traits, code, MEDIA


def _video(rng: random.Random, way: str, traits: dict[str, Any]) -> Video:
    """What is not a fault is drawn."""
    kind = {"hls": "hls", "file": "link"}.get(way) or rng.choice(("mp4", "mp4", "hls") if way == "page" else KINDS)
    # Cut off or slow bodies are those of one file; a recording without HLS has none.
    if traits.get("fault") in ONE_FILE or traits["recording"].hls is None:
        kind = "link" if kind == "link" else "mp4"
    number = rng.randrange(36**6)
    return Video(
        **{
            "id": "".join(rng.choices("ABCDEFGHJKMNPQRSTUVWXYZabcdefghjkmnpqrstuvwxyz23456789_-", k=11)),
            "kind": kind,
            "title": f"Artist {number % 97} - Song {number % 1009} (Official Music Video)",
            "uploader": f"Channel {number % 41}",
            "upload_date": f"20{number % 14 + 10}{number % 12 + 1:02d}{number % 28 + 1:02d}",
            "licence": rng.choice((CREATIVE_COMMONS, None)),
            "listed_duration": rng.random() < 0.5,
            **traits,
        }
    )


def _aim(candidates: dict[str, Candidate], rng: random.Random, targets: Sequence[str]) -> dict[str, Candidate]:
    """Redirects go to good media, as to another server of the same site."""
    aimed = {}
    for name, candidate in candidates.items():
        video = candidate.video
        if video.fault == "redirect":
            video = replace(video, redirect_to=f"/media/{rng.choice(targets)}-360.mp4")
        aimed[name] = replace(candidate, video=video)
    return aimed


def _searches(candidates: dict[str, Candidate], rng: random.Random) -> dict[str, list[str]]:
    """Deal the candidates out to the keys; each key finds some of the others' too."""
    found = [name for name, candidate in candidates.items() if candidate.way == "search"]
    searches = {}
    for number in range(NUM_SEARCHES):
        own = found[number::NUM_SEARCHES]
        others = [name for name in found if name not in own]
        ids = own + rng.sample(others, min(len(others), len(own) // 3))
        rng.shuffle(ids)
        searches[f"music video {number}"] = ids
    return searches
