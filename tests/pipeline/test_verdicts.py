"""Errors as yt-dlp, ffmpeg and the proxy make them: what they mean for the candidate, and for the crawl."""

from __future__ import annotations

import http.client
import io
import socket
from collections.abc import Callable

import pytest
from yt_dlp.networking import Response
from yt_dlp.networking.exceptions import HTTPError, IncompleteRead, TransportError
from yt_dlp.utils import DownloadError, ExtractorError, GeoRestrictedError, UnsupportedError

from pipeline.errors import LoginWantedError, RateLimitedError, RejectedError, SiteError, UnreachableError
from pipeline.proxy import Answer, Budget, Limits
from pipeline.schema import CODES
from pipeline.verdicts import verdict

HOST = "a.org"


def budget(**known: object) -> Budget:
    return Budget(limits=Limits(max_bytes=1000, max_s=60.0), **known)  # type: ignore[arg-type]


def meaning(error: BaseException, spent: Budget | None = None) -> str:
    """The code, or the kind of word that the site sends the whole crawl."""
    told = verdict(error, spent or budget())
    if isinstance(told, RejectedError):
        assert told.code in CODES
        assert "\n" not in told.detail
        assert told.detail
        return told.code
    assert isinstance(told, SiteError)
    assert "\n" not in str(told)
    assert str(told)
    return {RateLimitedError: "rate-limited", LoginWantedError: "login", UnreachableError: "unreachable"}[type(told)]


def http_error(status: int, reason: str = "", **headers: str) -> HTTPError:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return HTTPError(Response(io.BytesIO(), "https://a.org/x", fields, status=status, reason=reason or "Because"))


def page_error(words: str, *, video_id: str = "aB3_-dEfGh1", cause: Exception | None = None) -> DownloadError:
    """What extract_info raises."""
    try:
        try:
            raise ExtractorError(words, expected=True, video_id=video_id, ie="youtube", cause=cause)
        except ExtractorError as error:
            raise DownloadError(f"\x1b[0;31mERROR:\x1b[0m {error}", (type(error), error, None)) from None
    except DownloadError as error:
        return error


# --- HTTP ------------------------------------------------------------------------------------------------------------

STATUSES = {
    400: "unavailable",
    401: "login",
    403: "forbidden",
    404: "unavailable",
    407: "unreachable",
    408: "timeout",
    410: "unavailable",
    416: "unavailable",
    418: "unavailable",
    429: "rate-limited",
    451: "geo-blocked",
    500: "network",
    502: "network",
    503: "network",
    504: "network",
}


def bare(status: int) -> Exception:
    return http_error(status)


def in_a_page(status: int) -> Exception:
    return page_error(f"Unable to download webpage: HTTP Error {status}: Because", cause=http_error(status))


def raised_from(status: int) -> Exception:
    try:
        raise ValueError("something else") from http_error(status)
    except ValueError as error:
        return error


def raised_while_handling(status: int) -> Exception:
    try:
        try:
            raise http_error(status)
        except HTTPError:
            raise ValueError("something else")  # noqa: B904
    except ValueError as error:
        return error


@pytest.mark.parametrize(("status", "code"), STATUSES.items())
@pytest.mark.parametrize("wrapped", [bare, in_a_page, raised_from, raised_while_handling])
def test_a_status_is_found_wherever_yt_dlp_keeps_it(wrapped: Callable[[int], Exception], status, code):
    assert meaning(wrapped(status)) == code
    assert str(verdict(wrapped(status), budget())).split(": ", 1)[-1].startswith(f"HTTP {status}: ") or code in (
        "rate-limited",
        "login",
        "unreachable",
    )


@pytest.mark.parametrize(("status", "code"), STATUSES.items())
def test_a_status_that_ffmpeg_met_behind_the_relay_is_that_of_the_answer(status, code):
    spent = budget(answers=[Answer(host=HOST, status=200), Answer(host=HOST, status=status, error=http_error(status))])
    assert meaning(DownloadError("ERROR: ffmpeg exited with code 8"), spent) == code


