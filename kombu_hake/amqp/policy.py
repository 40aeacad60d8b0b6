"""The access policy of an SQS queue: which SNS topics may send to it. Pure.

One statement of a queue's policy is ours, identified by its ``Sid``; it names every topic that the queue is bound to.
The other statements are foreign and are kept unchanged. SQS replaces policies as a whole, so an unreadable policy is
never overwritten.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from kombu_hake.amqp import limits
from kombu_hake.amqp.documents import matches_wildcard, read_object
from kombu_hake.exceptions import TopologyError

__all__ = [
    "PolicyTooLarge",
    "PolicyUnreadable",
    "allows",
    "has_foreign",
    "has_same_own",
    "judged_policy",
    "merged_policy",
    "named_topics",
    "namespace_policy",
    "queue_policy",
]

TOPICS_SID = "HakeTopics"
NAMESPACE_SID = "HakeNamespace"

_VERSION = "2012-10-17"
_ACTION = "sqs:SendMessage"
_SERVICE = "sns.amazonaws.com"

#: AWS does not count white space, so a text that it returns may exceed the limit of a policy, but not by this much.
_MAX_CHARS = 8 * limits.SQS_POLICY_MAX_BYTES

#: Condition operators that are judged here.
_OPERATORS = {"arnequals", "arnlike", "bool", "stringequals", "stringequalsignorecase", "stringlike"}

Statement = dict[str, Any]


class PolicyUnreadable(TopologyError, ValueError):
    """The queue has a policy that is not a valid SQS policy. It is left unchanged."""


class PolicyTooLarge(TopologyError, ValueError):
    """The foreign statements of the policy leave no room for ours."""


def queue_policy(existing: str | None, queue_arn: str, topic_arns: Collection[str]) -> str | None:
    """The policy to write so that our statement allows exactly these topics to send to the queue.

    Near the limits of SQS, as few topics as possible are replaced by their longest common prefixes.

    Args:
        existing: The policy's JSON text; None or empty where the queue has none.
        topic_arns: Every topic that the queue is bound to; none removes our statement.
    Returns:
        JSON text, ``""`` if the policy becomes empty; None if nothing has to be written, because the existing policy,
        foreign statements included, allows these topics already.
    Raises:
        PolicyUnreadable: the existing policy cannot be understood.
        PolicyTooLarge: the foreign statements leave no room, or are too large by themselves once they are escaped.
    Source:
        DG-SQS "policy quotas"; DG-SNS "Subscribing an Amazon SQS queue to an Amazon SNS topic".
    """
    document = _read(existing)
    ours, others = _split(document, {TOPICS_SID})
    if not topic_arns:
        if not ours:
            return None
        return _fitting(_write(document, others), queue_arn, others) if others else ""
    if not ours and existing and all(allows(existing, queue_arn, arn) for arn in topic_arns):
        return None
    _fitting(_write(document, others), queue_arn, others)
    for condition in _conditions(sorted(set(topic_arns))):
        wanted = _statement(TOPICS_SID, queue_arn, condition)
        text = _write(document, [*others, wanted])
        if len(text) <= limits.SQS_POLICY_MAX_BYTES and len(others) < limits.SQS_POLICY_MAX_STATEMENTS:
            return None if [_meaning(one) for one in ours] == [_meaning(wanted)] else text
    raise _too_large(queue_arn, others)


def namespace_policy(existing: str | None, queue_arn: str, topic_arn_pattern: str) -> str | None:
    """The policy to write once so that every topic of a namespace may send to the queue.

    Args:
        existing: As for :func:`queue_policy`. A statement of ours that names topics one by one is replaced.
        topic_arn_pattern: A topic ARN with ``*`` in its parts, as in ``arn:aws:sns:eu-west-1:111122223333:dev__*``.
    Returns:
        JSON text; None when the existing policy has the statement already.
    Raises:
        PolicyUnreadable, PolicyTooLarge: as for :func:`queue_policy`.
    """
    document = _read(existing)
    ours, others = _split(document, {TOPICS_SID, NAMESPACE_SID})
    wanted = _statement(NAMESPACE_SID, queue_arn, {"ArnLike": {"aws:SourceArn": [topic_arn_pattern]}})
    if [_meaning(one) for one in ours] == [_meaning(wanted)]:
        return None
    text = _write(document, [*others, wanted])
    if len(text) > limits.SQS_POLICY_MAX_BYTES or len(others) >= limits.SQS_POLICY_MAX_STATEMENTS:
        raise _too_large(queue_arn, others)
    return text


def allows(policy_text: str, queue_arn: str, topic_arn: str) -> bool:
    """Return True if a queue policy allows a topic to send, as far as that is known without asking AWS.

    Statements with an unsupported condition count neither as allowing nor as denying. An unreadable policy allows
    nothing.
    """
    try:
        statements = _statements(_read(policy_text))
    except PolicyUnreadable:
        return False
    effects = {
        str(one.get("Effect")) for one in statements if _is_about(one, queue_arn, topic_arn) and _holds(one, topic_arn)
    }
    return "Allow" in effects and "Deny" not in effects


class PolicyJudgement(NamedTuple):
    """What a queue policy says of one topic that sends to the queue. Statements are named by their Sid, or number."""

    #: Statements that allow it.
    allowed_by: tuple[str, ...]
    #: Statements that deny it.
    denied_by: tuple[str, ...]
    #: Statements that would allow it, if the topic were of another account (``aws:SourceAccount``).
    of_other_account: tuple[str, ...]
    #: Deny statements with a condition that is not understood here: AWS may apply them.
    in_doubt: tuple[str, ...]
    #: The number of all statements.
    statements: int


def judged_policy(policy_text: str | None, queue_arn: str, topic_arn: str) -> PolicyJudgement:
    """Explain :func:`allows`.

    Raises:
        PolicyUnreadable: the policy cannot be understood.
    """
    statements = _statements(_read(policy_text))
    found: dict[str, list[str]] = {"Allow": [], "Deny": [], "account": [], "doubt": []}
    for number, one in enumerate(statements, 1):
        if not _is_about(one, queue_arn, topic_arn):
            continue
        effect, name = str(one.get("Effect")), str(one.get("Sid") or f"number {number}")
        if _holds(one, topic_arn):
            found.setdefault(effect, []).append(name)
        elif effect == "Allow" and _holds(one, topic_arn, ignored="aws:sourceaccount"):
            found["account"].append(name)
        elif effect == "Deny" and not _is_understood(one, topic_arn):
            found["doubt"].append(name)
    return PolicyJudgement(
        tuple(found["Allow"]), tuple(found["Deny"]), tuple(found["account"]), tuple(found["doubt"]), len(statements)
    )


def named_topics(policy_text: str | None) -> list[str]:
    """The topics that our statement of a queue policy allows, as ARNs or patterns of ARNs.

    Raises:
        PolicyUnreadable: the policy cannot be understood.
    """
    ours, _ = _split(_read(policy_text), {TOPICS_SID})
    found: list[str] = []
    for statement in ours:
        condition = statement.get("Condition")
        for tests in condition.values() if isinstance(condition, dict) else ():
            named = _listed(tests.get("aws:SourceArn")) if isinstance(tests, dict) else []
            found += [arn for arn in named if isinstance(arn, str) and _is_topic(arn)]
    return found


def merged_policy(shown: str | None, own: str | None, earlier: Iterable[str]) -> str | None:
    """Combine a queue's policy from reads that may each show an older state.

    Args:
        shown: The latest read; None for no policy. An unreadable policy is returned unchanged.
        own: The policy whose statement of ours counts.
        earlier: Earlier reads. Their foreign statements are kept; for the same ``Sid``, *shown* takes precedence.
    """
    try:
        document = _read(shown)
        ours, _ = _split(_read(own), {TOPICS_SID, NAMESPACE_SID})
    except PolicyUnreadable:
        return shown
    found: dict[str, Statement] = {}
    for text in (shown, *earlier):
        try:
            _, others = _split(_read(text), {TOPICS_SID, NAMESPACE_SID})
        except PolicyUnreadable:
            continue
        for one in others:
            found.setdefault(str(one.get("Sid") or json.dumps(one, sort_keys=True)), one)
    statements = [*found.values(), *ours]
    return _write(document, statements) if statements else None


def has_foreign(text: str | None, other: str | None) -> bool:
    """Return True if a policy has all foreign statements of *other*; False if either is unreadable."""
    try:
        mine, theirs = (_split(_read(one), {TOPICS_SID, NAMESPACE_SID})[1] for one in (text, other))
    except PolicyUnreadable:
        return False
    known = [_meaning(one) for one in mine]
    return all(_meaning(one) in known for one in theirs)


def has_same_own(text: str | None, other: str | None) -> bool:
    """Return True if our statements are the same in two policies; False if either is unreadable."""
    try:
        first, second = (_split(_read(one), {TOPICS_SID, NAMESPACE_SID})[0] for one in (text, other))
    except PolicyUnreadable:
        return False
    return list(map(_meaning, first)) == list(map(_meaning, second))


def _is_topic(arn: str) -> bool:
    parts = arn.split(":")
    return len(parts) == 6 and parts[2] == "sns" and 0 < len(parts[5]) <= limits.SNS_MAX_TOPIC_NAME_CHARS


# --- reading and writing -----------------------------------------------------------------------------------------


def _read(text: str | None) -> dict[str, Any]:
    if not text:
        return {"Version": _VERSION, "Statement": []}
    try:
        document = read_object(text, unique=True, max_chars=_MAX_CHARS)
    except ValueError as exc:
        raise PolicyUnreadable(f"The queue's policy cannot be read and is left unchanged: {exc}. Correct it.") from exc
    statements = document.get("Statement")
    if isinstance(statements, dict):
        statements = [statements]
    if not isinstance(statements, list) or not all(isinstance(one, dict) for one in statements):
        raise PolicyUnreadable("The queue's policy has no list of statements and is left unchanged. Correct it.")
    return {**document, "Statement": statements}


def _statements(document: Mapping[str, Any]) -> list[Statement]:
    statements: list[Statement] = document["Statement"]
    return statements


def _split(document: Mapping[str, Any], sids: Collection[str]) -> tuple[list[Statement], list[Statement]]:
    statements = _statements(document)
    ours = [one for one in statements if str(one.get("Sid")) in sids]
    return ours, [one for one in statements if str(one.get("Sid")) not in sids]


def _write(document: Mapping[str, Any], statements: list[Statement]) -> str:
    # Escaped to ASCII, so characters are bytes.
    return json.dumps({**document, "Statement": statements}, separators=(",", ":"))


def _statement(sid: str, queue_arn: str, condition: dict[str, Any]) -> Statement:
    return {
        "Sid": sid,
        "Effect": "Allow",
        "Principal": {"Service": _SERVICE},
        "Action": _ACTION,
        "Resource": queue_arn,
        "Condition": condition,
    }


def _meaning(value: Any) -> Any:
    """Ignore differences that AWS introduces: order, one value for a list of one, and the case of names."""
    if isinstance(value, dict):
        return frozenset((str(name).lower(), _meaning(inner)) for name, inner in value.items())
    return frozenset(str(inner) for inner in _listed(value))


def _fitting(text: str, queue_arn: str, others: Collection[Statement]) -> str:
    if len(text) > limits.SQS_POLICY_MAX_BYTES:
        raise _too_large(queue_arn, others)
    return text


def _too_large(queue_arn: str, others: Collection[Statement]) -> PolicyTooLarge:
    return PolicyTooLarge(
        f"The policy of {queue_arn} has {len(others)} foreign statements, which leave no room to allow SNS topics "
        f"(SQS allows {limits.SQS_POLICY_MAX_BYTES} bytes and {limits.SQS_POLICY_MAX_STATEMENTS} statements). Merge or "
        "remove some of them."
    )


# --- naming topics -----------------------------------------------------------------------------------------------


def _conditions(topic_arns: list[str]) -> Iterator[dict[str, Any]]:
    """Ways to name the topics, each shorter and wider than the one before, but never wider than an account."""
    yield {"ArnEquals": {"aws:SourceArn": topic_arns}}
    parts = [_parse(arn) for arn in topic_arns]
    for length in range(max(len(name) for *_, name in parts) - 1, -1, -1):
        yield {"ArnLike": {"aws:SourceArn": _patterns((*home, name, name[:length]) for *home, name in parts)}}
    yield {"ArnLike": {"aws:SourceArn": _patterns((*home[:3], "*", home[4], name, "") for *home, name in parts)}}


def _patterns(topics: Iterable[tuple[str, ...]]) -> list[str]:
    """One pattern for all topics of one home (the first five parts of the ARN) that start alike (the last item)."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for *home, name, start in topics:
        groups.setdefault((*home, start), []).append(name)
    return sorted(
        ":".join([*home, names[0] if len(names) == 1 else _common_start(names) + "*"])
        for (*home, _), names in groups.items()
    )


