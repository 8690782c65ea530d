"""A wish to stop, from whoever hears of Ctrl-C or SIGTERM to whoever can stop well."""

from __future__ import annotations


class Stop:
    """A training that heeds it ends the step in progress and saves a checkpoint; all else has to stop at once."""

    def __init__(self) -> None:
        self.wanted = False
        self.heeded = False
        """Whether someone looks at ``wanted`` after every step."""
