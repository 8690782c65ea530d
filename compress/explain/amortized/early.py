"""Early checks: look at a training of an explainer while it learns, and stop one that is hopeless."""

from __future__ import annotations

import math
import time
from typing import Protocol

from ...errors import ExplainerRefused

SHARES = (0.1, 0.5)
"""Shares of the planned steps after which a training is looked at."""

FEWEST_STEPS = 20
"""No training is looked at before so many steps: it has not begun to learn."""

EARLY_IMAGES = 128
"""Validation images of an early check, the same ones each time."""


class Look(Protocol):
    """Measures a training after ``step`` steps; returns why it is hopeless, or None. ``late``: half of it is done."""

    def __call__(self, step: int, *, late: bool) -> str | None: ...


class EarlyChecks:
    """Calls ``look`` after ``SHARES`` of the planned ``steps`` of the training ``what``.

    What ``look`` returns depends on the weights alone, so that a resumed training is stopped where it would have been.
    """

    def __init__(self, what: str, steps: int, look: Look) -> None:
        self._what, self._steps, self._look = what, steps, look
        after = {max(FEWEST_STEPS, math.ceil(share * steps)): share >= SHARES[-1] for share in SHARES}
        self._late = {step: late for step, late in after.items() if step < steps}
        self._first = 0
        self._started = 0.0

    def after_step(self, step: int) -> None:
        """To be called after ``step`` (from 0).

        Raises:
            ExplainerRefused: the training is hopeless.
        """
        done = step + 1
        if not self._first:
            self._first, self._started = done, time.monotonic()
        if done not in self._late:
            return
        seconds = time.monotonic() - self._started  # before the check itself
        why = self._look(done, late=self._late[done])
        if why is None:
            return
        learned = done - self._first
        saved = seconds / learned * (self._steps - done) if learned else None
        raise ExplainerRefused(
            f"{why} (after step {done:,} of {self._steps:,})", step=done, steps=self._steps, seconds_saved=saved
        )
