"""What one queue should have in AWS, as a value: its bindings, and all that follows from them without asking AWS. Pure.

Priorities
    A queue with priorities is a few SQS queues (:mod:`kombu_hake.amqp.priorities`). Each level above the lowest has a
    subscription of its own, with the filter of the bindings and its share of priorities; the lowest gets the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from kombu_hake.amqp import (
    PRIORITY_ATTRIBUTE,
    Binding,
    BindingSet,
    Filter,
    QueueArn,
    TopicArn,
    compile_filter,
    filter_json,
    narrowed,
)
from kombu_hake.topology.spec import Plan

__all__ = ["Desired", "Level", "Undelivered", "base_filter", "filters"]


class Level(NamedTuple):
    """One SQS queue that a queue's messages lie in."""

    #: Logical name.
    name: str
    arn: QueueArn
    #: What a filter says of priorities; empty where there are none.
    share: tuple[dict[str, Any], ...] = ()


class Undelivered(NamedTuple):
    """The queue that keeps what SNS can't deliver."""

    name: str
    arn: QueueArn


@dataclass(frozen=True)
class Desired:
    """One queue as it should be."""

    queue: str
    bindings: BindingSet
    #: Lowest first; just the queue itself where there are no priorities.
    levels: tuple[Level, ...]
    #: Exchange to topic, of every exchange in *bindings*.
    topics: Mapping[str, TopicArn]
    #: What is being unbound: no longer in *bindings*.
    removed: frozenset[Binding] = frozenset()
    #: Exchanges that are being deleted: the queue receives nothing from them any more.
    deleted: frozenset[str] = frozenset()
    #: Exchanges whose messages all go to the lowest level, whatever their priorities.
    flat: frozenset[str] = frozenset()
    #: Whether *bindings* are certain to be all there are. If not, nothing that the queue gets becomes less.
    is_settled: bool = True
    #: The pattern of topics that the policy lets in instead of naming each one (``queue_policy=namespace``).
    topic_pattern: str | None = None
    undelivered: Undelivered | None = None
    #: What the queue was declared with for its dead letters. Given to a queue that has no redrive policy.
    dead_letters: Plan | None = None
    fanout_priorities: bool = False
    #: Whether what was declared is set again where an operator has tuned it.
    resets: bool = False
    #: The types that exchanges were declared with in this process.
    types: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def exchanges(self) -> list[str]:
        """Every exchange that the queue gets anything of, sorted."""
        return sorted(self.bindings.exchanges())

    @property
    def main(self) -> Level:
        """The lowest level, which has the queue's own name."""
        return self.levels[0]


def base_filter(bindings: BindingSet, exchange: str, *, wildcards: bool = True) -> Filter:
    """The filter of a queue's bindings to one exchange, priorities aside."""
    unfiltered = exchange in bindings.unfiltered
    return compile_filter(bindings.for_exchange(exchange), wildcards=wildcards, unfiltered=unfiltered)


def filters(
    bindings: BindingSet, exchange: str, share: tuple[dict[str, Any], ...] = (), *, fanout_priorities: bool = False
) -> list[str]:
    """Filter policies to try, the narrowest first, as JSON texts; ``{}`` is none.

    All of them let pass what the bindings ask for, and of priorities the *share* and no other. ``[]`` where there can
    be no filter on priorities: it would exceed the limits of SNS, or lose foreign messages without attributes.
    """
    found: dict[str, None] = {}
    for wildcards in (True, False):
        base = base_filter(bindings, exchange, wildcards=wildcards)
        if share and base.policy is None and not fanout_priorities:
            break
        shared = narrowed(base, {PRIORITY_ATTRIBUTE: share}) if share else base
        if shared is not None:
            found[filter_json(shared)] = None
        if base.policy is None:
            break
    return list(found)
