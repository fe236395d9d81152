"""With a clock that only waiting moves: nothing here sleeps."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest

from pipeline import manners
from pipeline.errors import LoginWantedError, RateLimitedError, RejectedError, UnreachableError
from pipeline.manners import CrawlStoppedError, Host, HungUpError
from tests.waiting import PATIENCE_S

SLEEP_S = (5.0, 10.0)


class Clock:
    """Time, and the event on which the crawl waits for its end."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.hung_up = False
        self.hang_up_at_s = float("inf")
        self.waits_s: list[float] = []

    def monotonic(self) -> float:
        return self.now_s

    def wait(self, timeout: float) -> bool:
        assert timeout >= 0
        self.waits_s.append(timeout)
        self.now_s = min(self.now_s + timeout, max(self.now_s, self.hang_up_at_s))
        self.hung_up |= self.now_s >= self.hang_up_at_s
        return self.hung_up


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    wall = itertools.count(0, -10_000)  # somebody sets the machine's clock back, again and again
    monkeypatch.setattr(manners, "time", SimpleNamespace(monotonic=clock.monotonic, time=lambda: next(wall)))
    return clock


def host(clock: Clock, *, sleep_s: tuple[float, float] = SLEEP_S) -> Host:
    return Host("a.org", sleep_s=sleep_s, hang_up=clock)  # type: ignore[arg-type]


def answers(clock: Clock, *told: object, takes_s: float = 0.0) -> tuple[Callable[[], object], list[float]]:
    """A question that is answered so, one after the other; and the times at which it was asked."""
    left, asked_s = list(told), []

    def question() -> object:
        asked_s.append(clock.now_s)
        clock.now_s += takes_s
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return question, asked_s


def gaps(times_s: Sequence[float]) -> list[float]:
    return [later - earlier for earlier, later in itertools.pairwise(times_s)]


# --- pauses ----------------------------------------------------------------------------------------------------------


def test_the_first_question_is_asked_at_once(clock):
    question, asked_s = answers(clock, "yes")
    assert host(clock).ask(question) == "yes"
    assert asked_s == [1000.0]


def test_pauses_lie_in_the_range_and_differ(clock):
    site = host(clock)
    question, asked_s = answers(clock, *range(300))
    assert [site.ask(question) for _ in range(300)] == list(range(300))
    pauses_s = gaps(asked_s)
    assert min(pauses_s) >= 5
    assert max(pauses_s) <= 10
    assert len(set(pauses_s)) > 290
    assert min(pauses_s) < 5.5  # and they fill it
    assert max(pauses_s) > 9.5


def test_the_pause_is_counted_from_the_answer_and_what_passed_meanwhile_is_part_of_it(clock):
    site = host(clock)
    question, asked_s = answers(clock, *range(20), takes_s=30.0)
    for _ in range(20):
        site.ask(question)
        clock.now_s += 4.0  # of our own work
    for gap_s in gaps(asked_s):
        assert 30 + 5 <= gap_s <= 30 + 10
    clock.now_s += 60.0
    before_s = clock.now_s
    site.ask(answers(clock, "yes")[0])
    assert clock.now_s == before_s  # the pause is over already


@pytest.mark.parametrize(
    "error",
    [
        RejectedError("unavailable", "gone"),
        LoginWantedError("sign in"),
        UnreachableError("no such host"),
        RuntimeError("a worker died"),
    ],
)
def test_after_a_question_that_failed_the_next_one_waits_too(clock, error):
    site = host(clock)
    question, asked_s = answers(clock, error, "yes")
    with pytest.raises(type(error)):
        site.ask(question)
    assert site.ask(question) == "yes"
    assert 5 <= gaps(asked_s)[0] <= 10


def test_before_the_same_candidate_is_asked_for_again_there_is_a_pause_too(clock):
    site = host(clock)
    for _ in range(50):
        site.pause()
    assert all(5 <= wait_s <= 10 for wait_s in clock.waits_s)


def test_with_no_pause_wanted_nothing_is_waited_for(clock):
    site = host(clock, sleep_s=(0.0, 0.0))
    question, asked_s = answers(clock, *range(5))
    for _ in range(5):
        site.ask(question)
    assert asked_s == [1000.0] * 5


def test_a_clock_that_somebody_sets_changes_nothing(monkeypatch):
    """With the real clock, and the day of the year 2100 in the middle."""
    site = Host("a.org", sleep_s=(0.05, 0.06), hang_up=threading.Event())
    site.ask(lambda: None)
    began_s = time.monotonic()
    monkeypatch.setattr(time, "time", lambda: 4_102_444_800.0)
    site.ask(lambda: None)
    assert 0.04 < time.monotonic() - began_s < PATIENCE_S


# --- fewer requests --------------------------------------------------------------------------------------------------


