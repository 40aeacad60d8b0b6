"""Findings about queues: what is missing, policies, keys, dead letters, times and quotas. Pure."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping

from kombu_hake.admin.check.drift import about_queue, at_queue
from kombu_hake.admin.check.facts import Expected, Facts, QueueFacts
from kombu_hake.admin.check.findings import Finding, Severity, found
from kombu_hake.amqp import (
    FIFO_SUFFIX,
    IF_MADE,
    SQS_DEFAULT_RETENTION_S,
    SQS_MAX_DELAY_S,
    SQS_MAX_IN_FLIGHT,
    SQS_MAX_MESSAGE_BYTES,
    SQS_MAX_RETENTION_S,
    SQS_MAX_TAGS,
    SQS_OLD_MAX_MESSAGE_BYTES,
    SQS_POLICY_MAX_BYTES,
    SQS_POLICY_MAX_STATEMENTS,
    PolicyUnreadable,
    from_tags,
    judged_policy,
    read_object,
    readable_dead_queue,
    whole,
)
from kombu_hake.quoting import quoted
from kombu_hake.topology import AWS_MANAGED_KEY, SqsQueue, needs_topic

__all__ = ["of_queues"]

#: What kombu's SQS transport gives the queues that it creates, seconds; a task may take as long there.
_SHARED_VISIBILITY_S = 1_800
_IN_FLIGHT_NEAR = SQS_MAX_IN_FLIGHT * 9 // 10
_TAGS_NEAR = SQS_MAX_TAGS - 5
_POLICY_BYTES_NEAR = SQS_POLICY_MAX_BYTES * 9 // 10
_STATEMENTS_NEAR = SQS_POLICY_MAX_STATEMENTS - 2
#: A receive count below this may be reached by two restarts of a worker.
_FEW_RECEIVES = 3
_NAMES_MOST = 5


def of_queues(expected: Expected, facts: Facts) -> Iterator[Finding]:
    """Everything about the app's queues, their levels, and the queues that keep what could not be handled."""
    for queue in expected.blueprint.queues:
        seen = facts.queues.get(queue.arn)
        if seen is None:
            continue
        if queue.role in ("queue", "level"):
            if seen.url is None:
                yield _missing(expected, queue)
                continue
            yield from _of_times(expected, queue, seen)
            yield from _of_dead_letters(expected, facts, queue, seen)
            yield from _of_tags(queue, seen)
        if seen.url is not None and seen.attributes is not None:
            yield from _of_policy(expected, facts, queue, seen.attributes)
            yield from _of_key(expected, queue, seen)
    yield from _kept(expected, facts)
    yield from _of_groups(expected, facts)


def _missing(expected: Expected, queue: SqsQueue) -> Finding:
    kind = f"Queue {queue.owner!r}" if queue.role == "queue" else f"A priority level of queue {queue.owner!r}"
    remedy = expected.apply if expected.is_ours_to_make else f"{expected.apply}, or your infrastructure code"
    if queue.is_predefined:
        remedy = f"aws sqs create-queue --queue-name {shlex.quote(queue.physical)}"
    return found("queue-missing", queue.arn, f"{kind} does not exist.", remedy, explains=about_queue(queue.arn))


# --- policies and keys


def _of_policy(expected: Expected, facts: Facts, queue: SqsQueue, attributes: Mapping[str, str]) -> Iterator[Finding]:
    """What keeps topics from sending to a queue that is subscribed to them, or keeps what they could not deliver."""
    policy, name, explained = attributes.get("Policy"), _name(queue), at_queue(queue.arn, "Policy")
    topics = _topics_of(expected, facts, queue)
    lacking: list[str] = []
    other_account: list[str] = []
    denied: dict[str, None] = {}
    doubted: dict[str, None] = {}
    statements = 0
    for topic in topics:
        try:
            judged = judged_policy(policy, queue.arn, topic)
        except PolicyUnreadable as exc:
            yield found("policy-unreadable", queue.arn, f"{_name(queue, start=True)}: {exc}", explains=explained)
            return
        statements = judged.statements
        if not judged.allowed_by:
            (other_account if judged.of_other_account else lacking).append(topic)
        denied |= dict.fromkeys(judged.denied_by)
        doubted |= dict.fromkeys(judged.in_doubt)
    if lacking:
        yield found(
            "policy-lacks-topic", queue.arn, f"The policy of {name} does not allow {_listed(lacking)}.",
            _statement(queue, topics), explains=explained,
        )  # fmt: skip
    if other_account:
        yield found(
            "policy-other-account", queue.arn,
            f"The policy of {name} does not allow {_listed(other_account)}: aws:SourceAccount names another account.",
            _statement(queue, topics), explains=explained,
        )  # fmt: skip
    if denied:
        what = f"The policy of {name} denies messages from SNS: statement {_listed(list(denied))}."
        yield found("policy-denies", queue.arn, what, explains=explained)
    elif doubted:
        what = f"The policy of {name} may deny messages from SNS: statement {_listed(list(doubted))}."
        yield found("policy-in-doubt", queue.arn, what)
    size = len(json.dumps(read_object(policy), separators=(",", ":"))) if policy and topics else 0
    if size >= _POLICY_BYTES_NEAR or statements >= _STATEMENTS_NEAR:
        what = f"The policy of {name} has {size} bytes and {statements} statements."
        yield found("policy-near-limit", queue.arn, what)