def test_of_several_answers_the_last_that_went_wrong_counts():
    spent = budget(
        answers=[
            Answer(host=HOST, status=503, error=http_error(503)),
            Answer(host=HOST, status=404, error=http_error(404)),
            Answer(host=HOST, status=200),
        ]
    )
    assert meaning(DownloadError("ERROR: ffmpeg exited with code 8"), spent) == "unavailable"


@pytest.mark.parametrize(
    ("told", "seconds"),
    [("120", 120.0), ("0", 0.0), ("Wed, 21 Oct 2026 07:28:00 GMT", None), ("-5", None), ("1e9", None), ("", None)],
)
def test_the_seconds_that_a_site_asks_to_wait_go_with_the_word(told, seconds):
    error = verdict(page_error("Unable", cause=http_error(429, Retry_After=told)), budget())
    assert isinstance(error, RateLimitedError)
    assert error.retry_after_s == seconds
    behind = Answer(host=HOST, status=429, retry_after=told, error=http_error(429, Retry_After=told))
    error = verdict(DownloadError("ERROR: ffmpeg exited with code 1"), budget(answers=[behind]))
    assert isinstance(error, RateLimitedError)
    assert error.retry_after_s == seconds


@pytest.mark.parametrize(
    ("failure", "code"),
    [(http_error(429), "rate-limited"), (http_error(503), "network"), (TransportError("timed out"), "timeout")],
)
@pytest.mark.parametrize(
    "words", ["Unsupported URL: https://a.org/x", "No video formats found!", "Unable to extract data"]
)
def test_what_was_passed_over_on_the_way_says_why_nothing_was_found(words, failure, code):
    assert meaning(page_error(words), budget(last_failure=failure)) == code
    assert meaning(page_error(words)) in ("unsupported-link", "unavailable")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (page_error("Private video. Sign in if you've been granted access to this video"), "private"),
        (page_error("This video has been removed by the uploader"), "unavailable"),
        (http_error(404), "unavailable"),
        (TransportError("connection reset"), "network"),
    ],
)
def test_what_was_passed_over_does_not_count_where_a_page_says_why(error, code):
    assert meaning(error, budget(last_failure=http_error(429))) == code


def test_a_429_without_the_header_names_no_time():
    error = verdict(http_error(429), budget())
    assert isinstance(error, RateLimitedError)
    assert error.retry_after_s is None


# --- words -----------------------------------------------------------------------------------------------------------

YOUTUBE = [
    ("rate-limited", "Sign in to confirm you\N{RIGHT SINGLE QUOTATION MARK}re not a bot. This helps protect our "
     "community. Use --cookies-from-browser or --cookies for the authentication"),
    ("rate-limited", "Video unavailable. This content isn't available, try again later. The current session has been "
     "rate-limited by YouTube for up to an hour. It is recommended to use `-t sleep` to add a delay"),
    ("rate-limited", "Our systems have detected unusual traffic from your computer network"),
    ("private", "Private video. Sign in if you've been granted access to this video"),
    ("private", "Join this channel to get access to members-only content like this video, and other exclusive perks."),
    ("private", "This video is available to this channel's members on level: Fan (or any higher level). Join this "
     "channel to get access to members-only content"),
    ("private", "This video is only available to Music Premium members"),
    ("age-gated", "Sign in to confirm your age. This video may be inappropriate for some users."),
    ("age-gated", "This video is age-restricted and only available on YouTube"),
    ("geo-blocked", "The uploader has not made this video available in your country\nYou might want to use a VPN"),
    ("geo-blocked", "Video unavailable. This video contains content from UMG, who has blocked it in your country on "
     "copyright grounds"),
    ("geo-blocked", "Video unavailable. This video is not available in your country"),
    ("live", "This live event will begin in 3 hours."),
    ("live", "Premieres in 2 days"),
    ("live", "This live stream recording is not available."),
    ("unavailable", "Video unavailable"),
    ("unavailable", "Video unavailable. This video has been removed by the uploader"),
    ("unavailable", "This video has been removed for violating YouTube's Terms of Service"),
    ("unavailable", "Video unavailable. This video is no longer available because the YouTube account associated with "
     "this video has been terminated."),
    ("unavailable", "This channel does not exist."),
    ("unavailable", "No video formats found!"),
    ("unavailable", "Requested format is not available. Use --list-formats for a list of available formats"),
    ("unavailable", "This video is DRM protected"),
    ("login", "This video is only available for registered users. Use --cookies-from-browser or --cookies for the "
     "authentication. See  https://github.com/yt-dlp/yt-dlp/wiki/FAQ  for how to manually pass cookies"),
    ("login", "Please sign in to view this video"),
    ("login", "You need to log in to access this content"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "words"), YOUTUBE)
