"""What AWS shows of a queue, as a value, and the memory that corrects late reads.

AWS may show an older state for a while after a change (:class:`kombu_hake.topology.timings.Timings`). A reader that
takes it for a difference writes again and again, and one that merges into it drops what others wrote meanwhile.
:class:`Memory` corrects what is read by what this process has written, and has seen, within that time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from kombu_hake.amqp import TAG_PREFIX, QueueUrl, SubscriptionArn, has_foreign, has_same_own, merged_policy
from kombu_hake.aws import forksafe
from kombu_hake.topology.timings import Timings

__all__ = ["Memory", "Observed", "Subscription"]

#: Of queues and subscriptions that are remembered; the oldest are evicted.
_MOST_REMEMBERED = 10_000


@dataclass(frozen=True)
class Subscription:
    """A queue's subscription to a topic."""

    arn: SubscriptionArn
    #: As SNS tells them; None where reading them is denied: then the subscription is taken as right.
    attributes: Mapping[str, str] | None
    #: Monotonic seconds.
    read_at: float = 0.0


@dataclass(frozen=True)
class Observed:
    """What is known of one queue, and of what AWS refused for it."""

    #: Logical name of an SQS queue to its access policy, None for none. A queue that is missing here was not looked at.
    policies: Mapping[str, str | None] = field(default_factory=dict)
    #: (logical name of an SQS queue, exchange) to the subscription. One that is missing here was not looked for.
    subscriptions: Mapping[tuple[str, str], Subscription] = field(default_factory=dict)
    #: (logical name of an SQS queue, exchange) of subscriptions that were removed just now.
    absent: frozenset[tuple[str, str]] = frozenset()
    #: (logical name of an SQS queue, exchange, filter policy) that SNS does not take.
    refused: frozenset[tuple[str, str, str]] = frozenset()
    #: Exchanges whose topic has as many filtered subscriptions as AWS allows.
    full: frozenset[str] = frozenset()
    #: Exchanges that nothing can be done about here.
    skipped: frozenset[str] = frozenset()
    #: Subscriptions that may not be given a dead-letter queue.
    unkept: frozenset[SubscriptionArn] = frozenset()
    #: Logical names of queues whose policy this process replaced without foreign statements that a read shows now.
    overwritten: frozenset[str] = frozenset()
    #: Exchanges without a topic.
    topicless: frozenset[str] = frozenset()
    #: (logical name of an SQS queue, exchange) of subscriptions that wait to be confirmed.
    pending: frozenset[tuple[str, str]] = frozenset()
    #: The redrive policy of the queue, JSON text; ``""`` for none, None where it was not looked at.
    redrive_policy: str | None = None
    #: Whether the dead-letter queue that the redrive policy names does not exist.
    is_dead_queue_missing: bool = False
    #: Whether the queue is encrypted with a key that SNS can't use.
    is_closed_to_sns: bool = False
    #: Whether the policies of the priority levels are too new for AWS to act on them.
    is_level_new: bool = False

    def with_policy(self, name: str, text: str | None) -> Observed:
        """With this policy of a queue."""
        return replace(self, policies={**self.policies, name: text or None})

    def with_subscription(self, name: str, exchange: str, found: Subscription | None) -> Observed:
        """With this subscription; None: it is gone, or has to be looked for."""
        left = {key: value for key, value in self.subscriptions.items() if key != (name, exchange)}
        return replace(self, subscriptions=left if found is None else {**left, (name, exchange): found})


@dataclass
class _Document:
    """A policy as this process wrote it, and the foreign statements seen since."""

    written: str | None = None
    written_at: float = float("-inf")
    #: Texts that reads showed, with the time.
    shown: list[tuple[float, str]] = field(default_factory=list)


