"""AWS's clock, read from the ``Date`` of its answers. All machines share it."""

from __future__ import annotations

import logging
import time
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

from kombu_hake.quoting import guarded

__all__ = ["AwsClock"]

logger = guarded(logging.getLogger(__name__))
#: How often AWS's clock is compared with ours.
_READ_S = 60.0
#: The header has whole seconds, and the answer takes some time to arrive.
_BLUR_S = 2.0


class AwsClock:
    """The offset of AWS's clock from ours. Safe to share between threads."""

    def __init__(self) -> None:
        #: Seconds to add to our clock to get AWS's; 0 until known.
        self.offset_s = 0.0
        #: How often the offset has changed.
        self.changes = 0
        self._read_at = float("-inf")

    def learn(self, date: str | None, *, is_refusal: bool = False) -> None:
        """Read the ``Date`` of an answer that has just arrived. Cheap; once a minute is enough.

        Args:
            is_refusal: AWS refused the time of the request, so the known offset is wrong: this machine was suspended,
                or its clock was set.
        """
        now = time.monotonic()
        if date is None or (now - self._read_at < _READ_S and not is_refusal):
            return
        try:
            offset_s = parsedate_to_datetime(date).timestamp() - time.time()
        except (ValueError, OverflowError):
            return
        self._read_at = now
        offset_s = offset_s if abs(offset_s) >= _BLUR_S else 0.0
        if abs(offset_s - self.offset_s) >= _BLUR_S:
            self.changes += 1
            logger.warning(
                "HAKE702 This machine's clock is %.0f s %s AWS's; signing requests with AWS's time.",
                abs(offset_s), "behind" if offset_s > 0 else "ahead of",
            )  # fmt: skip
        self.offset_s = offset_s

    def now_s(self) -> float:
        """Seconds since the epoch, by AWS's clock."""
        return time.time() + self.offset_s

    def now(self) -> datetime:
        """The same as an aware datetime."""
        return datetime.fromtimestamp(self.now_s(), timezone.utc)

    def stamp(self) -> str:
        """The same in the format of signatures, ``20261127T210000Z``."""
        return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self.now_s()))