def test_a_page_says_it_in_words(code, words):
    assert meaning(page_error(words)) == code
    assert meaning(page_error(words.upper())) == code


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("geo-blocked", GeoRestrictedError("This video is not available from your location due to geo restriction")),
        ("unsupported-link", UnsupportedError("https://a.org/nothing")),
        ("unsupported-link", ExtractorError("No suitable extractor (Foo) found for URL https://a.org")),
        ("timeout", TransportError("HTTPSConnectionPool(host='a.org', port=443): Read timed out. (read timeout=20.0)")),
        ("timeout", TimeoutError("The read operation timed out")),
        ("network", TransportError("Connection was reset")),
        ("network", TransportError("EOF occurred in violation of protocol")),
        ("network", ConnectionResetError(104, "Connection reset by peer")),
        ("network", IncompleteRead(partial=5, expected=10)),
        ("network", http.client.IncompleteRead(b"12345", 10)),
        ("network", http.client.RemoteDisconnected("Remote end closed connection without response")),
        ("network", socket.gaierror(-2, "Name or service not known")),
        ("network", OSError(5, "Input/output error")),
        ("unavailable", ValueError("something nobody expected")),
        ("unavailable", KeyError()),
    ],
)
def test_errors_of_links_and_connections_have_their_codes_bare_and_within_a_page(code, error):
    assert meaning(error) == code
    if not isinstance(error, ExtractorError | ValueError | KeyError):
        assert meaning(page_error("Unable to download webpage", cause=error)) == code


def test_a_page_that_was_forbidden_or_is_gone_may_say_more_than_its_status():
    assert meaning(page_error("Private video", cause=http_error(403))) == "private"
    assert meaning(page_error("Sign in to confirm you're not a bot", cause=http_error(403))) == "rate-limited"
    assert meaning(page_error("This video is not available in your country", cause=http_error(404))) == "geo-blocked"
    assert meaning(page_error("Private video", cause=http_error(503))) == "network"
    assert meaning(page_error("Video unavailable", cause=http_error(429))) == "rate-limited"


@pytest.mark.parametrize("name", ["captcha", "how to log in", "rate-limited", "try again later", "timeout", "sign in"])
@pytest.mark.parametrize(("status", "code"), [(404, "unavailable"), (403, "forbidden"), (None, "unavailable")])
def test_a_songs_name_or_link_is_not_taken_for_the_sites_word(name, status, code):
    """Three such songs in a row would else end the crawl; one called captcha would do by itself."""
    words = f"Unable to download https://a.org/{name.replace(' ', '-')}?q={name.replace(' ', '+')}"
    cause = None if status is None else http_error(status)
    assert meaning(page_error(words, video_id=name, cause=cause)) == code


@pytest.mark.parametrize("name", ["captcha", "login", "not-a-bot-rate-limited"])
def test_a_link_that_nobody_can_read_is_that_whatever_its_words(name):
    assert meaning(UnsupportedError(f"https://a.org/{name}")) == "unsupported-link"


# --- the budget ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spent", "code", "detail"),
    [
        ({"exceeded": "time"}, "timeout", "more than 60 s"),
        ({"exceeded": "bytes"}, "too-large", "more than 1000 bytes"),
        (
            {"refused": ["http://first", "10.0.0.1 is a private address"]},
            "unsupported-link",
            "10.0.0.1 is a private address; --allow-private lets such links pass",
        ),
        ({"refused": ["ftp is not fetched"]}, "unsupported-link", "ftp is not fetched"),
    ],
)
@pytest.mark.parametrize("error", [http_error(429), ValueError("not a bot"), RejectedError("undecodable", "why")])
def test_a_limit_of_ours_explains_whatever_came_of_it(spent, code, detail, error):
    told = verdict(error, budget(unreachable=["a.org: no way"], **spent))
    assert isinstance(told, RejectedError)
    assert (told.code, told.detail) == (code, detail)