def test_a_site_that_wants_fewer_requests_is_given_time_each_wait_twice_the_one_before(clock):
    site = host(clock)
    limits = [RateLimitedError("HTTP 429: slow down")] * 3
    question, asked_s = answers(clock, *limits, "yes", "again")
    assert site.ask(question) == "yes"
    assert gaps(asked_s) == [20.0, 40.0, 80.0]
    assert site.ask(question) == "again"
    assert 5 <= gaps(asked_s)[-1] <= 10


def test_after_three_waits_it_is_left_alone(clock):
    site = host(clock)
    question, asked_s = answers(clock, *[RateLimitedError("HTTP 429: slow down")] * 4, "never asked")
    with pytest.raises(CrawlStoppedError) as caught:
        site.ask(question)
    assert gaps(asked_s) == [20.0, 40.0, 80.0]
    assert clock.now_s == asked_s[-1]  # and nothing is waited for in vain
    assert str(caught.value) == (
        "a.org asks for fewer requests (HTTP 429: slow down); what is queued stays queued: run the same command "
        "later, or with longer pauses (--sleep-s 10 20)"
    )


def test_an_answer_ends_a_storm_and_the_next_one_is_waited_for_anew(clock):
    site = host(clock)
    storm = [RateLimitedError("429")] * 2
    question, asked_s = answers(clock, *storm, "yes", *storm, "yes")
    site.ask(question)
    site.ask(question)
    assert gaps(asked_s)[:2] == gaps(asked_s)[3:] == [20.0, 40.0]


@pytest.mark.parametrize(("named_s", "waited_s"), [(35.0, 35.0), (3.0, 20.0), (300.0, 300.0), (None, 20.0)])
def test_it_is_given_the_time_that_it_names_and_never_less_than_we_would(clock, named_s, waited_s):
    question, asked_s = answers(clock, RateLimitedError("429", named_s), "yes")
    assert host(clock).ask(question) == "yes"
    assert gaps(asked_s) == [waited_s]


@pytest.mark.parametrize("named_s", [300.5, 3600.0, 1e300])
def test_one_that_names_more_than_five_minutes_is_left_alone_at_once(clock, named_s):
    question, asked_s = answers(clock, RateLimitedError("429", named_s), "never asked")
    with pytest.raises(CrawlStoppedError):
        host(clock).ask(question)
    assert len(asked_s) == 1
    assert clock.now_s == 1000.0


def test_who_asks_for_long_pauses_gets_long_waits_and_three_of_them(clock):
    question, asked_s = answers(clock, *[RateLimitedError("429")] * 3, "yes")
    assert host(clock, sleep_s=(100.0, 200.0)).ask(question) == "yes"
    assert gaps(asked_s) == [400.0, 800.0, 1600.0]


# --- the end ---------------------------------------------------------------------------------------------------------


def test_a_crawl_that_ends_while_a_thread_waits_asks_nothing_more(clock):
    site = host(clock)
    question, asked_s = answers(clock, "yes", "never asked")
    site.ask(question)
    clock.hang_up_at_s = clock.now_s + 2
    with pytest.raises(HungUpError):
        site.ask(question)
    assert len(asked_s) == 1
    with pytest.raises(HungUpError):  # even where nothing needs to be waited for
        host(clock).ask(question)
    with pytest.raises(HungUpError):
        site.pause()


def test_a_crawl_that_ends_ends_a_backoff(clock):
    clock.hang_up_at_s = 1001.0
    question, asked_s = answers(clock, RateLimitedError("429"), "never asked")
    with pytest.raises(HungUpError):
        host(clock).ask(question)
    assert len(asked_s) == 1


def test_a_thread_that_waits_is_woken_by_the_end_of_the_crawl():
    """With the real clock and event."""
    hang_up = threading.Event()
    site = Host("a.org", sleep_s=(600.0, 600.0), hang_up=hang_up)
    site.ask(lambda: None)
    threading.Timer(0.1, hang_up.set).start()
    began_s = time.monotonic()
    with pytest.raises(HungUpError):
        site.ask(lambda: None)
    assert time.monotonic() - began_s < 30


# --- one candidate after the other -----------------------------------------------------------------------------------

LOGIN = LoginWantedError("HTTP 401: sign in")
GONE = UnreachableError("a.org: no such host")


class Round:
    """A visit to a site whose candidates are answered as the words say: ``ok``, or an error."""

    def __init__(self, clock: Clock, *told: object, others_answered: bool = False, site: Host | None = None) -> None:
        self.site = site or host(clock)
        self.told = told
        self.asked: list[int] = []
        self.brought: list[tuple[str, int, str]] = []
        self.others_answered = others_answered
        self.stopped: CrawlStoppedError | None = None
        try:
            visit = self.site.visit(
                range(len(told)),
                self.bring,
                self.give_up,
                counts_as=str,
                others_answered=lambda: self.others_answered,
            )
            for result in visit:
                self.brought.append(result)
        except CrawlStoppedError as error:
            self.stopped = error

    def bring(self, item: int) -> tuple[str, int, str]:
        self.asked.append(item)
        if isinstance(answer := self.told[item], Exception):
            raise answer
        return ("brought", item, str(answer))

    def give_up(self, item: int, error: Exception) -> tuple[str, int, str]:
        return ("given up", item, str(error))

    @property
    def ends(self) -> list[tuple[str, int]]:
        return [(word, item) for word, item, _ in self.brought]