def _topics_of(expected: Expected, facts: Facts, queue: SqsQueue) -> list[str]:
    """Topics that have to be able to send to a queue."""
    if queue.role in ("queue", "level"):
        return [
            str(one.topic_arn)
            for one in expected.subscriptions_of(queue)
            if one.topic_arn in facts.topics and _can_be(one.queue_arn, one.topic_arn)
        ]  # fmt: skip
    if queue.role == "dead":
        return []
    found_at: list[str] = []
    for wanted in expected.blueprint.subscriptions:
        seen = facts.topics.get(wanted.topic_arn)
        one = seen.of(wanted.queue_arn) if seen is not None else None
        target = readable_dead_queue((one.attributes or {}).get("RedrivePolicy")) if one is not None else ""
        if target == queue.arn and wanted.topic_arn not in found_at:
            found_at.append(wanted.topic_arn)
    return found_at


def _can_be(queue_arn: str, topic_arn: str) -> bool:
    return topic_arn.endswith(FIFO_SUFFIX) or not queue_arn.endswith(FIFO_SUFFIX)


def _statement(queue: SqsQueue, topics: list[str]) -> str:
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": "sns.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": queue.arn,
        "Condition": {"ArnEquals": {"aws:SourceArn": topics}},
    }
    return f"Add to the queue's policy: {json.dumps(statement)}"


def _of_key(expected: Expected, queue: SqsQueue, seen: QueueFacts) -> Iterator[Finding]:
    key = (seen.attributes or {}).get("KmsMasterKeyId")
    is_fed = bool(expected.subscriptions_of(queue)) or queue.role == "undelivered"
    if not key or not is_fed:
        return
    if key.rpartition(":")[2] == AWS_MANAGED_KEY:
        what = f"{_name(queue, start=True)} is encrypted with {AWS_MANAGED_KEY}."
        sse = {"KmsMasterKeyId": "", "SqsManagedSseEnabled": "true"}
        yield _mended("key-closed-to-sns", queue.arn, what, seen.url, sse)
    else:
        yield found("own-key", queue.arn, f"{_name(queue, start=True)} is encrypted with the key {quoted(key)}.")


# --- dead letters


def _of_dead_letters(expected: Expected, facts: Facts, queue: SqsQueue, seen: QueueFacts) -> Iterator[Finding]:
    if seen.attributes is None:
        return
    text, name = seen.attributes.get("RedrivePolicy"), _name(queue)
    if not text:
        if queue.redrive and _has_to_keep(expected, queue):
            what = f"{_name(queue, start=True)} has no redrive policy."
            yield _mended("dead-letters-off", queue.arn, what, seen.url, {"RedrivePolicy": queue.redrive})
        return
    target = readable_dead_queue(text)
    dead = facts.queues.get(target)
    if not target or (dead is not None and dead.url is None):
        what = f"The redrive policy of {name} names {quoted(target or text)}, which does not exist."
        remedy = expected.apply if expected.is_ours_to_make else ""
        explained = at_queue(queue.arn, "RedrivePolicy") | (about_queue(target) if target else set())
        yield found("dead-queue-missing", queue.arn, what, remedy, explains=explained)
        return
    receives, wanted = (whole(_of(document, "maxReceiveCount")) for document in (text, queue.redrive))
    least = wanted or _FEW_RECEIVES
    if receives is not None and receives < least:
        what = f"{_name(queue, start=True)} has a maxReceiveCount of {receives}" + (
            f", but was declared with {wanted}." if wanted else "."
        )
        redrive = json.dumps({"deadLetterTargetArn": target, "maxReceiveCount": wanted or 20})
        yield _mended("max-receives-low", queue.arn, what, seen.url, {"RedrivePolicy": redrive})
    if dead is None or dead.attributes is None:
        return
    if not _accepts(dead.attributes.get("RedriveAllowPolicy"), queue.arn):
        what = f"{target} does not accept dead letters of {name}."
        yield found("dead-queue-refuses", target, what, explains=at_queue(target, "RedriveAllowPolicy"))
    kept_s, dead_kept_s = (one.number("MessageRetentionPeriod", SQS_DEFAULT_RETENTION_S) for one in (seen, dead))
    if dead_kept_s < kept_s:
        what = f"{target} keeps messages for {dead_kept_s} s, but {name} keeps them for {kept_s} s."
        yield _mended("dead-retention-short", target, what, dead.url, {"MessageRetentionPeriod": str(kept_s)})
    size, dead_size = (one.number("MaximumMessageSize", SQS_MAX_MESSAGE_BYTES) for one in (seen, dead))
    if dead_size < size:
        what = f"{target} takes messages of {dead_size} bytes, and {name} of {size} bytes."
        yield _mended("dead-size-small", target, what, dead.url, {"MaximumMessageSize": str(size)})