def test_where_no_connection_was_made_the_site_is_out_of_reach():
    spent = budget(unreachable=["b.org: refused", "a.org: no such host"])
    for error in (TransportError("no proxy"), http_error(502), page_error("x", cause=http_error(502))):
        told = verdict(error, spent)
        assert isinstance(told, UnreachableError)
        assert str(told) == "a.org: no such host"


def test_a_proxy_of_the_users_that_wants_another_password_is_no_way_there():
    spent = budget(unreachable=["proxy:3128 answers 407"])
    assert str(verdict(page_error("x", cause=http_error(407)), spent)) == "proxy:3128 answers 407"


@pytest.mark.parametrize(("status", "code"), [(404, "unavailable"), (429, "rate-limited"), (503, "network")])
def test_a_site_that_answered_in_the_end_was_reached(status, code):
    assert meaning(http_error(status), budget(unreachable=["cdn.a.org: refused"])) == code


# --- what came was looked into ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["undecodable", "too-short", "no-audio", "live", "network"])
def test_a_clip_that_came_whole_and_is_no_good_has_the_code_that_was_found(code):
    found = RejectedError(code, "why; sign in, captcha, HTTP Error 429")
    assert verdict(found, budget(answers=[Answer(host=HOST, status=206)])) is found


@pytest.mark.parametrize(
    ("broke", "code"),
    [
        (ConnectionResetError("Connection reset by peer"), "network"),
        (ConnectionError("the body ended early"), "network"),
        (IncompleteRead(partial=5, expected=10), "network"),
        (ValueError("odd"), "network"),
        (http_error(503), "network"),
        (http_error(404), "unavailable"),
        (http_error(403), "forbidden"),
        (http_error(429), "rate-limited"),
    ],
)
def test_a_clip_that_does_not_decode_because_the_way_broke_off_is_not_the_files_fault(broke, code):
    spent = budget(answers=[Answer(host=HOST, status=206, error=broke)])
    assert meaning(RejectedError("undecodable", "2.0 s could be decoded of 30.0 s promised"), spent) == code


def test_judging_twice_gives_the_same_verdict():
    """The look into the file is judged, and what comes of that once more with all that happened around it."""
    statuses = [http_error(status) for status in (429, 401, 407, 404, 503)]
    for broke in (*statuses, ConnectionResetError("reset")):
        spent = budget(answers=[Answer(host=HOST, status=206, error=broke)])
        found = RejectedError("undecodable", "why")
        once = verdict(found, spent)
        once.__cause__ = found
        twice = verdict(once, spent)
        assert (type(twice), str(twice)) == (type(once), str(once))
    spent = budget(unreachable=["a.org: no such host"])
    once = verdict(TransportError("x"), spent)
    assert str(verdict(once, spent)) == str(once)


# --- ffmpeg and memory -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [("1", "undecodable"), ("183", "undecodable"), ("-11", "internal")])
def test_ffmpeg_without_a_word_of_the_site_could_not_read_what_came(number, code):
    assert meaning(DownloadError(f"ERROR: ffmpeg exited with code {number}")) == code


def test_what_needs_too_much_memory_is_too_large():
    assert meaning(MemoryError()) == "too-large"
    assert meaning(page_error("x", cause=MemoryError())) == "too-large"


# --- details ---------------------------------------------------------------------------------------------------------


def test_a_detail_is_the_first_line_of_what_was_said_without_colours_and_calls_for_help():
    error = DownloadError(
        "\x1b[0;31mERROR:\x1b[0m [youtube] x: Video unavailable; please report this issue on https://github.com/x , "
        "filling out the appropriate issue template\nmore\nand more"
    )
    told = verdict(error, budget())
    assert isinstance(told, RejectedError)
    assert told.detail == "[youtube] x: Video unavailable"
    assert len(verdict(ValueError("x" * 10_000), budget()).args[1]) == 300


def test_errors_that_lead_to_each_other_in_a_circle_are_gone_through_once():
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    assert meaning(one) == "unavailable"
