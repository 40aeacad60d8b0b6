"""What an SQS queue or SNS topic has, against what is declared: attributes, documents and tags. Pure.

Policies, subscriptions and filters are not here: :func:`kombu_hake.topology.diff.diff` decides them, as for workers.
What a worker leaves to operators once a queue exists (its attributes, redrive policies, tags) is compared here, for
operators who ask for it. Only what is declared counts: the attributes with which this package creates queues and those
of the options. Whatever else there is stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from kombu_hake.amqp import (
    DOCUMENT_ATTRIBUTES,
    SQS_MAX_MESSAGE_BYTES,
    QueueUrl,
    merged_policy,
    read_object,
    same_json,
    whole,
)
from kombu_hake.quoting import quoted
from kombu_hake.topology.blueprint import SnsTopic, SqsQueue
from kombu_hake.topology.sizes import SIZE_ATTRIBUTE, raised
from kombu_hake.topology.spec import MADE_BY_TAG, is_made_by_us, redrive_allow_policy

__all__ = [
    "Action",
    "Drift",
    "ShownQueue",
    "ShownTopic",
    "What",
    "queue_drift",
    "size_drift",
    "tag_drift",
    "topic_drift",
]

Action: TypeAlias = Literal["create", "change", "delete"]
What: TypeAlias = Literal["queue", "topic", "subscription", "policy", "attribute", "tag", "binding"]
_SHOWN_CHARS = 200
_RETENTION = "MessageRetentionPeriod"


@dataclass(frozen=True)
class Drift:
    """One difference between what is declared and what AWS shows.

    Attributes:
        name: Name in AWS: of a queue or a topic; ``topic -> queue`` of a subscription.
        reason: A sentence.
        owner: The declared queue, or the exchange, that it belongs to.
        is_destructive: Making it may lose messages.
        queue: Logical name of the SQS queue, if it is about one.
        attributes: Those to write.
        tags: Those to write.
    """

    action: Action
    what: What
    name: str
    reason: str
    owner: str = ""
    is_destructive: bool = False
    queue: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ShownQueue:
    """An SQS queue as AWS shows it; None where reading is denied."""

    url: QueueUrl
    attributes: Mapping[str, str] | None
    tags: Mapping[str, str] | None


@dataclass(frozen=True)
class ShownTopic:
    """An SNS topic as AWS shows it; None where reading is denied."""

    tags: Mapping[str, str] | None
    #: Endpoint to subscription ARN, or what SNS shows instead while it waits to be confirmed.
    subscriptions: Mapping[str, str] | None
    #: Bytes of its largest messages; None also where no size is declared.
    max_size_bytes: int | None = None


def queue_drift(wanted: SqsQueue, shown: ShownQueue) -> Iterator[Drift]:
    """Where the attributes and tags of an SQS queue differ; those of bindings aside."""
    if wanted.is_predefined:
        return
    if shown.attributes is not None:
        for name, value in wanted.attributes.items():
            found = shown.attributes.get(name)
            if found is None or found.lower() != value.lower():
                yield _attribute(
                    wanted, name, value, found, is_destructive=name == _RETENTION and _is_less(value, found)
                )
        yield from _documents(wanted, shown.attributes)
    if shown.tags is not None:
        for key, reason in tag_drift(wanted.tags, shown.tags):
            yield Drift(
                "change", "tag", wanted.physical, reason, wanted.owner, queue=wanted.name, tags={key: wanted.tags[key]}
            )


def topic_drift(wanted: SnsTopic, shown: ShownTopic) -> Iterator[Drift]:
    """Where the size and the tags of a topic differ. A topic that takes larger messages than declared is left alone."""
    if wanted.is_predefined:
        return
    size = raised(wanted.max_size_bytes, shown.max_size_bytes) if shown.max_size_bytes is not None else None
    if size is not None:
        reason = f"{SIZE_ATTRIBUTE} is {shown.max_size_bytes}, but should be at least {size}."
        attributes = {SIZE_ATTRIBUTE: str(size)}
        yield Drift("change", "attribute", wanted.physical, reason, wanted.exchange, attributes=attributes)
    if shown.tags is None:
        return
    for key, reason in tag_drift(wanted.tags, shown.tags):
        yield Drift("change", "tag", wanted.physical, reason, wanted.exchange, tags={key: wanted.tags[key]})


def size_drift(wanted: SqsQueue, shown: ShownQueue, size_bytes: int) -> Iterator[Drift]:
    """Where a queue takes smaller messages than the exchanges that it is bound to; or a dead-letter queue, than its
    queues.
    """
    found = (shown.attributes or {}).get(SIZE_ATTRIBUTE, "")
    if wanted.is_predefined or SIZE_ATTRIBUTE in wanted.attributes or not found.isdecimal() or int(found) >= size_bytes:
        return
    if wanted.role == "dead":
        reason = f"{SIZE_ATTRIBUTE} is {found}, but its dead letters may have up to {size_bytes} bytes."
    else:
        reason = (
            f"{SIZE_ATTRIBUTE} is {found}, but the queue is bound to an exchange with messages of up to {size_bytes} "
            "bytes."
        )
    attributes = {SIZE_ATTRIBUTE: str(SQS_MAX_MESSAGE_BYTES)}
    yield Drift("change", "attribute", wanted.physical, reason, wanted.owner, queue=wanted.name, attributes=attributes)


def tag_drift(wanted: Mapping[str, str], shown: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(key, reason) of each tag that is missing or has another value. The version that made it does not matter."""
    for key, value in wanted.items():
        found = shown.get(key)
        if found is None:
            yield key, f"Tag {key} is missing."
        elif found != value and not (key == MADE_BY_TAG and is_made_by_us(shown)):
            yield key, f"Tag {key} is {_shown(found)}, but is declared as {_shown(value)}."