def _has_to_keep(expected: Expected, queue: SqsQueue) -> bool:
    if expected.is_ours_to_make:
        return True
    [declared] = [one for one in expected.declared.queues if one.spec.name == queue.owner]
    return declared.spec.arguments.get("x-dead-letter-queue") != IF_MADE


def _accepts(text: str | None, source: str) -> bool:
    try:
        policy = read_object(text)
    except ValueError:
        return True  # AWS takes only what it can read
    if policy.get("redrivePermission") == "byQueue":
        sources = policy.get("sourceQueueArns")
        return isinstance(sources, list) and source in sources
    return policy.get("redrivePermission") != "denyAll"


def _of(document: str | None, name: str) -> object:
    try:
        return read_object(document).get(name)
    except ValueError:
        return None


def _kept(expected: Expected, facts: Facts) -> Iterator[Finding]:
    """Messages in queues for dead letters and for what SNS could not deliver."""
    dead: dict[str, str] = {}
    undelivered: dict[str, str] = {}
    for queue in expected.blueprint.queues:
        seen = facts.queues.get(queue.arn)
        attributes = seen.attributes if seen is not None else None
        if queue.role in ("queue", "level"):
            with_target = readable_dead_queue((attributes or {}).get("RedrivePolicy"))
            dead |= {with_target: queue.owner} if with_target else {}
        elif queue.role == "dead":
            dead.setdefault(queue.arn, queue.owner)
    for wanted in expected.blueprint.subscriptions:
        topic = facts.topics.get(wanted.topic_arn)
        one = topic.of(wanted.queue_arn) if topic is not None else None
        target = readable_dead_queue((one.attributes or {}).get("RedrivePolicy")) if one is not None else None
        undelivered |= {target: wanted.owner} if target else {}
    for code, kept in (("dead-letters", dead), ("undelivered", undelivered)):
        for arn, owner in kept.items():
            count = facts.queues[arn].number("ApproximateNumberOfMessages", 0) if arn in facts.queues else 0
            if count:
                option = " --undelivered" if code == "undelivered" else ""
                remedy = f"celery -A {expected.app} hake dlq list {shlex.quote(owner)}{option}"
                messages = "1 message" if count == 1 else f"{count} messages"
                yield found(code, arn, f"{arn} holds about {messages} of queue {owner!r}.", remedy)


# --- times, sizes, quotas