def test_every_candidate_is_brought_in_its_order(clock):
    told = Round(clock, "a", "b", "c")
    assert told.brought == [("brought", 0, "a"), ("brought", 1, "b"), ("brought", 2, "c")]
    assert told.site.has_answered
    assert told.stopped is None


def test_a_visit_keeps_the_pauses(clock):
    Round(clock, *"abcdef")
    waits_s = clock.waits_s[1:]
    assert len(waits_s) == 5
    assert all(5 <= wait_s <= 10 for wait_s in waits_s)


@pytest.mark.parametrize("error", [LOGIN, GONE])
def test_one_or_two_in_trouble_are_given_up_once_the_next_one_is_answered(clock, error):
    told = Round(clock, "a", error, "c", error, error, "f")
    assert told.ends == [
        ("brought", 0), ("given up", 1), ("brought", 2), ("given up", 3), ("given up", 4), ("brought", 5),
    ]  # fmt: skip
    assert told.brought[1] == ("given up", 1, str(error))
    assert told.stopped is None


@pytest.mark.parametrize("error", [LOGIN, GONE])
@pytest.mark.parametrize("number", [1, 2])
def test_one_or_two_in_trouble_at_the_end_are_given_up_too(clock, error, number):
    told = Round(clock, "a", *[error] * number)
    assert told.ends == [("brought", 0), *(("given up", n + 1) for n in range(number))]
    assert told.stopped is None


def test_three_logins_in_a_row_stop_the_crawl_and_stay_queued(clock):
    told = Round(clock, "a", LOGIN, LOGIN, LOGIN, "never asked", others_answered=True)
    assert told.ends == [("brought", 0)]
    assert told.asked == [0, 1, 2, 3]
    assert str(told.stopped) == (
        "a.org asks for a login (HTTP 401: sign in); what is queued stays queued: run the same command "
        "with --cookies FILE or --cookies-from-browser NAME, or later"
    )


def test_logins_that_are_not_in_a_row_stop_nothing(clock):
    told = Round(clock, *[LOGIN, LOGIN, "ok"] * 5)
    assert told.stopped is None
    assert [word for word, _ in told.ends] == ["given up", "given up", "brought"] * 5


def test_a_site_that_answered_before_and_is_gone_stops_the_crawl(clock):
    told = Round(clock, "a", GONE, GONE, GONE, "never asked", others_answered=True)
    assert told.ends == [("brought", 0)]
    assert str(told.stopped) == (
        "a.org cannot be reached (a.org: no such host); what is queued stays queued: run the same command "
        "when the network is back"
    )


def test_where_nobody_answers_it_is_our_network_and_the_crawl_stops(clock):
    told = Round(clock, *[GONE] * 10, others_answered=False)
    assert told.brought == []
    assert told.asked == [0, 1, 2]
    assert "when the network is back" in str(told.stopped)


def test_where_others_answer_a_site_that_never_did_is_gone_and_all_of_it_is_given_up(clock):
    told = Round(clock, *[GONE] * 3, "never asked", "nor this one", others_answered=True)
    assert told.ends == [("given up", n) for n in range(5)]
    assert told.asked == [0, 1, 2]
    assert told.stopped is None


@pytest.mark.parametrize("answer", [LOGIN, RejectedError("unavailable", "gone"), RateLimitedError("429")])
def test_a_site_that_said_no_has_answered(clock, answer):
    site = host(clock)
    question, _ = answers(clock, answer, "yes")
    with contextlib.suppress(LoginWantedError, RejectedError):
        site.ask(question)
    told = Round(clock, *[GONE] * 3, others_answered=True, site=site)
    assert told.stopped is not None


def test_who_cannot_be_reached_has_not_answered(clock):
    site = host(clock)
    with pytest.raises(UnreachableError):
        site.ask(answers(clock, GONE)[0])
    assert not site.has_answered


def test_a_rate_limit_within_a_visit_stops_it_and_leaves_suspects_queued(clock):
    told = Round(clock, "a", LOGIN, *[RateLimitedError("429", 3600.0)], "never asked")
    assert told.ends == [("brought", 0)]
    assert "asks for fewer requests" in str(told.stopped)


def test_an_error_of_our_own_ends_the_visit_as_it_is(clock):
    with pytest.raises(ZeroDivisionError):
        Round(clock, "a", ZeroDivisionError())


def test_the_end_of_the_crawl_ends_a_visit_and_leaves_the_rest_queued(clock):
    clock.hang_up_at_s = 1012.0
    with pytest.raises(HungUpError):
        Round(clock, *"abcdefgh")