def _documents(wanted: SqsQueue, shown: Mapping[str, str]) -> Iterator[Drift]:
    if wanted.redrive is not None and not _same_redrive(shown.get("RedrivePolicy"), wanted.redrive):
        yield _attribute(wanted, "RedrivePolicy", wanted.redrive, shown.get("RedrivePolicy"))
    allowed = shown.get("RedriveAllowPolicy")
    if wanted.redrive_allow is not None and allowed:  # without one, all queues may use it
        value = _allowing(wanted.redrive_allow, allowed, is_exact="RedriveAllowPolicy" in wanted.options)
        if value is not None:
            yield _attribute(wanted, "RedriveAllowPolicy", value, allowed)
    if "Policy" in wanted.options:
        merged = merged_policy(shown.get("Policy"), shown.get("Policy"), [wanted.options["Policy"]])
        if merged is not None and not same_json(merged, shown.get("Policy") or "{}"):
            yield _attribute(wanted, "Policy", merged, shown.get("Policy"))


def _same_redrive(shown: str | None, wanted: str) -> bool:
    """AWS shows the count as it was set: as a number or as text."""
    try:
        one, other = read_object(shown), read_object(wanted)
    except ValueError:
        return False
    return {key: str(value) for key, value in one.items()} == {key: str(value) for key, value in other.items()}


def _allowing(wanted: str, shown: str, *, is_exact: bool) -> str | None:
    """The redrive allow policy to write so that it allows what is declared; None where it does.

    Args:
        is_exact: It is an option's, and not to be combined with what there is.
    """
    if same_json(wanted, shown):
        return None
    try:
        ours, theirs = read_object(wanted), read_object(shown)
    except ValueError:
        return wanted
    if is_exact or ours.get("redrivePermission") != "byQueue":
        return wanted
    if theirs.get("redrivePermission") == "allowAll":
        return None
    known = theirs.get("sourceQueueArns")
    kept = [arn for arn in known if isinstance(arn, str)] if isinstance(known, list) else []
    lacking = [arn for arn in ours["sourceQueueArns"] if arn not in kept]
    return redrive_allow_policy([*kept, *ours["sourceQueueArns"]]) if lacking else None


def _attribute(wanted: SqsQueue, name: str, value: str, found: str | None, *, is_destructive: bool = False) -> Drift:
    if name in DOCUMENT_ATTRIBUTES:
        reason = (
            f"{name} is missing." if not found else f"{name} is {_shown(found)}, but is declared as {_shown(value)}."
        )
    else:
        reason = f"{name} is {_shown(found) if found is not None else 'not set'}, but is declared as {_shown(value)}."
    return Drift(
        "change", "attribute", wanted.physical, reason, wanted.owner, is_destructive, wanted.name, {name: value}
    )


def _is_less(value: str, found: str | None) -> bool:
    wanted, shown = whole(value), whole(found)
    return wanted is None or shown is None or wanted < shown


def _shown(value: str) -> str:
    return quoted(value, _SHOWN_CHARS)
