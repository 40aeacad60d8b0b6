"""SQS in memory, for :mod:`fakes`. One method for each operation, with boto3's parameters and answers.

Refuses what AWS refuses, with :class:`fake_aws.AwsError`; how late changes are seen and act is in
:class:`fake_aws.Timings`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fake_aws import QUICK, AwsError, Clock, Past, Timings

__all__ = ["FakeQueue", "FakeSqs", "Stored", "size_of"]

MAX_BYTES = 1_048_576
MAX_VISIBILITY_S = 43_200
RECREATE_S = PURGE_S = 60
DEDUPLICATION_S = 300
MOST_TAGS = 50
MOST_IN_FLIGHT = 120_000
DEFAULTS = {
    "VisibilityTimeout": "30",
    "MessageRetentionPeriod": "345600",
    "DelaySeconds": "0",
    "ReceiveMessageWaitTimeSeconds": "0",
    "MaximumMessageSize": "1048576",
}
#: Attributes that are whole numbers, with the least and the most.
RANGES = {
    "VisibilityTimeout": (0, MAX_VISIBILITY_S),
    "MessageRetentionPeriod": (60, 1_209_600),
    "DelaySeconds": (0, 900),
    "ReceiveMessageWaitTimeSeconds": (0, 20),
    "MaximumMessageSize": (1_024, MAX_BYTES),
    "KmsDataKeyReusePeriodSeconds": (60, 86_400),
}
FIFO_ONLY = {"FifoQueue", "ContentBasedDeduplication", "DeduplicationScope", "FifoThroughputLimit"}
OTHERS = {"Policy", "RedrivePolicy", "RedriveAllowPolicy", "KmsMasterKeyId", "SqsManagedSseEnabled"}
POLICY_BYTES, POLICY_STATEMENTS = 8_192, 20
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_GROUP = re.compile(r"[!-~]{1,128}")


@dataclass
class Stored:
    """A message in a queue."""

    message_id: str
    body: str
    attributes: dict[str, Any]
    sent_at: float
    visible_at: float
    group: str | None = None
    receive_count: int = 0
    received_at: float = 0.0
    is_released: bool = False
    #: All handles given out, the valid one last.
    handles: list[str] = field(default_factory=list)

    def is_in_flight(self, now: float) -> bool:
        return bool(self.receive_count) and self.visible_at > now


@dataclass
class FakeQueue:
    """A queue. ``attributes`` and ``tags`` are as they were set last."""

    name: str
    url: str
    arn: str
    attributes: dict[str, str]
    tags: dict[str, str]
    messages: list[Stored] = field(default_factory=list)
    purged_at: float = float("-inf")
    deduplicated: dict[str, float] = field(default_factory=dict)
    past_attributes: Past[dict[str, str]] = field(default_factory=Past)
    past_tags: Past[dict[str, str]] = field(default_factory=Past)

    @property
    def is_fifo(self) -> bool:
        return self.name.endswith(".fifo")

    def bodies(self) -> list[str]:
        return [message.body for message in self.messages]


def size_of(body: str, attributes: dict[str, Any] | None) -> int:
    """Bytes that count: the body, and name, type and value of each attribute."""
    total = len(body.encode())
    for name, value in (attributes or {}).items():
        content = value.get("BinaryValue") or str(value.get("StringValue", "")).encode()
        total += len(name.encode()) + len(value["DataType"].encode()) + len(content)
    return total


class FakeSqs:
    """All queues of an account and region. The caller holds the lock of *changed*."""

    def __init__(
        self,
        account: str,
        region: str,
        clock: Clock,
        changed: threading.Condition,
        *,
        timings: Timings = QUICK,
        url_base: str = "",
    ) -> None:
        self._account = account
        self._region = region
        self._clock = clock
        self._changed = changed
        self._url_base = url_base or f"https://sqs.{region}.amazonaws.com"
        self._numbers = itertools.count(1)
        self._deleted: dict[str, float] = {}
        #: Name of a queue to what its long polls wait on, so that a message wakes no poll of another queue.
        self._arrivals: dict[str, threading.Condition] = {}
        self.timings = timings
        #: How many messages of a queue may be in flight; tests lower it.
        self.most_in_flight = MOST_IN_FLIGHT
        self.by_name: dict[str, FakeQueue] = {}
        #: Every change up to this time is in effect.
        self._acted_at = float("-inf")
        self.is_over = False

    def take_lock(self, changed: threading.Condition) -> None:
        """Use another lock from now on; for the child of a fork, where a thread of the parent may hold the old one."""
        self._changed = changed
        self._arrivals = {}

    def queue(self, name: str) -> FakeQueue:
        """A queue by its name in AWS."""
        if name not in self.by_name:
            raise AwsError.sqs("NonExistentQueue", f"The specified queue does not exist: {name}.")
        return self.by_name[name]

    def of_url(self, url: str) -> FakeQueue:
        return self.queue(url.rsplit("/", 1)[1])

    def of_arn(self, arn: str) -> FakeQueue | None:
        queue = self.by_name.get(arn.rpartition(":")[2])
        return queue if queue is not None and queue.arn == arn else None

    def acting(self, queue: FakeQueue) -> dict[str, str]:
        """The attributes by which the queue works now."""
        since = max(self._clock() - self.timings.attributes_act_s, self._acted_at)
        return queue.past_attributes.seen(queue.attributes, since)

    def act(self) -> None:
        """Have every change in effect. Reads are as late as before."""
        self._acted_at = self._clock()

    def settle(self) -> None:
        """Have every change seen by all readers, and in effect."""
        for queue in self.by_name.values():
            queue.past_attributes.clear()
            queue.past_tags.clear()

    def wake(self) -> None:
        """Have every open long poll look again."""
        for condition in self._arrivals.values():
            condition.notify_all()

    # --- queues

    def create_queue(
        self, QueueName: str, Attributes: dict[str, str] | None = None, tags: dict[str, str] | None = None
    ) -> dict[str, Any]:
        wanted = dict(Attributes or {})
        stem = QueueName.removesuffix(".fifo")
        if not re.fullmatch(r"[A-Za-z0-9_-]+", stem) or len(QueueName) > 80:
            raise AwsError(
                "InvalidParameterValue",
                "Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length: " + QueueName,
            )
        if (wanted.get("FifoQueue") == "true") != QueueName.endswith(".fifo") or wanted.get("FifoQueue") == "false":
            raise AwsError("InvalidParameterValue", "FifoQueue=true and a name that ends in .fifo need each other.")
        existing = self.by_name.get(QueueName)
        self._check_attributes(QueueName, wanted)
        self._check_tags(dict(tags or {}))
        if existing is not None:
            for name, value in wanted.items():
                if existing.attributes.get(name, "") != value:
                    raise AwsError(
                        "QueueAlreadyExists",
                        f"A queue already exists with the same name and a different value for attribute {name}",
                    )
            return {"QueueUrl": existing.url}
        if self._clock() - self._deleted.get(QueueName, float("-inf")) < RECREATE_S:
            raise AwsError.sqs(
                "QueueDeletedRecently",
                "You must wait 60 seconds after deleting a queue before you can create another with the same name.",
            )
        url = f"{self._url_base}/{self._account}/{QueueName}"
        self.by_name[QueueName] = FakeQueue(
            QueueName, url, self._arn(QueueName), {**DEFAULTS, **wanted}, dict(tags or {})
        )
        return {"QueueUrl": url}

    def get_queue_url(self, QueueName: str, QueueOwnerAWSAccountId: str | None = None) -> dict[str, Any]:
        if QueueOwnerAWSAccountId not in (None, self._account):
            raise AwsError.sqs("NonExistentQueue", f"There is no queue {QueueName} of {QueueOwnerAWSAccountId}.")
        return {"QueueUrl": self.queue(QueueName).url}

    def list_queues(
        self, QueueNamePrefix: str = "", MaxResults: int | None = None, NextToken: str | None = None
    ) -> dict[str, Any]:
        names = [name for name in self.by_name if name.startswith(QueueNamePrefix)]
        return self._page(names, MaxResults, NextToken)

    def _page(self, names: list[str], most: int | None, token: str | None) -> dict[str, Any]:
        start, count = int(token or 0), most or 1_000
        urls = [self.by_name[name].url for name in names[start : start + count]]
        answer: dict[str, Any] = {"QueueUrls": urls} if urls else {}
        return {**answer, "NextToken": str(start + count)} if most and len(names) > start + count else answer

    def delete_queue(self, QueueUrl: str) -> dict[str, Any]:
        queue = self.of_url(QueueUrl)
        del self.by_name[queue.name]
        self._deleted[queue.name] = self._clock()
        self._arrived(queue)
        return {}

    def get_queue_attributes(self, QueueUrl: str, AttributeNames: list[str]) -> dict[str, Any]:
        queue = self.of_url(QueueUrl)
        now = self._clock()
        in_flight = sum(1 for message in queue.messages if message.is_in_flight(now))
        delayed = sum(1 for message in queue.messages if not message.receive_count and message.visible_at > now)
        every = {
            **queue.past_attributes.seen(queue.attributes, now - self.timings.attribute_reads_s),
            "QueueArn": queue.arn,
            "ApproximateNumberOfMessages": str(len(queue.messages) - in_flight - delayed),
            "ApproximateNumberOfMessagesNotVisible": str(in_flight),
            "ApproximateNumberOfMessagesDelayed": str(delayed),
        }
        wanted = set(every) if "All" in AttributeNames else set(AttributeNames)
        found = {name: value for name, value in every.items() if name in wanted and value}
        return {"Attributes": found} if found else {}

    def set_queue_attributes(self, QueueUrl: str, Attributes: dict[str, str]) -> dict[str, Any]:
        queue = self.of_url(QueueUrl)
        if "FifoQueue" in Attributes and queue.is_fifo:
            raise AwsError("InvalidAttributeName", "Modifying queue type is not supported.")
        self._check_attributes(queue.name, Attributes)
        if queue.attributes | Attributes != queue.attributes:
            queue.past_attributes.replaced(dict(queue.attributes), self._clock())
        queue.attributes.update(Attributes)
        return {}

    def _check_attributes(self, queue_name: str, attributes: dict[str, str]) -> None:
        is_fifo = queue_name.endswith(".fifo")
        for name, value in attributes.items():
            if not isinstance(value, str):
                raise AwsError("InvalidAttributeValue", f"Invalid value for the parameter {name}: not a text.")
            if name not in RANGES.keys() | OTHERS | (FIFO_ONLY if is_fifo else set()):
                raise AwsError("InvalidAttributeName", f"Unknown Attribute {name}.")
            if name in RANGES:
                least, most = RANGES[name]
                if not re.fullmatch(r"[0-9]{1,9}", value) or not least <= int(value) <= most:
                    raise AwsError("InvalidAttributeValue", f"Invalid value for the parameter {name}.")
        if attributes.get("Policy"):
            self._check_policy(attributes["Policy"])
        if attributes.get("RedrivePolicy"):
            self._check_redrive(queue_name, attributes["RedrivePolicy"])
        if attributes.get("KmsMasterKeyId") and attributes.get("SqsManagedSseEnabled") == "true":
            raise AwsError("InvalidAttributeName", "You can use one type of server-side encryption (SSE) at one time.")

    @staticmethod
    def _check_policy(text: str) -> None:
        try:
            statements = json.loads(text)["Statement"]
        except (ValueError, KeyError, TypeError):
            raise AwsError("InvalidAttributeValue", "Invalid value for the parameter Policy.") from None
        count = len(statements) if isinstance(statements, list) else 1
        if len(text.encode()) > POLICY_BYTES or count > POLICY_STATEMENTS:
            raise AwsError(
                "InvalidAttributeValue",
                f"Invalid value for the parameter Policy. Reason: {len(text.encode())} bytes and {count} statements "
                f"are more than {POLICY_BYTES} and {POLICY_STATEMENTS}.",
            )

    def _check_redrive(self, queue_name: str, text: str) -> None:
        parameter = f"Value {text} for parameter RedrivePolicy is invalid. Reason: "
        target, most = _redrive_policy({"RedrivePolicy": text})
        if not target or not 1 <= most <= 1_000:
            raise AwsError("InvalidParameterValue", parameter + "maxReceiveCount must be from 1 to 1000.")
        dead = self.of_arn(target)
        if dead is None:
            raise AwsError("InvalidParameterValue", parameter + "Dead letter target does not exist.")
        if dead.is_fifo != queue_name.endswith(".fifo"):
            raise AwsError("InvalidParameterValue", parameter + "Dead-letter queue must be same type of queue.")
        try:
            allowed = json.loads(dead.attributes.get("RedriveAllowPolicy") or "{}")
        except (ValueError, RecursionError):
            allowed = {}
        # What AWS answers where the policy is denyAll is not known, so that is let through. So is a policy that AWS
        # would have refused: tests put it there.
        sources = allowed.get("sourceQueueArns", []) if isinstance(allowed, dict) else None
        if not isinstance(sources, list) or allowed.get("redrivePermission") != "byQueue":
            return
        if self._arn(queue_name) in sources:
            return
        raise AwsError("InvalidParameterValue", parameter + "The dead-letter queue does not allow this queue.")

    def list_queue_tags(self, QueueUrl: str) -> dict[str, Any]:
        queue = self.of_url(QueueUrl)
        tags = queue.past_tags.seen(queue.tags, self._clock() - self.timings.tag_reads_s)
        return {"Tags": dict(tags)} if tags else {}

    def tag_queue(self, QueueUrl: str, Tags: dict[str, str]) -> dict[str, Any]:
        queue = self.of_url(QueueUrl)
        merged = {**queue.tags, **Tags}
        self._check_tags(merged)
        self._retag(queue, merged)
        return {}

    def untag_queue(self, QueueUrl: str, TagKeys: list[str]) -> dict[str, Any]:
        queue = self.of_url(QueueUrl)
        self._retag(queue, {key: value for key, value in queue.tags.items() if key not in TagKeys})
        return {}

    def _retag(self, queue: FakeQueue, tags: dict[str, str]) -> None:
        if tags != queue.tags:
            queue.past_tags.replaced(queue.tags, self._clock())
            queue.tags = tags

    @staticmethod
    def _check_tags(tags: dict[str, str]) -> None:
        if len(tags) > MOST_TAGS:
            raise AwsError("InvalidParameterValue", "Too many tags added to queue.")
        for key, value in tags.items():
            if not 1 <= len(key) <= 128 or len(value) > 256:
                raise AwsError("InvalidParameterValue", "A tag is too long.")
            if key.lower().startswith("aws:"):
                raise AwsError("InvalidParameterValue", "Tag keys can't start with aws:.")

    def purge_queue(self, QueueUrl: str) -> dict[str, Any]:
        queue = self.of_url(QueueUrl)
        if self._clock() - queue.purged_at < PURGE_S:
            raise AwsError.sqs(
                "PurgeQueueInProgress",
                f"Only one PurgeQueue operation on {queue.name} is allowed every 60 seconds.",
            )
        queue.purged_at = self._clock()
        queue.messages.clear()
        return {}

    # --- sending

    def send_message(
        self,
        QueueUrl: str,
        MessageBody: str,
        DelaySeconds: int | None = None,
        MessageAttributes: dict[str, Any] | None = None,
        MessageGroupId: str | None = None,
        MessageDeduplicationId: str | None = None,
        MessageSystemAttributes: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        queue = self.of_url(QueueUrl)
        acting = self.acting(queue)
        if queue.is_fifo and MessageGroupId is None:
            raise AwsError("MissingParameter", "The request must contain the parameter MessageGroupId.")
        if queue.is_fifo and MessageDeduplicationId is None and acting.get("ContentBasedDeduplication") != "true":
            raise AwsError(
                "InvalidParameterValue",
                "The queue should either have ContentBasedDeduplication enabled or MessageDeduplicationId provided "
                "explicitly",
            )
        if queue.is_fifo and DelaySeconds is not None:
            raise AwsError(
                "InvalidParameterValue",
                f"Value {DelaySeconds} for parameter DelaySeconds is invalid. Reason: The request include parameter "
                "that is not valid for this queue type.",
            )
        if not queue.is_fifo and MessageDeduplicationId is not None:
            raise AwsError(
                "InvalidParameterValue",
                f"Value {MessageDeduplicationId} for parameter MessageDeduplicationId is invalid. Reason: The request "
                "include parameter that is not valid for this queue type.",
            )
        if MessageGroupId is not None and not _GROUP.fullmatch(MessageGroupId):
            raise AwsError(
                "InvalidParameterValue",
                "MessageGroupId can only include alphanumeric and punctuation characters. 1 to 128 in length.",
            )
        most = int(acting.get("MaximumMessageSize", MAX_BYTES))
        if size_of(MessageBody, MessageAttributes) > most:
            raise AwsError(
                "InvalidParameterValue",
                f"One or more parameters are invalid. Reason: Message must be shorter than {most} bytes.",
            )
        self._check_message_attributes(MessageAttributes or {})
        if not 0 <= (DelaySeconds or 0) <= 900:
            raise AwsError(
                "InvalidParameterValue",
                f"Value {DelaySeconds} for parameter DelaySeconds is invalid. Reason: DelaySeconds must be >= 0 and "
                "<= 900.",
            )
        return self.put(queue, MessageBody, MessageAttributes, MessageGroupId, MessageDeduplicationId, DelaySeconds)

    @staticmethod
    def _check_message_attributes(attributes: dict[str, Any]) -> None:
        if len(attributes) > 10:
            raise AwsError(
                "InvalidParameterValue",
                f"Number of message attributes [{len(attributes)}] exceeds the allowed maximum [10].",
            )
        for name, value in attributes.items():
            if not _is_attribute_name(name):
                raise AwsError("InvalidParameterValue", f"The message attribute name '{name}' is invalid.")
            if not value.get("StringValue") and not value.get("BinaryValue"):
                raise AwsError(
                    "InvalidParameterValue",
                    f"Message (user) attribute '{name}' must contain a non-empty value of type 'String'.",
                )
            if _FORBIDDEN.search(value.get("StringValue", "")):
                raise AwsError("InvalidMessageContents", f"Invalid characters in the message attribute '{name}'.")

    def put(
        self,
        queue: FakeQueue,
        body: str,
        attributes: dict[str, Any] | None,
        group: str | None = None,
        deduplication: str | None = None,
        delay: int | None = None,
    ) -> dict[str, Any]:
        """Store a message, be it sent or delivered by SNS."""
        if not body:
            raise AwsError("MissingParameter", "The request must contain the parameter MessageBody.")
        if _FORBIDDEN.search(body):
            raise AwsError("InvalidMessageContents", "Invalid characters found (InvalidMessageContents).")
        now = self._clock()
        message_id = f"00000000-0000-4000-8000-{next(self._numbers):012x}"
        answer = {"MessageId": message_id, "MD5OfMessageBody": _md5(body)}
        if queue.is_fifo:
            key = deduplication or hashlib.sha256(body.encode()).hexdigest()
            if now - queue.deduplicated.get(key, float("-inf")) < DEDUPLICATION_S:
                return answer
            queue.deduplicated[key] = now
        delay_s = int(self.acting(queue).get("DelaySeconds", 0)) if delay is None else delay
        queue.messages.append(Stored(message_id, body, dict(attributes or {}), now, now + delay_s, group))
        self._arrived(queue)
        return answer

    def send_message_batch(self, QueueUrl: str, Entries: list[dict[str, Any]]) -> dict[str, Any]:
        queue = self.of_url(QueueUrl)
        self._check_batch(Entries)
        if queue.is_fifo and any("MessageGroupId" not in entry for entry in Entries):
            raise AwsError("MissingParameter", "The request must contain the parameter MessageGroupId.")
        if sum(size_of(entry["MessageBody"], entry.get("MessageAttributes")) for entry in Entries) > MAX_BYTES:
            raise AwsError.sqs("BatchRequestTooLong", "Batch requests cannot be longer than 1048576 bytes.")
        return self._each(Entries, lambda entry: self.send_message(QueueUrl, **entry))

    # --- receiving

    def receive_message(
        self,
        QueueUrl: str,
        MaxNumberOfMessages: int = 1,
        WaitTimeSeconds: int | None = None,
        VisibilityTimeout: int | None = None,
        MessageSystemAttributeNames: list[str] | None = None,
        MessageAttributeNames: list[str] | None = None,
        AttributeNames: list[str] | None = None,
    ) -> dict[str, Any]:
        queue = self.of_url(QueueUrl)
        wait_s = WaitTimeSeconds
        if wait_s is None:
            wait_s = int(self.acting(queue).get("ReceiveMessageWaitTimeSeconds", 0))
        if not 1 <= MaxNumberOfMessages <= 10:
            raise AwsError("InvalidParameterValue", "Must be between 1 and 10, if provided.")
        if not 0 <= wait_s <= 20:
            raise AwsError("InvalidParameterValue", "Must be >= 0 and <= 20, if provided.")
        if VisibilityTimeout is not None and not 0 <= VisibilityTimeout <= MAX_VISIBILITY_S:
            raise AwsError("InvalidParameterValue", "VisibilityTimeout must be between 0 and 43200.")
        deadline = self._clock() + wait_s
        while True:
            queue = self.of_url(QueueUrl)
            ready = self._ready(queue, is_short=not wait_s)[:MaxNumberOfMessages]
            now = self._clock()
            if ready or self.is_over or now >= deadline:
                break
            later = [message.visible_at for message in queue.messages if message.visible_at > now]
            self._clock.wait(self._arrivals_of(queue), min([deadline, *later]))
        hidden = int(self.acting(queue)["VisibilityTimeout"]) if VisibilityTimeout is None else VisibilityTimeout
        names = [*(MessageSystemAttributeNames or []), *(AttributeNames or [])]
        messages = [self._take(message, hidden, names) for message in ready]
        for message, answer in zip(ready, messages, strict=True):
            asked = MessageAttributeNames or []
            found = {
                name: item for name, item in message.attributes.items() if name in asked or {"All", ".*"} & set(asked)
            }
            if found:
                answer["MessageAttributes"] = found
        return {"Messages": messages} if messages else {}

    def _ready(self, queue: FakeQueue, *, is_short: bool = False) -> list[Stored]:
        now = self._clock()
        self._redrive(queue, now)
        ready = [message for message in queue.messages if message.visible_at <= now]
        if queue.is_fifo:
            busy = {message.group for message in queue.messages if message.is_in_flight(now)}
            return [message for message in ready if message.group not in busy]
        if len(queue.messages) > self.most_in_flight:
            room = self.most_in_flight - sum(1 for message in queue.messages if message.is_in_flight(now))
            if room <= 0 and is_short:
                raise AwsError("OverLimit", f"Too many messages of {queue.name} are in flight.")
            return ready[: max(0, room)]
        return ready

    def _redrive(self, queue: FakeQueue, now: float) -> None:
        """Move what is visible once more than the redrive policy allows."""
        arn, most = _redrive_policy(self.acting(queue))
        target = self.of_arn(arn)
        for message in list(queue.messages) if target is not None else ():
            if message.visible_at <= now and message.receive_count >= most:
                queue.messages.remove(message)
                target.messages.append(message)
                self._arrived(target)

    def _take(self, message: Stored, hidden_s: int, names: list[str]) -> dict[str, Any]:
        message.receive_count += 1
        message.received_at = self._clock()
        message.is_released = False
        message.visible_at = message.received_at + hidden_s
        message.handles.append(f"handle-{next(self._numbers)}")
        system = {
            "ApproximateReceiveCount": str(message.receive_count),
            "SentTimestamp": str(int(message.sent_at * 1000)),
        }
        if message.group is not None:
            system["MessageGroupId"] = message.group
        answer: dict[str, Any] = {
            "MessageId": message.message_id,
            "ReceiptHandle": message.handles[-1],
            "Body": message.body,
            "MD5OfBody": _md5(message.body),
        }
        wanted = {name: value for name, value in system.items() if name in names or "All" in names}
        return {**answer, "Attributes": wanted} if wanted else answer

    # --- settling

    def delete_message(self, QueueUrl: str, ReceiptHandle: str) -> dict[str, Any]:
        queue = self.of_url(QueueUrl)
        message = self._of_handle(queue, ReceiptHandle)
        # With an old handle the call succeeds and the message stays (API reference, DeleteMessage).
        if message is None or message.handles[-1] != ReceiptHandle:
            return {}
        if queue.is_fifo and not message.is_in_flight(self._clock()):
            raise AwsError(
                "InvalidParameterValue",
                "The value for parameter ReceiptHandle is invalid. Reason: The receipt handle has expired.",
            )
        queue.messages.remove(message)
        self._arrived(queue)  # the next message of its group may be received now
        return {}

    def delete_message_batch(self, QueueUrl: str, Entries: list[dict[str, Any]]) -> dict[str, Any]:
        self._check_batch(Entries)
        self.of_url(QueueUrl)
        return self._each(Entries, lambda entry: self.delete_message(QueueUrl, **entry))

    def change_message_visibility(self, QueueUrl: str, ReceiptHandle: str, VisibilityTimeout: int) -> dict[str, Any]:
        queue = self.of_url(QueueUrl)
        now, timeout = self._clock(), VisibilityTimeout
        message = self._of_handle(queue, ReceiptHandle)
        lost = AwsError.sqs("MessageNotInflight", "The message referred to is not in flight.")
        if message is None or message.handles[-1] != ReceiptHandle:
            raise lost
        if not message.is_in_flight(now) and (queue.is_fifo or message.is_released):
            raise lost  # one that merely ran out is taken, where no other consumer has received it
        if not 0 <= timeout <= MAX_VISIBILITY_S or now - message.received_at + timeout > MAX_VISIBILITY_S:
            raise AwsError(
                "InvalidParameterValue",
                f"Value {timeout} for parameter VisibilityTimeout is invalid. Reason: Total VisibilityTimeout for the "
                "message is beyond the limit [43200 seconds].",
            )
        message.visible_at = now + timeout
        message.is_released = not timeout
        self._arrived(queue)
        return {}

    def change_message_visibility_batch(self, QueueUrl: str, Entries: list[dict[str, Any]]) -> dict[str, Any]:
        self._check_batch(Entries)
        self.of_url(QueueUrl)
        return self._each(Entries, lambda entry: self.change_message_visibility(QueueUrl, **entry))

    # --- inside

    def _arn(self, name: str) -> str:
        return f"arn:aws:sqs:{self._region}:{self._account}:{name}"

    def _arrivals_of(self, queue: FakeQueue) -> threading.Condition:
        if queue.name not in self._arrivals:
            self._arrivals[queue.name] = threading.Condition(self._changed._lock)  # type: ignore[attr-defined]
        return self._arrivals[queue.name]

    def _arrived(self, queue: FakeQueue) -> None:
        condition = self._arrivals.get(queue.name)
        if condition is not None:
            condition.notify_all()

    @staticmethod
    def _of_handle(queue: FakeQueue, handle: str) -> Stored | None:
        if not handle.startswith("handle-"):
            raise AwsError("ReceiptHandleIsInvalid", "The input receipt handle is not valid.")
        return next((message for message in queue.messages if handle in message.handles), None)

    @staticmethod
    def _check_batch(entries: list[dict[str, Any]]) -> None:
        names = [entry["Id"] for entry in entries]
        if not names:
            raise AwsError.sqs("EmptyBatchRequest", "There should be at least one entry in the request.")
        if len(names) > 10:
            raise AwsError.sqs("TooManyEntriesInBatchRequest", "Maximum number of entries per request are 10.")
        if len(set(names)) < len(names):
            raise AwsError.sqs("BatchEntryIdsNotDistinct", "Two entries have the same id.")
        if not all(re.fullmatch(r"[A-Za-z0-9_-]{1,80}", name) for name in names):
            raise AwsError.sqs("InvalidBatchEntryId", "A batch entry id can only contain alphanumerics, - and _.")

    @staticmethod
    def _each(entries: list[dict[str, Any]], action: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
        successful, failed = [], []
        for entry in entries:
            try:
                done = action({name: value for name, value in entry.items() if name != "Id"})
            except AwsError as exc:
                failed.append(
                    {"Id": entry["Id"], "Code": exc.shape, "Message": exc.text, "SenderFault": exc.is_senders}
                )
            else:
                successful.append({"Id": entry["Id"], **done})
        answer = {"Successful": successful, "Failed": failed}
        return {name: items for name, items in answer.items() if items}


def _redrive_policy(attributes: dict[str, str]) -> tuple[str, int]:
    """ARN of the dead-letter queue and receives before it; no ARN where there is none, or none that can be read."""
    try:
        policy = json.loads(attributes.get("RedrivePolicy") or "{}")
        return str(policy.get("deadLetterTargetArn", "")), int(policy.get("maxReceiveCount", 0))
    except (ValueError, AttributeError, TypeError):
        return "", 0


def _is_attribute_name(name: str) -> bool:
    return (
        re.fullmatch(r"[A-Za-z0-9_.-]{1,256}", name) is not None
        and not name.lower().startswith(("aws.", "amazon."))
        and ".." not in name
        and not name.startswith(".")
        and not name.endswith(".")
    )


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