def _common_start(names: Collection[str]) -> str:
    first, last = min(names), max(names)
    length = next((i for i, char in enumerate(first) if last[i : i + 1] != char), len(first))
    return first[:length]


def _parse(arn: str) -> list[str]:
    parts = arn.split(":")
    if len(parts) != 6:
        raise ValueError(f"{arn!r} is not the ARN of a topic: an ARN has six parts.")
    return parts


# --- judging statements ------------------------------------------------------------------------------------------


def _is_about(statement: Statement, queue_arn: str, topic_arn: str) -> bool:
    """Return True if a statement, apart from its conditions, applies to this topic sending to this queue."""
    actions = _listed(statement.get("Action"))
    return (
        any(_is_like(str(action).lower(), _ACTION.lower()) for action in actions)
        and any(_is_like(str(resource), queue_arn) for resource in _listed(statement.get("Resource")))
        and _is_sns(statement.get("Principal"), topic_arn)
    )


def _is_sns(principal: Any, topic_arn: str) -> bool:
    if not isinstance(principal, dict):
        return bool(principal == "*")
    region = topic_arn.split(":")[3]
    services = {_SERVICE, f"sns.{region}.amazonaws.com", "sns.amazonaws.com.cn"}
    return "*" in _listed(principal.get("AWS")) or bool(services & set(map(str, _listed(principal.get("Service")))))


