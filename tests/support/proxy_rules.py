"""Which faults to inject: rules as plain values, and the choice among them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

KINDS: dict[str, str] = {
    "status": "answer with the HTTP status `status` (500, 503) without asking upstream",
    "throttle": "answer as AWS does when the caller is too fast; with `status` 403 in its older words",
    "expired": "answer as AWS does when the credentials have expired",
    "skewed": "have AWS's clock `seconds` ahead: `Date` tells it, and signatures that are 15 minutes off are refused",
    "old_keys": "refuse temporary keys that `/__keys__` gave out more than `seconds` ago",
    "no_keys": "have `/__keys__` give out none",
    "odd": "answer with `odd`, a name in `odd_answers.ODD`: what AWS never says",
    "access_denied": "answer as AWS does when the caller has no right",
    "reset": "reset the connection before the request is forwarded",
    "lost_response": "forward, then close the connection instead of answering: the request took effect",
    "cut": "forward, then reset the connection in the middle of the answer: the request took effect",
    "black_hole": "take the request and never answer",
    "refuse": "reset all connections and stop listening for `seconds`",
    "delay": "answer `seconds` later",
    "partial_failure": "fail a `share` of a batch's entries, which are not forwarded",
    "duplicate": "deliver received messages once more in a later receive of the same queue",
    "reorder": "shuffle a receive's messages and keep one of them for a later receive",
    "delayed_effect": "Subscribe and SetQueueAttributes act `seconds` later; reads show the new state at once",
    "recreate_ban": "refuse to create a queue that was deleted less than `seconds` ago",
    "rate_limit": "throttle control-plane calls above `rate` per second",
}

ACTIONS: dict[str, tuple[str, ...]] = {
    "partial_failure": ("*Batch",),
    "duplicate": ("ReceiveMessage",),
    "reorder": ("ReceiveMessage",),
    "delayed_effect": ("Subscribe", "SetQueueAttributes"),
    "recreate_ban": ("CreateQueue",),
}
"""The only actions that these kinds can do anything to."""


@dataclass(frozen=True)
class Rule:
    """One fault.

    Attributes:
        kind: A key of ``KINDS``.
        action: AWS action it applies to, `*` allowed (``*Batch``); None: every action.
        probability: Chance that it fires on a request that it applies to.
        count: How often it may fire in all; None: no limit.
        target: Part of the queue's name or the topic's ARN it applies to; ``""``: all.
        seconds, status, share, rate, odd: See ``KINDS``.
    Raises:
        ValueError: unknown kind.
    """

    kind: str
    action: str | None = None
    probability: float = 1.0
    count: int | None = None
    target: str = ""
    seconds: float = 1.0
    status: int = 500
    share: float = 0.5
    rate: float = 30.0
    odd: str = "html_200"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown fault {self.kind!r}; known: {', '.join(KINDS)}")

    def applies_to(self, action: str, target: Callable[[], str]) -> bool:
        """Whether the rule is about this action on this target (asked for only where needed)."""
        possible = ACTIONS.get(self.kind, ("*",))
        return (
            any(fnmatchcase(action, pattern) for pattern in possible)
            and (self.action is None or fnmatchcase(action, self.action))
            and (not self.target or self.target in target())
        )


class RuleBook:
    """The rules in force, in order. ``fire`` says which of them act on a request and counts them down."""

    def __init__(self, rules: Iterable[Rule] = (), *, seed: int | None = None) -> None:
        self.random = random.Random(seed)
        self.rules = list(rules)

    def fire(self, action: str, target: Callable[[], str]) -> list[Rule]:
        """Rules that act on this request; a rule with a count has one less afterwards."""
        if not self.rules:
            return []
        fired = [
            rule
            for rule in self.rules
            if rule.count != 0
            and rule.applies_to(action, target)
            and (rule.probability >= 1 or self.random.random() < rule.probability)
        ]
        for rule in fired:
            if rule.count is not None:
                self.rules = [replace(r, count=rule.count - 1) if r is rule else r for r in self.rules]
        return fired


class TokenBucket:
    """At most ``rate`` per second, and as many at once. The clock is the caller's, in monotonic seconds."""

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self._tokens = max(rate, 1.0)
        self._filled_at = now

    def take(self, now: float) -> bool:
        """Take one token; False when there is none."""
        self._tokens = min(max(self.rate, 1.0), self._tokens + (now - self._filled_at) * self.rate)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
