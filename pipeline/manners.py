"""How the crawl behaves towards a site: pauses, patience, and when it is time to go.

A site has one session and one request under way at a time; between two of its candidates there is a pause of random
length. A site that asks for fewer requests is given time, then left alone with all that is queued. A login that one
page wants is that page's trouble; one that three candidates in a row are asked for is the site's.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

from pipeline.errors import LoginWantedError, RateLimitedError, RejectedError, UnreachableError

Result = TypeVar("Result")
Item = TypeVar("Item")

MAX_BACKOFFS = 3  # waits for a site that asks for fewer requests, each twice the one before
MAX_BACKOFF_S = 300.0
IN_A_ROW = 3  # candidates that tell a site's trouble from a page's


class CrawlStoppedError(Exception):
    """The crawl ends here for now, and what is queued stays queued: one line that says why, and what to do."""

    suspects: Sequence[Any] = ()
    """Items that it ended over."""


class HungUpError(Exception):
    """The crawl was ended while this thread waited for its turn."""


class Host:
    """Our dealings with one site, from one thread."""

    def __init__(self, name: str, *, sleep_s: tuple[float, float], hang_up: threading.Event) -> None:
        self.name = name
        self.has_answered = False
        self._sleep_s = sleep_s
        self._hang_up = hang_up
        self._next_s = time.monotonic()  # a clock that nobody sets

    def ask(self, question: Callable[[], Result]) -> Result:
        """Ask after the pause that is due; wait and ask again where the site wants fewer requests.

        Raises
        ------
        CrawlStoppedError
            If it still does after three waits, or names one of more than five minutes.
        HungUpError
            If the crawl is ended meanwhile.
        Exception
            As the question does; the next one waits its turn as after an answer.
        """
        for wait_s in (self._sleep_s[1] * 2**n for n in range(1, MAX_BACKOFFS + 2)):
            self._wait(self._next_s - time.monotonic())
            try:
                answer = question()
            except RateLimitedError as error:
                limited = error
                self.has_answered = True
                asked_s = error.retry_after_s or 0.0
                if asked_s > MAX_BACKOFF_S:
                    break
                self._next_s = time.monotonic() + max(wait_s, asked_s)
                continue
            except Exception as error:
                self.has_answered |= isinstance(error, LoginWantedError | RejectedError)
                self._rest()
                raise
            self.has_answered = True
            self._rest()
            return answer
        raise CrawlStoppedError(
            f"{self.name} asks for fewer requests ({limited}); what is queued stays queued: run the same command "
            "later, or with longer pauses (--sleep-s 10 20)"
        ) from limited

    def pause(self) -> None:
        """Wait as between two candidates, before one is asked for again."""
        self._wait(random.uniform(*self._sleep_s))

    def _wait(self, wait_s: float) -> None:
        if self._hang_up.wait(max(0.0, wait_s)):
            raise HungUpError

    def _rest(self) -> None:
        self._next_s = time.monotonic() + random.uniform(*self._sleep_s)

    def visit(
        self,
        items: Iterable[Item],
        bring: Callable[[Item], Result],
        give_up: Callable[[Item, Exception], Result],
        *,
        counts_as: Callable[[Item], str | None],
        others_answered: Callable[[], bool],
    ) -> Iterator[Result]:
        """Bring item after item; those that met the site's own trouble are given up once it is known to be theirs.

        ``counts_as`` names what an item counts as among those in a row: clips of one video are one. None: it was such a
        suspect in an earlier run, and proves nothing now.

        Raises
        ------
        CrawlStoppedError
            If three in a row were asked for a login, or found no way to a site that was there before.
        """
        suspects: list[tuple[Item, Exception]] = []
        left = iter(items)
        for item in left:
            try:
                result = self.ask(partial(bring, item))
            except (LoginWantedError, UnreachableError) as error:
                suspects.append((item, error))
                if len({name for suspect, _ in suspects if (name := counts_as(suspect)) is not None}) < IN_A_ROW:
                    continue
                if isinstance(error, LoginWantedError):
                    told = f"{self.name} asks for a login ({error}); what is queued stays queued: run the same command "
                    told += "with --cookies FILE or --cookies-from-browser NAME, or later"
                elif self.has_answered or not others_answered():
                    told = f"{self.name} cannot be reached ({error}); what is queued stays queued: "
                    told += "run the same command when the network is back"
                else:
                    told = ""
                if told:
                    stopped = CrawlStoppedError(told)
                    stopped.suspects = [suspect for suspect, _ in suspects]
                    raise stopped from error
                suspects += [(item, error) for item in left]  # other sites answer: this one is gone
                break
            yield from (give_up(*suspect) for suspect in suspects)
            suspects.clear()
            yield result
        yield from (give_up(*suspect) for suspect in suspects)