def _holds(statement: Statement, topic_arn: str, *, ignored: str = "") -> bool:
    """Return True if the conditions are known to hold for a delivery from the topic.

    Args:
        ignored: A condition key, in lower case, to leave out.
    """
    facts = _facts(topic_arn)
    conditions = statement.get("Condition") or {}
    return isinstance(conditions, dict) and all(
        isinstance(tests, dict)
        and all(
            str(key).lower() == ignored or _test(operator, facts.get(str(key).lower()), values)
            for key, values in tests.items()
        )
        for operator, tests in conditions.items()
    )


def _facts(topic_arn: str) -> dict[str, str]:
    """Condition keys, in lower case, whose values are known of a delivery from the topic."""
    return {
        "aws:sourcearn": topic_arn,
        "aws:sourceaccount": topic_arn.split(":")[4],
        "aws:securetransport": "true",
        "aws:principalisawsservice": "true",
        "aws:principalservicename": _SERVICE,
    }


def _is_understood(statement: Statement, topic_arn: str) -> bool:
    """Return True if :func:`_holds` knows every operator and key of the conditions."""
    facts, conditions = _facts(topic_arn), statement.get("Condition") or {}
    return isinstance(conditions, dict) and all(
        isinstance(tests, dict)
        and _operator(str(operator))[0] in _OPERATORS
        and all(str(key).lower() in facts for key in tests)
        for operator, tests in conditions.items()
    )


def _test(operator: str, fact: str | None, values: Any) -> bool:
    if fact is None:
        return False
    name, is_negated = _operator(operator)
    match name:
        case "arnequals" | "arnlike":
            found = any(_is_arn_like(str(value), fact) for value in _listed(values))
        case "stringlike":
            found = any(_is_like(str(value), fact) for value in _listed(values))
        case "stringequals":
            found = fact in map(str, _listed(values))
        case "stringequalsignorecase" | "bool":
            found = fact.lower() in (str(value).lower() for value in _listed(values))
        case _:
            return False
    return found != is_negated


def _operator(text: str) -> tuple[str, bool]:
    """The name of a condition operator, one of :data:`_OPERATORS` if it is known, and whether it is negated."""
    name = text.lower().removesuffix("ifexists")
    return name.replace("not", "", 1), "not" in name


def _is_arn_like(pattern: str, arn: str) -> bool:
    """Match each of the six parts on its own: a ``*`` does not cross a colon."""
    wanted, actual = pattern.split(":", 5), arn.split(":", 5)
    return len(wanted) == len(actual) and all(map(_is_like, wanted, actual))


def _is_like(pattern: str, text: str) -> bool:
    return matches_wildcard(pattern, text, question_mark=True)


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
