"""What an entry tells the person at the keyboard."""


class UserError(Exception):
    """A mistake that the reader can mend: one line that names the thing and the mend; no traceback is shown."""
