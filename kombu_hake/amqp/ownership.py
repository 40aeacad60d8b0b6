"""Record in tags of its SQS queue which processes use a temporary queue, and when the queue expires. Pure.

The tags::

    hake:temporary        exclusive | auto-delete | expires=3600 | auto-delete expires=86400 | no
    hake:user:1f0c2d3e4a5b  1795401200 600 web-1/4711        expiry, by AWS's clock; its limit; host and process
    hake:user:1f0c2d3e4a5b  1795401200 600 left web-1/4711   it left; until then the queue may be needed again
    hake:user:others      as above, shared by processes for which there was no room
    hake:used             1795400600               last declare, or get of a message
    hake:condemned        1795402000 web-1/4712    a janitor is about to delete it

``hake:temporary`` is written by the process that creates the queue, and never added to a queue that lacks it. Anyone
with ``sqs:TagQueue`` can write these tags, so they only decide *when* a temporary queue may be removed; that it is
temporary at all needs other evidence (:mod:`kombu_hake.temporary.janitor`). Values that we would not have written are
ignored. Each process that uses the queue renews a tag of its own, because SQS offers no compare-and-set. A process
writes its expiry and not the time of writing, so that a reader needs to know no limits.

When a queue may be removed (the earliest rule that applies)
    * exclusive: when its owner has expired.
    * auto-delete: when it has been consumed, and all its consumers have expired.
    * expires: that long after its last use.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

__all__ = [
    "CONDEMNED_TAG",
    "KIND_TAG",
    "MAX_USERS",
    "OTHERS",
    "PROBE",
    "USED_TAG",
    "Kind",
    "Ownership",
    "User",
    "condemned_tag",
    "kind_tag",
    "read",
    "room_for",
    "used_tag",
    "user_key",
    "user_tag",
]

KIND_TAG = "hake:temporary"
USED_TAG = "hake:used"
CONDEMNED_TAG = "hake:condemned"
_USER_PREFIX = "hake:user:"
#: The shared user for processes that have no room for a tag of their own.
OTHERS = "others"
#: Who uses the queues of a probe of `hake check`. One of them has the name of the probe's topic.
PROBE = "hake-probe"
#: Processes with a tag of their own; with forty bindings (``bindings.MAX_BINDING_TAGS``) a queue has fifty tags then.
MAX_USERS = 4
#: Used if no user states a limit, such as for a queue that was only declared.
_USUAL_LIMIT_S = 600

_PERMANENT = "no"
#: The option ``temporary_queue_limit`` allows no more; a longer limit in a tag is not ours.
_MAX_LIMIT_S = 86_400
_USER = re.compile(r"(?P<until>\d{1,12}) (?P<limit>\d{1,6})(?P<left> left)?(?: (?P<who>.*))?\Z", re.ASCII | re.DOTALL)
_TIME = re.compile(r"\d{1,12}\Z", re.ASCII)
_KIND = re.compile(r"(?P<owner>exclusive|auto-delete)?(?: ?expires=(?P<expires>\d{1,10}))?\Z", re.ASCII)
_UNSAFE = re.compile(r"[^A-Za-z0-9_.:/=+@-]+")
_MAX_WHO_CHARS = 100


class Kind(NamedTuple):
    """What ends a queue. False if nothing does: the queue is permanent."""

    exclusive: bool = False
    auto_delete: bool = False
    #: Seconds without use.
    expires_s: int | None = None

    def __bool__(self) -> bool:
        return self.exclusive or self.auto_delete or self.expires_s is not None

    def __str__(self) -> str:
        owner = "exclusive" if self.exclusive else "auto-delete" if self.auto_delete else ""
        # The owner of an exclusive queue is its only use, so other uses do not make it outlive its owner.
        expires = f"expires={self.expires_s}" if self.expires_s is not None and not self.exclusive else ""
        return f"{owner} {expires}".strip() or _PERMANENT


class User(NamedTuple):
    """A process that uses a queue, or has left it."""

    name: str
    #: Seconds since the epoch, by AWS's clock.
    until_s: int
    #: How long it may be silent, seconds; it sends several heartbeats in that time.
    limit_s: int
    has_left: bool
    #: For people.
    who: str


@dataclass(frozen=True)
class Ownership:
    """The content of a temporary queue's tags."""

    kind: Kind
    users: tuple[User, ...] = ()
    used_s: int | None = None
    is_condemned: bool = False

    def due_s(self) -> float | None:
        """When the queue may be deleted, seconds since the epoch; None for never, or if unknown."""
        until = max((user.until_s for user in self.users), default=None)
        rules: list[float] = []
        if self.kind.exclusive or self.kind.auto_delete:
            # Declared and not consumed yet: it waits for its first consumer, as in AMQP.
            rules += [until] if until is not None else []
        if self.kind.expires_s is not None and not self.kind.exclusive:
            last = max((time for time in (self.used_s, until) if time is not None), default=None)
            rules += [last + self.kind.expires_s] if last is not None else []
        return min(rules, default=None)

    def live_users(self, now_s: float) -> list[User]:
        """The users that have not expired."""
        return [user for user in self.users if not user.has_left and user.until_s > now_s]

    @property
    def is_of_probe(self) -> bool:
        """Return True if a probe of `hake check` created the queue, by its tags."""
        return any(user.who == PROBE for user in self.users)

    def limit_s(self) -> int:
        """The longest time that a user may be silent; a day at most, whatever the tags say."""
        return min(_MAX_LIMIT_S, max((user.limit_s for user in self.users), default=_USUAL_LIMIT_S))

    def signs(self) -> tuple[object, ...]:
        """A value that changes with every use of the queue."""
        return (self.kind, tuple(sorted(self.users)), self.used_s)


