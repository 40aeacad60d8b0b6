"""Make requests in the background for which a publish need not wait: they affect only warnings and later publishes.

One thread per process and settings asks the questions in turn, and ends when there are none. If AWS cannot answer a
question now, it is asked again; a question that waits for its answer is not asked twice.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
import weakref
from collections.abc import Callable, Hashable
from typing import NamedTuple

from kombu_hake.aws import Background, backoff_s, forksafe, patience
from kombu_hake.exceptions import BrokerUnavailable, HakeError
from kombu_hake.quoting import guarded

__all__ = ["Advice", "Ask"]

logger = guarded(logging.getLogger(__name__))
#: Queues a question, identified by its key.
Ask = Callable[[Hashable, Callable[[], None]], None]
#: Maximum number of waiting questions. Further ones are dropped: the next publish asks again.
_MOST_WAITING = 100
#: How long a throttled question may delay the others.
_PATIENCE_S = 10.0
_TRIES = 10
#: How long the exit of the process waits for answers, so that a script that publishes one message gets its warning.
_EXIT_S = 5.0


class _Question(NamedTuple):
    ask: Callable[[], None]
    #: Monotonic time.
    due: float
    tries: int


class Advice:
    """Asks questions in the background. Safe to use from any thread."""

    def __init__(self) -> None:
        self._background = Background(self._work, "hake-advice", "the questions of publishing")
        self._fresh()
        forksafe.register(self)
        _alive.add(self)

    def reset_after_fork(self) -> None:
        """The questions are the parent's; the child asks its own when it publishes."""
        self._fresh()

    def _fresh(self) -> None:
        self._changed = threading.Condition()  # re-entrant: a signal handler may publish
        self._questions: dict[Hashable, _Question] = {}

    def ask(self, key: Hashable, question: Callable[[], None]) -> None:
        """Call ``question()`` in a thread, unless one with this key is waiting for its answer. Never blocks."""
        with self._changed:
            if key in self._questions or len(self._questions) >= _MOST_WAITING:
                return
            self._questions[key] = _Question(question, time.monotonic(), 0)
            if not self._background.start():
                del self._questions[key]  # the next publish asks again

    def wait(self, timeout_s: float) -> bool:
        """Wait until all questions are answered; False on timeout."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._questions, timeout_s)

    def _work(self) -> float | None:
        """Ask due questions. Returns the seconds until the next one, or None if all are answered."""
        while True:
            with self._changed:
                if not self._questions:
                    return None
                key, question = min(self._questions.items(), key=lambda entry: entry[1].due)
                pause_s = question.due - time.monotonic()
                if pause_s > 0:
                    return pause_s
            again = self._try(question)
            with self._changed:
                self._questions.pop(key, None)
                if again is not None:
                    self._questions[key] = again
                self._changed.notify_all()

    @staticmethod
    def _try(question: _Question) -> _Question | None:
        """Ask. Return the question to ask it again later if AWS could not answer."""
        try:
            with patience(_PATIENCE_S):
                question.ask()
        except BrokerUnavailable as exc:
            tries = question.tries + 1
            if tries < _TRIES:
                pause_s = backoff_s(tries, first_s=2.0, most_s=60.0)
                return _Question(question.ask, time.monotonic() + pause_s, tries)
            logger.info("Cannot check whether published messages reach a queue: %s", exc)
        except HakeError as exc:
            logger.info("Cannot check whether published messages reach a queue: %s", exc)
        except Exception:
            logger.exception(
                "HAKE208 Unexpected error while looking for the queues of an exchange; publishing continues."
            )
        return None


_alive: weakref.WeakSet[Advice] = weakref.WeakSet()


def _wait_at_exit() -> None:
    ends_at = time.monotonic() + _EXIT_S
    for advice in list(_alive):
        if not advice.wait(max(0.0, ends_at - time.monotonic())):
            logger.warning(
                "HAKE207 The process ends before AWS has reported whether each published message reaches a queue."
            )


atexit.register(_wait_at_exit)
