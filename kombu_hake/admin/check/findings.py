"""What ``hake check`` can find: its codes, and a finding as a value. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

from kombu_hake.quoting import quoted

__all__ = ["CODES", "Code", "Finding", "Severity", "found", "in_order", "listed"]

Severity: TypeAlias = Literal["error", "warning", "info"]
_RANK: Mapping[Severity, int] = {"error": 0, "warning": 1, "info": 2}
_SHOWN_MOST = 5


class Code(NamedTuple):
    """What a code stands for, in Markdown: docs/cli.md shows this table."""

    severity: Severity
    meaning: str
    #: Why it matters, in a sentence.
    why: str
    remedy: str


CODES: Mapping[str, Code] = {
    # --- what is missing
    "queue-missing": Code(
        "error",
        "A queue that the app declares, or one of its priority levels, does not exist.",
        "Sending to it fails, and messages published to its exchanges are lost.",
        "`hake apply`, start a worker that declares it, or create it with your infrastructure code",
    ),
    "topic-missing": Code(
        "error",
        "An exchange that queues are bound to has no topic.",
        "Messages published to it reach no queue.",
        "`hake apply`, or create the topic",
    ),
    "subscription-missing": Code(
        "error",
        "A queue is not subscribed to the topic of an exchange that it is bound to.",
        "SNS delivers no messages of the exchange to the queue.",
        "`hake apply`, or subscribe the queue with raw message delivery",
    ),
    "subscription-pending": Code(
        "error",
        "A subscription is not confirmed yet.",
        "SNS delivers nothing to it. The confirmation token is valid for two days.",
        "let the account that owns the queue subscribe it",
    ),
    "drift": Code(
        "warning",
        "A queue, topic or subscription differs from what `apply` would create, in a way that no other code covers.",
        "The next worker that declares it may change it.",
        "`hake plan` shows the difference, and `hake apply` removes it",
    ),
    # --- queue policies
    "policy-lacks-topic": Code(
        "error",
        "No statement of a queue's policy allows a topic that the queue is subscribed to.",
        "SNS discards every message to the queue, and the publisher gets no error.",
        "the statement to add to the policy",
    ),
    "policy-denies": Code(
        "error",
        "A Deny statement of a queue's policy applies to a topic that the queue is subscribed to.",
        "A Deny wins over every Allow: SNS discards every message to the queue.",
        "remove the statement, or exempt `sns.amazonaws.com`",
    ),
    "policy-other-account": Code(
        "error",
        "The policy allows the topic only in another account (`aws:SourceAccount`).",
        "The condition is false for the topic's account: SNS discards every message to the queue.",
        "name the topic's account in the condition",
    ),
    "policy-in-doubt": Code(
        "warning",
        "A Deny statement has a condition that the check cannot evaluate.",
        "If it applies to SNS, every message to the queue is discarded.",
        "exempt services (`aws:PrincipalIsAWSService`), and prove it with `--probe`",
    ),
    "policy-unreadable": Code(
        "error",
        "A queue's policy is not a valid SQS policy.",
        "It is not known whether topics may send to the queue. `apply` does not overwrite such a policy.",
        "correct the policy",
    ),
    "policy-near-limit": Code(
        "warning",
        "A queue's policy is close to 8,192 bytes or 20 statements.",
        "The next binding may not fit.",
        "merge or remove foreign statements, or set `queue_policy=namespace`",
    ),
    # --- subscriptions
    "raw-delivery-off": Code(
        "error",
        "A subscription wraps messages in SNS notifications.",
        "Message attributes are lost, and other consumers cannot read the messages.",
        "set `RawMessageDelivery` to `true`",
    ),
    "filter-too-narrow": Code(
        "error",
        "A filter policy may not pass everything that the queue is bound to.",
        "What it does not pass is lost.",
        "the filter policy to set",
    ),
    "filter-too-wide": Code(
        "warning",
        "A filter policy passes more than the queue is bound to.",
        "Workers receive messages that no binding matches, and drop them: each costs a delivery.",
        "the filter policy to set",
    ),
    "filter-on-body": Code(
        "error",
        "A filter policy applies to the message body (`FilterPolicyScope=MessageBody`).",
        "The routing key is a message attribute, so nothing passes the filter.",
        "set `FilterPolicyScope` to `MessageAttributes`",
    ),
    "undelivered-not-kept": Code(
        "warning",
        "A subscription has no redrive policy.",
        "Messages that SNS cannot deliver are lost without a trace.",
        "`hake apply`, or set a `RedrivePolicy` of the subscription",
    ),
    "undelivered-queue-missing": Code(
        "error",
        "The redrive policy of a subscription names a queue that does not exist.",
        "Messages that SNS cannot deliver are lost without a trace.",
        "create the queue, with a policy that allows the topic",
    ),
    "orphan-subscription": Code(
        "warning",
        "A topic has a subscription whose queue does not exist.",
        "It counts against quotas, and becomes active again when a queue of that name is created.",
        "unsubscribe it",
    ),
    "unbound-subscription": Code(
        "warning",
        "A queue is subscribed to the topic of an exchange that it is not bound to.",
        "Its policy may not allow the topic, so SNS may fail to deliver. Workers drop messages that SNS delivers.",
        "`hake apply --prune`, or unsubscribe it",
    ),
    "foreign-subscription": Code(
        "info",
        "A queue or another endpoint that this app does not declare is subscribed to one of its topics.",
        "It receives the app's messages too.",
        "none, if this is intended",
    ),
    # --- dead letters
    "dead-letters-off": Code(
        "warning",
        "A queue should have a dead-letter queue, but has no redrive policy.",
        "A message that cannot be handled is redelivered until it expires.",
        "`hake apply`, or set a `RedrivePolicy`",
    ),
    "dead-queue-missing": Code(
        "error",
        "The redrive policy of a queue names a dead-letter queue that does not exist.",
        "A message that is received too often stays in the queue, and is redelivered until it expires.",
        "create the dead-letter queue",
    ),
    "dead-queue-refuses": Code(
        "error",
        "The dead-letter queue does not accept the queue as a source (`RedriveAllowPolicy`).",
        "A message that is received too often stays in the queue.",
        "add the queue to `sourceQueueArns`",
    ),
    "max-receives-low": Code(
        "warning",
        "A message is dead-lettered after fewer receives than the queue was declared with, or after one or two.",
        "A worker that is restarted returns prefetched messages, which counts as a receive: good messages are "
        "dead-lettered.",
        "raise `maxReceiveCount`",
    ),
    "dead-retention-short": Code(
        "warning",
        "A dead-letter queue keeps messages for less time than its queue.",
        "SQS counts from when the message was first sent, so a dead letter may be deleted as soon as it arrives.",
        "raise `MessageRetentionPeriod` of the dead-letter queue",
    ),
    "dead-size-small": Code(
        "warning",
        "A dead-letter queue accepts only smaller messages than its queue.",
        "Workers cannot dead-letter larger messages, which stay in the queue. AWS does not document whether it moves "
        "them after the receives of the redrive policy.",
        "raise `MaximumMessageSize` of the dead-letter queue",
    ),
    "dead-letters": Code(
        "warning",
        "A dead-letter queue has messages.",
        "They were not handled.",
        "`hake dlq list`",
    ),
    "undelivered": Code(
        "warning",
        "An undelivered queue has messages that SNS could not deliver.",
        "The queue was missing, or did not allow the topic, when they were published.",
        "fix the cause, then `hake dlq list --undelivered`",
    ),
    # --- queues
    "retention-short": Code(
        "warning",
        "A queue keeps messages for less than fifteen minutes, the longest delay of SQS.",
        "Delayed tasks and backlogs are deleted before they run.",
        "raise `MessageRetentionPeriod`",
    ),
    "visibility-short": Code(
        "warning",
        "A queue that `sqs://` workers may share has a visibility timeout of less than thirty minutes.",
        "`sqs://` does not renew leases: its workers run longer tasks twice. Workers of `hake://` are not affected.",
        "raise `VisibilityTimeout` above the longest task of the `sqs://` workers",
    ),
    "queue-delay": Code(
        "warning",
        "A queue has `DelaySeconds`.",
        "Every message and every retry is delayed by that time.",
        "set `DelaySeconds` to 0",
    ),
    "message-size-small": Code(
        "warning",
        "A queue's `MaximumMessageSize` is below 256 KiB.",
        "Larger messages are refused when they are sent straight to the queue, as retries are.",
        "raise `MaximumMessageSize`",
    ),
    "fifo-attributes": Code(
        "warning",
        "A FIFO queue has a `FifoThroughputLimit` that its `DeduplicationScope` does not support.",
        "High throughput needs both `perMessageGroupId` and `messageGroup`.",
        "set `DeduplicationScope` to `messageGroup`",
    ),
    "fifo-on-standard-topic": Code(
        "error",
        "A FIFO queue is bound to an exchange whose topic is not FIFO.",
        "SNS cannot deliver to it.",
        "give the exchange a name that ends in `.fifo`, or use a standard queue",
    ),
    "standard-on-fifo-topic": Code(
        "warning",
        "A standard queue is subscribed to a FIFO topic.",
        "The queue keeps neither the order nor the deduplication of the topic.",
        "use a queue whose name ends in `.fifo`",
    ),
    "key-closed-to-sns": Code(
        "error",
        "A queue that is bound to a topic is encrypted with `alias/aws/sqs`.",
        "The policy of that key does not allow SNS and cannot be changed: SNS discards every message.",
        "encrypt it with SSE-SQS, or with your own key that allows `sns.amazonaws.com`",
    ),
    "own-key": Code(
        "info",
        "A queue that is bound to a topic is encrypted with your own key.",
        "If the key policy does not allow SNS, every message is discarded. Key policies are not read.",
        "allow `sns.amazonaws.com` `kms:GenerateDataKey*` and `kms:Decrypt`; prove it with `--probe`",
    ),
    # --- large messages
    "bucket-missing": Code(
        "error",
        "A bucket that `large_messages` names does not exist.",
        "Publishing large messages fails, and the payloads of earlier ones are lost.",
        "create the bucket with its lifecycle rules, or correct the option",
    ),
    "bucket-unreachable": Code(
        "error",
        "S3 cannot be reached, or fails.",
        "Publishing large messages fails, and received ones wait.",
        "add or correct a VPC endpoint for S3, a route, a proxy, or `AWS_ENDPOINT_URL_S3`",
    ),
    "bucket-elsewhere": Code(
        "info",
        "A bucket of large messages is in another region than the queues.",
        "Each large message takes longer, and AWS charges for the transfer.",
        "none, if this is intended",
    ),
    "lifecycle-missing": Code(
        "warning",
        "No lifecycle rule of the bucket deletes the objects of large messages.",
        "Payloads of events, and others that no worker deletes, are kept and billed forever.",
        "the rules to add",
    ),
    "lifecycle-short": Code(
        "warning",
        "A lifecycle rule deletes objects of large messages while queues may still hold their messages.",
        "A message without its object is dead-lettered, and its payload is lost.",
        "raise the `Expiration` of the rule to 30 days",
    ),
    # --- quotas
    "tags-near-limit": Code(
        "warning",
        "A queue has at least 45 of the 50 tags that AWS allows.",
        "Bindings are tags: the next one may not fit.",
        "remove tags, or bind with fewer keys",
    ),
    "in-flight-near-limit": Code(
        "warning",
        "A queue has at least 90 % of the 120,000 messages that may be in flight.",
        "At the limit a queue returns no messages and no error.",
        "add workers, or delay fewer tasks in the queue",
    ),
    "filters-near-limit": Code(
        "warning",
        "A topic has at least 180 of 200 filter policies.",
        "Further queues receive everything from the exchange.",
        "ask AWS for a higher quota, or bind fewer queues",
    ),
    "subscriptions-near-limit": Code(
        "warning",
        "A topic that may have 100 subscriptions (FIFO, or with a raised `MaximumMessageSize`) has 90 or more.",
        "The next queue cannot be bound.",
        "bind fewer queues, or lower `MaximumMessageSize`",
    ),
    # --- the app
    "group-without-bindings": Code(
        "warning",
        "A group has no binding to a topic, in the app or in AWS.",
        "It receives no events.",
        "import the module of its handlers, or delete the queue",
    ),
    "exchange-reaches-nobody": Code(
        "warning",
        "An exchange that the app publishes to, by a route or a `Topic`, has no subscription.",
        "AWS accepts messages published to it, and discards them.",
        "start the workers that bind a queue to it, or remove the exchange",
    ),
    "binding-without-handler": Code(
        "warning",
        "A group is bound with a key that this app has no handler for.",
        "Such events become dead letters (`unhandled`).",
        "deploy the handler, or `hake apply --prune`",
    ),
    "damaged-tags": Code(
        "warning",
        "Tags of a queue that should hold bindings cannot be read.",
        "The bindings in them are unknown, so the queue's filter is not narrowed.",
        "remove the tags",
    ),
    "abandoned-queue": Code(
        "info",
        "A temporary queue has expired, and no janitor has removed it.",
        "It costs nothing, but its subscription counts against quotas.",
        "`hake janitor`",
    ),
    # --- account and network
    "endpoint-unreachable": Code(
        "error",
        "The endpoint of SQS or SNS cannot be reached: its name does not resolve, nothing answers, or TLS fails.",
        "Nothing can be sent or received.",
        "correct the cause of the failed step: DNS or VPC endpoint, security group or route, certificate or proxy",
    ),
    "clock-skew": Code(
        "warning",
        "This machine's clock differs from AWS's by more than thirty seconds.",
        "ETA tasks run early or late. Above five minutes, AWS refuses requests of other programs.",
        "synchronize the clock",
    ),
    "region-mismatch": Code(
        "error",
        "A predefined queue or exchange, or an endpoint, is in another region than the broker URL.",
        "A connection uses one region: the queue is not found, or SNS refuses the topic.",
        "correct the address, or use a broker URL with its region",
    ),
    "partition-mismatch": Code(
        "error",
        "A predefined queue or exchange is in another partition (`aws`, `aws-cn`, `aws-us-gov`) than the credentials.",
        "Partitions are separate: the queue or topic cannot be reached.",
        "correct the ARN, or the region of the broker URL",
    ),
    "account-mismatch": Code(
        "error",
        "The option `account_id` is not the account of the credentials.",
        "Topics are looked up in one account, and queues are created in the other.",
        "correct `account_id`, or assume a role of that account with `role_arn`",
    ),
    "sns-rate": Code(
        "info",
        "By default, SNS accepts few messages per second in the region.",
        "SNS throttles a higher rate, for all topics of the account together.",
        "ask for a higher quota before the load needs it",
    ),
    # --- rights
    "right-missing": Code(
        "warning",
        "These credentials lack a right of a role that the app's processes have.",
        "If workers and producers use the same credentials, every request that needs the right fails.",
        "the IAM statement to add; `--role` if these are the credentials of one role only",
    ),
    "cannot-check": Code(
        "warning",
        "A read that a check needs is denied.",
        "The result of that part of the check is unknown.",
        "the action to allow",
    ),
    # --- the probe
    "probe-undelivered": Code(
        "error",
        "A probe with the policy and filter of a subscription was not delivered, although it should have been.",
        "Messages to the real queue are lost in the same way.",
        "see the other findings of the queue; if there are none, check the key policy and Deny statements",
    ),
    "probe-late": Code(
        "warning",
        "A probe was not delivered in time, but a new filter or policy may not have taken effect yet.",
        "It is not known whether messages arrive.",
        "repeat with `--wait 15m`",
    ),
    "probe-failed": Code(
        "warning",
        "The probe could not run.",
        "It is not known whether messages arrive.",
        "correct what the error names; see the rights of the probe",
    ),
}


@dataclass(frozen=True)
class Finding:
    """One finding of a check.

    Attributes:
        code: Its stable name; the documentation lists all codes.
        severity: ``error``: messages are lost or refused; ``warning``: they may be, or a mechanism is off; ``info``.
        what: What was found, in a sentence.
        where: ARN or AWS name of the object.
        why: Why it matters.
        remedy: How to fix it: a command, a setting or a policy statement.
    """

    code: str
    severity: Severity
    what: str
    where: str
    why: str
    remedy: str
    #: Patterns of differences to the blueprint that the finding explains (``drift.py``): they are no drift.
    explains: frozenset[str] = field(default=frozenset(), repr=False, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        fields = asdict(self)
        del fields["explains"]
        return fields


def found(
    code: str,
    where: str,
    what: str,
    remedy: str = "",
    *,
    severity: Severity | None = None,
    explains: Iterable[str] = (),
) -> Finding:
    """A finding with the severity, reason and remedy of its code, unless they are given.

    Args:
        explains: Patterns of differences to the blueprint, of ``drift.py``.
    """
    known = CODES[code]
    why, usual = known.why.replace("`", ""), known.remedy.replace("`", "")
    return Finding(code, severity or known.severity, what, where, why, remedy or usual, frozenset(explains))


def listed(names: Sequence[str]) -> str:
    """The first few names, for a sentence."""
    return ", ".join(map(quoted, names[:_SHOWN_MOST])) + (", …" if len(names) > _SHOWN_MOST else "")


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Errors first, each finding once, in the order in which they were found."""
    return sorted(dict.fromkeys(findings), key=lambda one: _RANK[one.severity])
