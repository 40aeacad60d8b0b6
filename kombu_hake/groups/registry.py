"""The handlers of a process, registered by :meth:`kombu_hake.groups.topic.Topic.on`, and its topics. Pure, except for
the lists that it keeps.

A *subscription* is one handler of one group for one binding key of one topic. A group is a queue; its bindings are the
keys of its subscriptions. The id of a run is derived here too, so that every process that knows an event's id can
compute the id of each handler's run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID, uuid5
from weakref import WeakKeyDictionary, WeakValueDictionary

from kombu import Exchange

from kombu_hake.amqp import MATCHED_KEY_MAX_CHARS, Binding, matches, parse_store
from kombu_hake.aws import forksafe
from kombu_hake.exceptions import ConfigurationError

__all__ = ["Registry", "Subscription", "registry", "run_id"]

_RUNS = UUID("0c8bb6ce-6f3c-5d33-9f0b-2f0b6ad1f6d4")


def run_id(event_id: str, group: str, handler: str) -> str:
    """The task id of a handler's run for an event: the same in every process, at every redelivery and retry.

    Args:
        handler: Name of the handler's task.
    """
    name = "\0".join((event_id, group, handler))
    # Half of a surrogate pair, which JSON can hold, has no UTF-8.
    return str(uuid5(_RUNS, name.encode("utf-8", "backslashreplace").decode()))


@dataclass(frozen=True)
class Subscription:
    """One handler of one group for one binding key of one topic.

    Attributes:
        key: Binding key; words with ``*`` (one word) and ``#`` (any number of words), as in AMQP.
        name_in: The name of the handler's task in an app.
        as_mapping: The handler takes the payload as one mapping instead of keyword arguments.
        max_size: Bytes of the topic's largest events; None for the default of SNS.
        large_messages: As of the topic.
    """

    topic: str
    key: str
    group: str
    name_in: Callable[[Any], str]
    as_mapping: bool = False
    dead_letters: bool = True
    max_size: int | None = None
    large_messages: str | None = None

    def wants(self, topic: str, key: str) -> bool:
        """Return True if an event of this topic and key is for the handler."""
        if topic != self.topic or len(key) > MATCHED_KEY_MAX_CHARS:
            return False
        return matches(Binding(topic, "topic", self.key), key)


class _Topic(Protocol):
    """The part of :class:`kombu_hake.groups.topic.Topic` that is used here."""

    _app: Any
    name: str
    large_messages: str | None

    @property
    def exchange(self) -> Exchange:
        """The exchange, for kombu."""


class Registry:
    """All subscriptions and topics of a process: shared ones, and those of one app. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # re-entrant: a signal handler may publish in the middle of this
        self._shared: list[Subscription] = []
        self._of_app: WeakKeyDictionary[Any, list[Subscription]] = WeakKeyDictionary()
        #: By identity. Weak: a function may create a topic at each call.
        self._topics: WeakValueDictionary[int, _Topic] = WeakValueDictionary()
        forksafe.register(self)

    def reset_after_fork(self) -> None:
        """A child has the same handlers, but not a thread that held the lock."""
        self._lock = threading.RLock()

    def add(self, subscription: Subscription, app: Any = None) -> None:
        """Register a subscription; for all apps if *app* is None."""
        with self._lock:
            known = self._shared if app is None else self._of_app.setdefault(app, [])
            if subscription not in known:
                known.append(subscription)

    def add_topic(self, topic: _Topic) -> None:
        """Register a topic, for as long as it is referenced elsewhere.

        Raises:
            ConfigurationError: the app has a topic of this name with another location for large messages.
        """
        with self._lock:
            for app, url in self._places(topic.name):
                is_of_same_app = app is None or topic._app is None or app == topic._app
                if topic.large_messages and is_of_same_app and parse_store(url) != parse_store(topic.large_messages):
                    raise ConfigurationError(
                        f"Topic {topic.name!r} is defined twice, with large_messages={url!r} and with "
                        f"large_messages={topic.large_messages!r}: its events can have one place only. Define it once, "
                        "and import it where it is used."
                    )
            self._topics[id(topic)] = topic

    def _places(self, name: str) -> Iterator[tuple[Any, str]]:
        """App (None for all) and location of large messages, for each topic of this name that sets the location."""
        for topic in list(self._topics.values()):
            if topic.name == name and topic.large_messages:
                yield topic._app, topic.large_messages
        for app, subscriptions in [(None, self._shared), *self._of_app.items()]:
            for one in subscriptions:
                if one.topic == name and one.large_messages:
                    yield app, one.large_messages

    def topics(self, app: Any) -> list[_Topic]:
        """The topics of an app and the shared ones, with handlers or without, in the order of definition."""
        with self._lock:
            return [topic for topic in self._topics.values() if topic._app is None or topic._app == app]

    def all(self, app: Any) -> list[Subscription]:
        """The subscriptions of an app's workers, in the order of definition."""
        with self._lock:
            return [*self._shared, *self._of_app.get(app, ())]

    def groups(self, app: Any) -> list[str]:
        """Names of the groups that an app has handlers for."""
        return list(dict.fromkeys(subscription.group for subscription in self.all(app)))

    def matching(self, app: Any, topic: str, key: str, group: str | None = None) -> list[Subscription]:
        """The handlers for an event, one subscription each, even if several keys of one match.

        Args:
            group: Only handlers of this group.
        """
        found: dict[tuple[str, str], Subscription] = {}
        for subscription in self.all(app):
            if group in (None, subscription.group) and subscription.wants(topic, key):
                found.setdefault((subscription.group, subscription.name_in(app)), subscription)
        return list(found.values())


registry = Registry()
