"""What a stage says when a clip or a command cannot go on."""

from __future__ import annotations


class UserError(Exception):
    """A mistake that the person at the keyboard can mend: one line that names the thing and the mend."""


class RejectedError(Exception):
    """A clip that cannot become a sample: a code of ``schema.CODES`` and a detail. Data, once it leaves ``prepare``."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
