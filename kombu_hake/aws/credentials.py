"""Credentials that outlive failures of their source: STS, a metadata service, a process.

botocore passes on any exception of the source, up to ten minutes before the keys expire. Here a failure to renew them
is one of two cases:

* There are keys already: they are used until there are new ones. AWS decides whether they are still valid, and refuses
  them with ``ExpiredToken``, a transient error like any other.
* There have never been any: raise an error, recoverable unless AWS denies the role or nothing is configured.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from kombu_hake.aws.clock import AwsClock
from kombu_hake.aws.concurrency import Reentry
from kombu_hake.aws.error_table import credentials_error
from kombu_hake.exceptions import BrokerUnavailable, HakeError
from kombu_hake.quoting import guarded

__all__ = ["Credentials"]

logger = guarded(logging.getLogger(__name__))
#: Seconds after a failure until the source is asked again. Meanwhile other threads do not wait for it one by one.
_PAUSE_S = 2.0
#: The same while the keys are valid for minutes.
_EARLY_PAUSE_S = 10.0
_REMIND_S = 60.0


class Credentials:
    """botocore's credentials, and its interface. Safe to share between threads; not across a fork."""

    def __init__(self, source: Any, clock: AwsClock, role_arn: str | None = None) -> None:
        """
        Args:
            source: Credentials of botocore.
            clock: The clock that decides when to renew them.
            role_arn: The role that *source* assumes, for the text of errors.
        """
        self._source = source
        self._clock = clock
        self._role_arn = role_arn
        self._can_renew = hasattr(source, "refresh_needed")
        if self._can_renew:
            source._time_fetcher = clock.now
        self._lock = threading.Lock()
        self._entered = Reentry()
        self._last: Any = getattr(source, "_frozen_credentials", None)
        self._asked_again_at = float("-inf")
        self._reminded_at = float("-inf")
        self._failure: HakeError | None = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._source, name)

    def get_frozen_credentials(self) -> Any:
        """Keys to sign with, renewed if necessary. Waits for that only if there are no valid ones.

        Raises:
            BrokerUnavailable: there are none yet, and their source does not answer as it should.
            AccessDenied: there are none yet, and AWS denies assuming the role.
            ConfigurationError: none are configured.
        """
        if not self._can_renew:
            return self._source.get_frozen_credentials()
        if self._last is not None and not self._source.refresh_needed():
            self._last = self._source.get_frozen_credentials()
            return self._last
        with self._entered() as again:  # a signal handler publishes while its thread renews the keys
            must_wait = not again and (self._last is None or self._source.refresh_needed(0))
            if again or not self._lock.acquire(blocking=must_wait):
                return self._previous()
            try:
                return self._renewed()
            finally:
                self._lock.release()

    def _renewed(self) -> Any:
        if time.monotonic() < self._asked_again_at:
            return self._previous()
        try:
            self._last = self._ask()
        except MemoryError:
            raise
        except Exception as exc:
            self._failed(credentials_error(exc, self._role_arn))
            # botocore may have new keys that it considers expired.
            self._last = getattr(self._source, "_frozen_credentials", None) or self._last
            return self._previous()
        if self._source.refresh_needed():  # botocore suppresses a failure while the keys are valid for minutes
            self._asked_again_at = time.monotonic() + _EARLY_PAUSE_S
        self._failure = None
        return self._last

    def _ask(self) -> Any:
        changes = self._clock.changes
        try:
            return self._source.get_frozen_credentials()
        except Exception as exc:
            self._learn_clock(exc)
            if self._clock.changes == changes:
                raise
        return self._source.get_frozen_credentials()

    def _learn_clock(self, exc: Exception) -> None:
        error = credentials_error(exc, self._role_arn)
        if isinstance(error, BrokerUnavailable) and error.is_clock_error:
            metadata = getattr(exc, "response", {}).get("ResponseMetadata") or {}
            self._clock.learn((metadata.get("HTTPHeaders") or {}).get("date"), is_refusal=True)

    def _failed(self, error: HakeError) -> None:
        now = time.monotonic()
        self._failure = error
        self._asked_again_at = now + _PAUSE_S
        if self._last is not None and now - self._reminded_at >= _REMIND_S:
            self._reminded_at = now
            logger.warning("HAKE701 Cannot renew the AWS credentials; using the previous ones: %s", error)

    def _previous(self) -> Any:
        if self._last is not None:
            return self._last
        if self._failure is None:
            raise BrokerUnavailable("The AWS credentials are being fetched.")
        rebuild, args = self._failure.__reduce__()  # each thread raises an error of its own
        raise rebuild(*args)