def _of_times(expected: Expected, queue: SqsQueue, seen: QueueFacts) -> Iterator[Finding]:
    if seen.attributes is None:
        return
    name, where = _name(queue, start=True), queue.arn
    is_chosen = {key for key, value in queue.attributes.items() if seen.attributes.get(key) == value}
    kept_s = seen.number("MessageRetentionPeriod", SQS_DEFAULT_RETENTION_S)
    if kept_s < SQS_MAX_DELAY_S:
        usual = {"MessageRetentionPeriod": queue.attributes.get("MessageRetentionPeriod", str(SQS_MAX_RETENTION_S))}
        yield _mended("retention-short", where, f"{name} keeps messages for {kept_s} s.", seen.url, usual)
    delay_s = seen.number("DelaySeconds", 0)
    if delay_s and "DelaySeconds" not in is_chosen:
        what = f"{name} delays each message by {delay_s} s."
        yield _mended("queue-delay", where, what, seen.url, {"DelaySeconds": "0"})
    size = seen.number("MaximumMessageSize", SQS_MAX_MESSAGE_BYTES)
    if size < SQS_OLD_MAX_MESSAGE_BYTES and "MaximumMessageSize" not in is_chosen:
        what = f"{name} accepts messages of at most {size} bytes."
        yield _mended("message-size-small", where, what, seen.url, {"MaximumMessageSize": str(SQS_MAX_MESSAGE_BYTES)})
    hidden_s = seen.number("VisibilityTimeout", 30)
    is_shared = expected.settings.namer.style == "kombu" or bool(expected.settings.namer.prefix)
    if hidden_s < _SHARED_VISIBILITY_S and (is_shared or queue.is_predefined):
        what = f"{name} has a visibility timeout of {hidden_s} s for workers that set none."
        usual = {"VisibilityTimeout": str(_SHARED_VISIBILITY_S)}
        yield _mended("visibility-short", where, what, seen.url, usual, None if is_shared else "info")
    in_flight = seen.number("ApproximateNumberOfMessagesNotVisible", 0)
    if in_flight >= _IN_FLIGHT_NEAR:
        what = f"{name} has {in_flight} of {SQS_MAX_IN_FLIGHT} messages in flight."
        yield found("in-flight-near-limit", where, what)
    limit, scope = (seen.attributes.get(key) for key in ("FifoThroughputLimit", "DeduplicationScope"))
    if limit == "perMessageGroupId" and scope != "messageGroup":
        what = f"{name} has FifoThroughputLimit={limit} with DeduplicationScope={quoted(scope)}."
        yield _mended("fifo-attributes", where, what, seen.url, {"DeduplicationScope": "messageGroup"})


def _of_tags(queue: SqsQueue, seen: QueueFacts) -> Iterator[Finding]:
    if seen.tags is None:
        return
    name = _name(queue, start=True)
    if len(seen.tags) >= _TAGS_NEAR:
        yield found("tags-near-limit", queue.arn, f"{name} has {len(seen.tags)} of {SQS_MAX_TAGS} tags.")
    damaged = sorted(from_tags(seen.tags).damaged)
    if damaged:
        keys = " ".join(map(shlex.quote, damaged))
        remedy = f"aws sqs untag-queue --queue-url {shlex.quote(str(seen.url))} --tag-keys {keys}"
        what = f"{name} has tags that cannot be read: {_listed(damaged)}."
        yield found("damaged-tags", queue.arn, what, remedy, explains=about_queue(queue.arn))


# --- groups


def _of_groups(expected: Expected, facts: Facts) -> Iterator[Finding]:
    for declared in expected.declared.queues:
        if not declared.is_group:
            continue
        queue = expected.blueprint.queue(declared.spec.name)
        seen = facts.queues.get(queue.arn)
        tags = from_tags(seen.tags) if seen is not None and seen.tags is not None else None
        bound = {one for one in declared.bindings if needs_topic(expected.settings, declared.spec.name, one)}
        if not bound and not (tags is not None and (tags.bindings or tags.unfiltered)):
            yield found("group-without-bindings", queue.arn, f"Group {declared.spec.name!r} is bound to no topic.")
        handled = {(one.exchange, one.routing_key) for one in declared.bindings}
        handled |= {(exchange, key) for group, exchange, key in expected.handlers if group == declared.spec.name}
        for one in sorted(tags.bindings) if tags is not None else ():
            if (one.exchange, one.routing_key) not in handled:
                what = (
                    f"Group {declared.spec.name!r} is bound to exchange {one.exchange!r} with the key "
                    f"{one.routing_key!r}, which no handler of this app handles."
                )
                yield found("binding-without-handler", queue.arn, what, f"{expected.apply} --prune")


# --- words


def _name(queue: SqsQueue, *, start: bool = False) -> str:
    kinds = {
        "queue": "queue {!r}",
        "level": "a priority level of queue {!r}",
        "dead": "the dead-letter queue of queue {!r}",
        "undelivered": "the undelivered queue of queue {!r}",
    }
    text = kinds[queue.role].format(queue.owner)
    return text[0].upper() + text[1:] if start else text


def _listed(names: list[str]) -> str:
    shown = ", ".join(quoted(name) for name in names[:_NAMES_MOST])
    return shown + (f" and {len(names) - _NAMES_MOST} more" if len(names) > _NAMES_MOST else "")


def _mended(
    code: str, arn: str, what: str, url: str | None, attributes: Mapping[str, str], severity: Severity | None = None
) -> Finding:
    """A finding that these attributes of the queue mend."""
    remedy = (
        f"aws sqs set-queue-attributes --queue-url {shlex.quote(str(url))} "
        f"--attributes {shlex.quote(json.dumps(dict(attributes)))}"
    )
    return found(code, arn, what, remedy, severity=severity, explains=at_queue(arn, *attributes))