def read(tags: Mapping[str, str]) -> Ownership | None:
    """Read the ownership from the tags of a queue; None for a queue that is not known to be temporary."""
    kind = _read_kind(tags.get(KIND_TAG, _PERMANENT))
    if not kind:
        return None
    users = [_read_user(key, value) for key, value in tags.items() if key.startswith(_USER_PREFIX)]
    used = tags.get(USED_TAG, "").partition(" ")[0]
    return Ownership(
        kind,
        tuple(user for user in users if user is not None),
        int(used) if _TIME.match(used) else None,
        CONDEMNED_TAG in tags,
    )


def kind_tag(kind: Kind) -> dict[str, str]:
    """The tag for a new queue; an empty kind makes a temporary queue permanent."""
    return {KIND_TAG: str(kind)}


def user_key(name: str) -> str:
    """The key of a user's tag."""
    return _USER_PREFIX + name


def user_tag(name: str, now_s: float, limit_s: float, who: str, *, has_left: bool = False) -> dict[str, str]:
    """A heartbeat: it expires at *now_s* + *limit_s*. Of a user that left: until then the queue is kept for others."""
    limit = max(1, round(limit_s))
    left = " left" if has_left else ""
    return {user_key(name): f"{round(now_s + limit)} {limit}{left} {_clean(who)}".rstrip()}


def used_tag(now_s: float) -> dict[str, str]:
    """A momentary use: a declare, or a get."""
    return {USED_TAG: str(round(now_s))}


def condemned_tag(now_s: float, who: str) -> dict[str, str]:
    """A janitor's note that it is about to delete the queue."""
    return {CONDEMNED_TAG: f"{round(now_s)} {_clean(who)}".rstrip()}


def room_for(tags: Iterable[str], now_s: float, ownership: Ownership, most: int) -> bool:
    """Return True if a queue has room for the tag of one more user.

    Args:
        tags: Keys of all its tags.
        most: How many AWS allows.
    """
    named = [user for user in ownership.live_users(now_s) if user.name != OTHERS]
    # One is reserved for a janitor's note, and one for the time of the last use.
    return len(named) < MAX_USERS and len(list(tags)) + 2 < most


def _read_kind(text: str) -> Kind:
    match = _KIND.match(text)
    if match is None:
        return Kind()
    expires = int(match["expires"]) if match["expires"] else None
    return Kind(match["owner"] == "exclusive", match["owner"] == "auto-delete", expires)


def _read_user(key: str, value: str) -> User | None:
    match = _USER.match(value)
    if match is None:
        return None
    name = key[len(_USER_PREFIX) :]
    return User(name, int(match["until"]), int(match["limit"]), bool(match["left"]), _clean(match["who"] or ""))


def _clean(text: str) -> str:
    return _UNSAFE.sub("_", text)[:_MAX_WHO_CHARS]
