"""What a stage says when a clip or a command cannot go on."""

from __future__ import annotations

import errno
import os

DISK_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Errors that are no single clip's fault, and true of the next one as well."""


def raise_if_disk_full(words: str) -> None:
    """Raise an ``OSError`` if a program's words say that the disk was full while it wrote."""
    for number in DISK_ERRNOS:
        if os.strerror(number) in words:
            raise OSError(number, os.strerror(number), "the folder for temporary files (TMPDIR)")


class UserError(Exception):
    """A mistake that the person at the keyboard can mend: one line that names the thing and the mend."""


class RejectedError(Exception):
    """A clip that cannot become a sample: a code of ``schema.CODES`` and a detail. Data, once it leaves ``prepare``."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(code, detail)  # both, so that it can be sent from a worker process
        self.code = code
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"


class DurationError(Exception):
    """The media are not as long as their page says."""

    def __init__(self, duration_s: float) -> None:
        super().__init__(duration_s)
        self.duration_s = duration_s


class SiteError(Exception):
    """A site that asks the whole crawl to stop: it is no candidate's fault, and true of the next one as well."""


class RateLimitedError(SiteError):
    """The site asks for fewer requests."""

    def __init__(self, detail: str, retry_after_s: float | None = None) -> None:
        super().__init__(detail, retry_after_s)
        self.detail = detail
        self.retry_after_s = retry_after_s
        """Seconds that the site asks to wait, if it says."""

    def __str__(self) -> str:
        return self.detail


class LoginWantedError(SiteError):
    """The site, or this one page of it, asks for a login."""


class UnreachableError(SiteError):
    """No way there: a name that nobody resolves, a host that does not answer, or this machine's own network."""
