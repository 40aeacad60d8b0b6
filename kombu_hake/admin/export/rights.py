"""IAM policies: which actions each role needs, and on what. Pure.

:data:`GRANTS` is the only list of these actions: ``hake export iam`` prints it with the ARNs of an app, and the
policies in docs/iam.md are generated from it with the pattern of a namespace. To cover another service, add a kind of
resource to :class:`Resources` and its grants to the list.

What is not in the list
    Actions that only make a warning more precise, which docs/iam.md names with their use. ``sts:GetCallerIdentity``,
    which needs no permission. Batch calls: AWS covers them by the action of a single call.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from kombu_hake.amqp import Arn, Store

__all__ = [
    "GRANTS",
    "POLICY_MAX_CHARS",
    "ROLES",
    "Grant",
    "Resources",
    "Role",
    "bucket_arn",
    "key_statement",
    "payloads_arn",
    "policies",
]

Role = Literal["producer", "consumer", "declarer", "operator"]
ROLES: tuple[Role, ...] = get_args(Role)
#: Of a managed policy. IAM does not count white space.
POLICY_MAX_CHARS = 6_144
_VERSION = "2012-10-17"
_ANY = "*"
_KEY_ID = re.compile(r"(?:mrk-[0-9a-f]{32}|[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12})\Z", re.IGNORECASE)


@dataclass(frozen=True)
class Resources:
    """What an app uses in AWS, as ARNs; IAM's ``*`` and ``?`` may be in them.

    Attributes:
        queues: Queues and their priority levels.
        dead_queues: Dead-letter and undelivered queues.
        topics: Topics of exchanges.
        raised_topics: Those of them that are declared for messages of more than 256 KiB.
        temporary_queues: Queues that Celery creates for remote control and monitors; empty without.
        control_topics: Topics of remote control and events; empty without.
        namespace: Pattern of all queues of the namespace, in which a janitor looks for abandoned temporary ones.
        result_queues: Queues of ``rpc://`` results; empty without.
        payloads: Objects in S3 of large messages.
        buckets: Their buckets.
        keys: Statements' resources and conditions of KMS keys: see :func:`key_statement`.
    """

    queues: tuple[str, ...] = ()
    dead_queues: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()
    raised_topics: tuple[str, ...] = ()
    temporary_queues: tuple[str, ...] = ()
    control_topics: tuple[str, ...] = ()
    namespace: tuple[str, ...] = ()
    result_queues: tuple[str, ...] = ()
    payloads: tuple[str, ...] = ()
    buckets: tuple[str, ...] = ()
    keys: tuple[Mapping[str, Any], ...] = ()


class Grant(NamedTuple):
    """Actions that some roles need on some kinds of resources."""

    roles: tuple[Role, ...]
    #: Attributes of :class:`Resources`. Without any resource of these kinds there is no statement.
    kinds: tuple[str, ...]
    actions: tuple[str, ...]
    #: The actions know no resources, or their resources have no name that can be told before: allow any.
    is_any: bool = False


_REMOTE: tuple[Role, ...] = ("consumer", "operator")
_TEMPORARY = (
    "sqs:CreateQueue", "sqs:TagQueue", "sqs:UntagQueue", "sqs:ListQueueTags", "sqs:GetQueueUrl",
    "sqs:GetQueueAttributes", "sqs:SetQueueAttributes", "sqs:SendMessage", "sqs:ReceiveMessage", "sqs:DeleteMessage",
    "sqs:ChangeMessageVisibility", "sqs:DeleteQueue",
)  # fmt: skip

GRANTS: tuple[Grant, ...] = (
    # To publish events, and to send tasks.
    Grant(("producer",), ("topics",), ("sns:Publish",)),
    Grant(("producer",), ("queues",), ("sqs:SendMessage", "sqs:GetQueueUrl")),
    # To receive and settle. What is sent: retries, delayed tasks and dead letters.
    Grant(
        ("consumer",),
        ("queues",),
        (
            "sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility", "sqs:GetQueueUrl",
            "sqs:GetQueueAttributes", "sqs:ListQueueTags", "sqs:SendMessage",
        ),
    ),
    Grant(("consumer",), ("dead_queues",), ("sqs:GetQueueUrl", "sqs:SendMessage")),
    # To create what is declared, and to mend it.
    Grant(
        ("declarer",),
        ("queues", "dead_queues"),
        (
            "sqs:CreateQueue", "sqs:TagQueue", "sqs:ListQueueTags", "sqs:GetQueueUrl", "sqs:GetQueueAttributes",
            "sqs:SetQueueAttributes",
        ),
    ),
    Grant(
        ("declarer",),
        ("topics",),
        (
            "sns:CreateTopic", "sns:TagResource", "sns:ListTagsForResource", "sns:Subscribe",
            "sns:ListSubscriptionsByTopic",
        ),
    ),
    Grant(("declarer",), ("raised_topics",), ("sns:GetTopicAttributes", "sns:SetTopicAttributes")),
    Grant(("declarer",), ("topics",), ("sns:GetSubscriptionAttributes", "sns:SetSubscriptionAttributes"), is_any=True),
    # To look, to work with dead letters, and to clean up.
    Grant(
        ("operator",),
        ("queues", "dead_queues"),
        (
            "sqs:GetQueueUrl", "sqs:GetQueueAttributes", "sqs:ListQueueTags", "sqs:SendMessage", "sqs:PurgeQueue",
            "sqs:DeleteQueue", "sqs:UntagQueue",
        ),
    ),
    Grant(
        ("operator",), ("dead_queues",), ("sqs:ReceiveMessage", "sqs:ChangeMessageVisibility", "sqs:DeleteMessage")
    ),
    Grant(
        ("operator",),
        ("topics",),
        ("sns:GetTopicAttributes", "sns:ListSubscriptionsByTopic", "sns:ListTagsForResource", "sns:DeleteTopic"),
    ),
    Grant(
        ("operator",),
        ("queues", "topics"),
        (
            "sqs:ListQueues", "sns:ListTopics", "sns:GetSubscriptionAttributes", "sns:Unsubscribe",
            "cloudwatch:GetMetricData",
        ),
        is_any=True,
    ),
    # Remote control and events, and results over rpc://, through temporary queues.
    Grant(_REMOTE, ("temporary_queues",), _TEMPORARY),
    Grant(_REMOTE, ("namespace",), ("sqs:ListQueueTags",)),
    Grant(("producer", "consumer"), ("result_queues",), _TEMPORARY),
    Grant(
        _REMOTE,
        ("control_topics",),
        (
            "sns:CreateTopic", "sns:TagResource", "sns:Subscribe", "sns:Publish", "sns:GetTopicAttributes",
            "sns:ListSubscriptionsByTopic",
        ),
    ),
    Grant(
        _REMOTE,
        ("control_topics",),
        ("sqs:ListQueues", "sns:GetSubscriptionAttributes", "sns:SetSubscriptionAttributes", "sns:Unsubscribe"),
        is_any=True,
    ),
    # Large messages. Retries are messages of their own. Listing tells a missing object from a denied one.
    Grant(("producer", "consumer"), ("payloads",), ("s3:PutObject", "s3:AbortMultipartUpload")),
    Grant(("consumer",), ("payloads",), ("s3:GetObject", "s3:DeleteObject")),
    Grant(("operator",), ("payloads",), ("s3:DeleteObject",)),
    Grant(("consumer",), ("buckets",), ("s3:ListBucket",)),
    Grant(("operator",), ("buckets",), ("s3:ListBucket", "s3:GetLifecycleConfiguration")),
    # To send to and receive from encrypted queues.
    Grant(("producer", "consumer", "operator"), ("keys",), ("kms:GenerateDataKey", "kms:Decrypt")),
)  # fmt: skip


def policies(role: Role, resources: Resources) -> list[dict[str, Any]]:
    """The policy documents of a role: one, or several that are to be attached together where one would be too long.

    Actions on the same resources are in one statement. Empty if there is nothing to allow.
    """
    return list(_split(_statements(role, resources)))


def bucket_arn(store: Store, partition: str) -> str:
    """The bucket of large messages, as a policy names it."""
    return f"arn:{partition}:s3:::{store.bucket}"


def payloads_arn(store: Store, partition: str) -> str:
    """The objects of large messages, as a policy names them."""
    return f"{bucket_arn(store, partition)}/{store.base}*"


def key_statement(key: str, home: Arn) -> dict[str, Any] | None:
    """The resource, and the condition, by which a policy allows a KMS key.

    Args:
        key: ``KmsMasterKeyId`` of a queue: id, ARN, alias or ARN of an alias.
        home: Any ARN of the account and region.
    Returns:
        None for a key that AWS manages, which needs no permission.
    """
    alias = key[key.find("alias/") :] if "alias/" in key else ""
    if alias.startswith("alias/aws/"):
        return None
    if key.startswith("arn:") and not alias:
        return {"Resource": key}
    # IAM knows no alias as a resource, but the key's aliases are a condition.
    name = key if _KEY_ID.match(key) else _ANY
    statement: dict[str, Any] = {"Resource": str(home._replace(service="kms", name=f"key/{name}"))}
    if name == _ANY:
        statement["Condition"] = {"ForAnyValue:StringEquals": {"kms:ResourceAliases": alias or key}}
    return statement


def _statements(role: Role, resources: Resources) -> list[dict[str, Any]]:
    allowed: dict[tuple[str, ...], dict[str, None]] = {}
    of_keys = []
    for grant in GRANTS:
        if role not in grant.roles:
            continue
        if grant.kinds == ("keys",):
            of_keys += [{"Effect": "Allow", "Action": list(grant.actions), **key} for key in resources.keys]
            continue
        arns = tuple(dict.fromkeys(arn for kind in grant.kinds for arn in getattr(resources, kind)))
        if arns:
            of = (_ANY,) if grant.is_any else arns
            allowed.setdefault(of, {}).update(dict.fromkeys(grant.actions))
    plain = [
        {"Effect": "Allow", "Action": _one_or_all(actions), "Resource": _one_or_all(arns)}
        for arns, actions in allowed.items()
    ]
    return [*plain, *of_keys]


def _one_or_all(values: Iterable[str]) -> str | list[str]:
    found = list(values)
    return found[0] if len(found) == 1 else found


def _split(statements: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """As few documents as fit, in order; a statement with many resources is split."""
    done: list[dict[str, Any]] = []
    waiting = list(statements)
    while waiting:
        statement = waiting.pop(0)
        if _fits([*done, statement]):
            done.append(statement)
            continue
        resources = statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
        count = next(
            (n for n in range(len(resources) - 1, 0, -1) if _fits([*done, {**statement, "Resource": resources[:n]}])), 0
        )
        if count:
            done.append({**statement, "Resource": _one_or_all(resources[:count])})
        elif not done:
            raise AssertionError("one statement of one resource exceeds a policy")
        if count or done:
            waiting.insert(0, {**statement, "Resource": _one_or_all(resources[count:])})
        yield _document(done)
        done = []
    if done:
        yield _document(done)


def _fits(statements: list[dict[str, Any]]) -> bool:
    return len(json.dumps(_document(statements), separators=(",", ":"))) <= POLICY_MAX_CHARS


def _document(statements: list[dict[str, Any]]) -> dict[str, Any]:
    return {"Version": _VERSION, "Statement": statements}
