"""What an entry tells the person at the keyboard."""


class UserError(Exception):
    """A mistake that the reader can mend: one line that names the thing and the mend; no traceback is shown."""


def one_line(error: BaseException) -> str:
    """Return what an error says, or its name, in one line."""
    return " ".join(str(error).split()) or type(error).__name__
