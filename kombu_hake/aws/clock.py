"""AWS's clock, as the ``Date`` of its answers tells it: the one that all machines share."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime

__all__ = ["AwsClock"]

#: How often AWS's clock is compared with ours.
_READ_S = 60.0
#: The header has whole seconds, and the journey takes some time too.
_BLUR_S = 2.0


class AwsClock:
    """How far AWS's clock is from ours. Safe to share between threads."""

    def __init__(self) -> None:
        #: What to add to our clock to have AWS's, seconds; 0 until it is known.
        self.offset_s = 0.0
        self._read_at = float("-inf")

    def learn(self, date: str | None) -> None:
        """Take note of the ``Date`` of an answer that came just now; cheap, and once a minute is enough."""
        now = time.monotonic()
        if date is None or now - self._read_at < _READ_S:
            return
        try:
            offset_s = parsedate_to_datetime(date).timestamp() - time.time()
        except ValueError:
            return
        self.offset_s = offset_s if abs(offset_s) >= _BLUR_S else 0.0
        self._read_at = now

    def now_s(self) -> float:
        """Seconds since the epoch, by AWS's clock."""
        return time.time() + self.offset_s