class Memory:
    """What this process wrote and saw lately. Makes no calls; safe to share between threads."""

    def __init__(self, timings: Timings, clock: Callable[[], float] = time.monotonic) -> None:
        self._timings = timings
        self._clock = clock
        self._lock = threading.RLock()
        self._policies: dict[QueueUrl, _Document] = {}
        #: Subscription to attribute to (value, time of writing).
        self._attributes: dict[SubscriptionArn, dict[str, tuple[str, float]]] = {}
        #: Queue to tag to (value, or None for a removed one; time of writing).
        self._tags: dict[QueueUrl, dict[str, tuple[str | None, float]]] = {}
        #: Queue to its tags of bindings, and since when each read shows just these.
        self._steady: dict[QueueUrl, tuple[frozenset[tuple[str, str]], float]] = {}
        forksafe.register(self)

    def reset_after_fork(self) -> None:
        """A thread that held the lock is not in the child."""
        self._lock = threading.RLock()

    def now(self) -> float:
        """Monotonic seconds."""
        return self._clock()

    # --- policies

    def policy_written(self, url: QueueUrl, text: str) -> None:
        """This process replaced a queue's policy."""
        with self._lock:
            found = self._policies.setdefault(url, _Document())
            found.written, found.written_at = text or None, self._clock()
            _shorten(self._policies)

    def policy(self, url: QueueUrl, shown: str | None) -> tuple[str | None, bool]:
        """A queue's policy, as far as it can be told from what a read shows now; and whether we dropped some of it.

        Our own statement is as it was written last, while AWS may show an older one. The statements of others are those
        of any read in that time: one that is shown and then is not may have been dropped, or be missing from an older
        state, so it is kept.
        """
        now = self._clock()
        oldest = now - self._timings.attributes_s
        with self._lock:
            found = self._policies.get(url)
            if found is None:
                found = self._policies[url] = _Document()
                _shorten(self._policies)
            found.shown = [(at, text) for at, text in found.shown if at > oldest]
            texts = [text for _, text in found.shown]
            if shown is not None and self._timings.attributes_s and shown not in texts:
                found.shown.append((now, shown))
            if found.written_at <= oldest:
                return (merged_policy(shown, shown, texts) if texts else shown), False
            written = found.written
            merged = merged_policy(shown, written, [*texts, *([written] if written else [])])
            is_kept = has_foreign(written, merged) or (
                has_same_own(shown, written) and has_foreign(merged_policy(shown, shown, [written or ""]), merged)
            )
            return merged, not is_kept

    # --- subscriptions

    def attribute_written(self, arn: SubscriptionArn, name: str, value: str) -> None:
        """This process set an attribute of a subscription."""
        with self._lock:
            self._attributes.setdefault(arn, {})[name] = (value, self._clock())
            _shorten(self._attributes)

    def attributes(self, arn: SubscriptionArn, shown: Mapping[str, str]) -> dict[str, str]:
        """A subscription's attributes, corrected by what this process set lately."""
        oldest = self._clock() - self._timings.attributes_s
        with self._lock:
            written = self._attributes.get(arn, {})
            return {**shown, **{name: value for name, (value, at) in written.items() if at > oldest}}

    # --- tags

    def tags_written(self, url: QueueUrl, tags: Mapping[str, str | None]) -> None:
        """This process set tags of a queue; None: it removed them."""
        with self._lock:
            now = self._clock()
            self._tags.setdefault(url, {}).update({key: (value, now) for key, value in tags.items()})
            _shorten(self._tags)

    def tags(self, url: QueueUrl, shown: Mapping[str, str]) -> dict[str, str]:
        """A queue's tags, corrected by what this process set and removed lately."""
        now = self._clock()
        oldest = now - self._timings.tags_s
        found = dict(shown)
        with self._lock:
            for key, (value, at) in self._tags.get(url, {}).items():
                if at > oldest and value is None:
                    found.pop(key, None)
                elif at > oldest and value is not None:
                    found[key] = value
            content = frozenset((key, value) for key, value in found.items() if key.startswith(TAG_PREFIX))
            before = self._steady.get(url)
            if before is None or before[0] != content:
                self._steady[url] = content, now
                _shorten(self._steady)
        return found

    def are_tags_settled(self, url: QueueUrl) -> bool:
        """Return True if reads have shown the same bindings for so long that none can be missing."""
        with self._lock:
            _, since = self._steady.get(url, ((), float("inf")))
            return not self._timings.tags_s or self._clock() - since >= self._timings.tags_s


def _shorten(found: dict) -> None:  # type: ignore[type-arg]
    while len(found) > _MOST_REMEMBERED:
        found.pop(next(iter(found)))
