"""SQS in memory, for :mod:`fakes`. One method for each operation, with boto3's parameters and answers."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from kombu_hake.exceptions import (
    DeclarationMismatch,
    HakeError,
    LeaseLost,
    PublishError,
    PurgeInProgress,
    QueueDeletedRecently,
    QueueNotFound,
    TopologyError,
)

__all__ = ["FakeQueue", "FakeSqs", "Stored"]

MAX_BYTES = 1_048_576
MAX_VISIBILITY_S = 43_200
RECREATE_S = PURGE_S = 60
DEDUPLICATION_S = 300
DEFAULTS = {
    "VisibilityTimeout": "30",
    "MessageRetentionPeriod": "345600",
    "DelaySeconds": "0",
    "ReceiveMessageWaitTimeSeconds": "0",
    "MaximumMessageSize": "1048576",
}


class Clock(Protocol):
    """What tells the time here."""

    def __call__(self) -> float: ...

    def advance(self, seconds: float) -> None: ...


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
    """A queue."""

    name: str
    url: str
    arn: str
    attributes: dict[str, str]
    tags: dict[str, str]
    messages: list[Stored] = field(default_factory=list)
    purged_at: float = float("-inf")
    deduplicated: dict[str, float] = field(default_factory=dict)

    @property
    def is_fifo(self) -> bool:
        return self.name.endswith(".fifo")

    def bodies(self) -> list[str]:
        return [message.body for message in self.messages]


def size_of(body: str, attributes: dict[str, Any] | None) -> int:
    total = len(body.encode())
    for name, value in (attributes or {}).items():
        total += len(name.encode()) + len(value["DataType"].encode()) + len(str(value.get("StringValue", "")).encode())
    return total


class FakeSqs:
    """All queues of an account and region. The caller holds the lock of *changed*."""

    def __init__(self, account: str, region: str, clock: Clock, changed: threading.Condition) -> None:
        self._account = account
        self._region = region
        self._clock = clock
        self._changed = changed
        self._numbers = itertools.count(1)
        self._deleted: dict[str, float] = {}
        self.by_name: dict[str, FakeQueue] = {}
        self.is_over = False

    def queue(self, name: str) -> FakeQueue:
        """A queue by its name in AWS."""
        if name not in self.by_name:
            raise QueueNotFound(f"There is no queue {name}.")
        return self.by_name[name]

    def of_url(self, url: str) -> FakeQueue:
        return self.queue(url.rsplit("/", 1)[1])

    def of_arn(self, arn: str) -> FakeQueue | None:
        return next((queue for queue in self.by_name.values() if queue.arn == arn), None)

    # --- queues

    def create_queue(
        self, QueueName: str, Attributes: dict[str, str] | None = None, tags: dict[str, str] | None = None
    ) -> dict[str, Any]:
        wanted = dict(Attributes or {})
        stem = QueueName.removesuffix(".fifo")
        if not re.fullmatch(r"[A-Za-z0-9_-]+", stem) or len(QueueName) > 80:
            raise TopologyError(f"Can only include alphanumeric characters, hyphens, or underscores: {QueueName!r}")
        if (wanted.get("FifoQueue") == "true") != QueueName.endswith(".fifo") or wanted.get("FifoQueue") == "false":
            raise TopologyError("FifoQueue=true and a name that ends in .fifo need each other.")
        if not all(isinstance(value, str) for value in wanted.values()):
            raise PublishError("Parameter validation failed: attributes are strings.")
        existing = self.by_name.get(QueueName)
        if existing is not None:
            for name, value in wanted.items():
                if existing.attributes.get(name) != value:
                    raise DeclarationMismatch(f"A queue already exists with a different value for attribute {name}")
            return {"QueueUrl": existing.url}
        if self._clock() - self._deleted.get(QueueName, float("-inf")) < RECREATE_S:
            raise QueueDeletedRecently("You must wait 60 seconds after deleting a queue.")
        url = f"https://sqs.{self._region}.amazonaws.com/{self._account}/{QueueName}"
        arn = f"arn:aws:sqs:{self._region}:{self._account}:{QueueName}"
        self.by_name[QueueName] = FakeQueue(QueueName, url, arn, {**DEFAULTS, **wanted}, dict(tags or {}))
        return {"QueueUrl": url}

    def get_queue_url(self, QueueName: str, QueueOwnerAWSAccountId: str | None = None) -> dict[str, Any]:
        if QueueOwnerAWSAccountId not in (None, self._account):
            raise QueueNotFound(f"There is no queue {QueueName} of account {QueueOwnerAWSAccountId}.")
        return {"QueueUrl": self.queue(QueueName).url}

    def list_queues(
        self, QueueNamePrefix: str = "", MaxResults: int | None = None, NextToken: str = "0"
    ) -> dict[str, Any]:
        names = [name for name in self.by_name if name.startswith(QueueNamePrefix)]
        start, most = int(NextToken), MaxResults or 1_000
        urls = [self.by_name[name].url for name in names[start : start + most]]
        answer: dict[str, Any] = {"QueueUrls": urls} if urls else {}
        return {**answer, "NextToken": str(start + most)} if MaxResults and len(names) > start + most else answer

    def delete_queue(self, QueueUrl: str) -> dict[str, Any]:
        queue = self.of_url(QueueUrl)
        del self.by_name[queue.name]
        self._deleted[queue.name] = self._clock()
        return {}

    def get_queue_attributes(self, QueueUrl: str, AttributeNames: list[str]) -> dict[str, Any]:
        queue = self.of_url(QueueUrl)
        now = self._clock()
        in_flight = sum(1 for message in queue.messages if message.is_in_flight(now))
        delayed = sum(1 for message in queue.messages if not message.receive_count and message.visible_at > now)
        every = {
            **queue.attributes,
            "QueueArn": queue.arn,
            "ApproximateNumberOfMessages": str(len(queue.messages) - in_flight - delayed),
            "ApproximateNumberOfMessagesNotVisible": str(in_flight),
            "ApproximateNumberOfMessagesDelayed": str(delayed),
        }
        wanted = set(every) if "All" in AttributeNames else set(AttributeNames)
        found = {name: value for name, value in every.items() if name in wanted and value}
        return {"Attributes": found} if found else {}

    def set_queue_attributes(self, QueueUrl: str, Attributes: dict[str, str]) -> dict[str, Any]:
        self.of_url(QueueUrl).attributes.update(Attributes)
        return {}

    def list_queue_tags(self, QueueUrl: str) -> dict[str, Any]:
        tags = self.of_url(QueueUrl).tags
        return {"Tags": dict(tags)} if tags else {}

    def tag_queue(self, QueueUrl: str, Tags: dict[str, str]) -> dict[str, Any]:
        merged = {**self.of_url(QueueUrl).tags, **Tags}
        if len(merged) > 50:
            raise TopologyError("Too many tags added to queue.")
        if any(len(key) > 128 or len(value) > 256 for key, value in merged.items()):
            raise TopologyError("A tag is too long.")
        self.of_url(QueueUrl).tags = merged
        return {}

    def untag_queue(self, QueueUrl: str, TagKeys: list[str]) -> dict[str, Any]:
        for key in TagKeys:
            self.of_url(QueueUrl).tags.pop(key, None)
        return {}

    def purge_queue(self, QueueUrl: str) -> dict[str, Any]:
        queue = self.of_url(QueueUrl)
        if self._clock() - queue.purged_at < PURGE_S:
            raise PurgeInProgress("Only one PurgeQueue operation is allowed every 60 seconds.")
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
    ) -> dict[str, Any]:
        queue = self.of_url(QueueUrl)
        if queue.is_fifo and (DelaySeconds is not None or MessageGroupId is None):
            raise PublishError("A message for a FIFO queue has a MessageGroupId and no DelaySeconds.")
        if size_of(MessageBody, MessageAttributes) > MAX_BYTES:
            raise PublishError("Reason: Message must be shorter than 1048576 bytes.")
        if not 0 <= (DelaySeconds or 0) <= 900:
            raise PublishError("DelaySeconds must be >= 0 and <= 900.")
        delay = DelaySeconds or 0
        return self.put(queue, MessageBody, MessageAttributes, MessageGroupId, MessageDeduplicationId, delay)

    def put(
        self,
        queue: FakeQueue,
        body: str,
        attributes: dict[str, Any] | None,
        group: str | None = None,
        deduplication: str | None = None,
        delay: int = 0,
    ) -> dict[str, Any]:
        """Store a message, be it sent or delivered by SNS."""
        if not body:
            raise PublishError("The request must contain the parameter MessageBody.")
        if re.search("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", body):
            raise PublishError("Invalid characters found (InvalidMessageContents).")
        now = self._clock()
        message_id = f"00000000-0000-4000-8000-{next(self._numbers):012x}"
        if queue.is_fifo:
            key = deduplication or hashlib.sha256(body.encode()).hexdigest()
            if now - queue.deduplicated.get(key, float("-inf")) < DEDUPLICATION_S:
                return {"MessageId": message_id}
            queue.deduplicated[key] = now
        queue.messages.append(Stored(message_id, body, dict(attributes or {}), now, now + delay, group))
        self._changed.notify_all()
        return {"MessageId": message_id}

    def send_message_batch(self, QueueUrl: str, Entries: list[dict[str, Any]]) -> dict[str, Any]:
        self.of_url(QueueUrl)
        self._check_batch(Entries)
        if sum(size_of(entry["MessageBody"], entry.get("MessageAttributes")) for entry in Entries) > MAX_BYTES:
            raise PublishError("BatchRequestTooLong")
        return self._each(Entries, lambda entry: self.send_message(QueueUrl, **entry))

    # --- receiving

    def receive_message(
        self,
        QueueUrl: str,
        MaxNumberOfMessages: int = 1,
        WaitTimeSeconds: int = 0,
        VisibilityTimeout: int | None = None,
        MessageSystemAttributeNames: list[str] | None = None,
        MessageAttributeNames: list[str] | None = None,
    ) -> dict[str, Any]:
        if not (1 <= MaxNumberOfMessages <= 10 and 0 <= WaitTimeSeconds <= 20):
            raise TopologyError("Must be between 1 and 10, and >= 0 and <= 20, if provided.")
        deadline = self._clock() + WaitTimeSeconds
        while True:
            queue = self.of_url(QueueUrl)
            ready = self._ready(queue)[:MaxNumberOfMessages]
            if ready or self.is_over or self._clock() >= deadline:
                break
            if threading.current_thread() is threading.main_thread():
                self._clock.advance(deadline - self._clock())  # nobody else would
            else:
                self._changed.wait()
        hidden = int(queue.attributes["VisibilityTimeout"]) if VisibilityTimeout is None else VisibilityTimeout
        messages = [self._take(message, hidden, MessageSystemAttributeNames or []) for message in ready]
        for message, answer in zip(ready, messages, strict=True):
            asked = MessageAttributeNames or []
            found = {name: item for name, item in message.attributes.items() if name in asked or "All" in asked}
            if found:
                answer["MessageAttributes"] = found
        return {"Messages": messages} if messages else {}

    def _ready(self, queue: FakeQueue) -> list[Stored]:
        now = self._clock()
        self._redrive(queue, now)
        ready = [message for message in queue.messages if message.visible_at <= now]
        if not queue.is_fifo:
            return ready
        busy = {message.group for message in queue.messages if message.is_in_flight(now)}
        return [message for message in ready if message.group not in busy]

    def _redrive(self, queue: FakeQueue, now: float) -> None:
        """Move what is visible once more than the redrive policy allows."""
        policy = json.loads(queue.attributes.get("RedrivePolicy") or "{}")
        target = self.of_arn(policy.get("deadLetterTargetArn", ""))
        for message in list(queue.messages) if target is not None else ():
            if message.visible_at <= now and message.receive_count >= int(policy["maxReceiveCount"]):
                queue.messages.remove(message)
                target.messages.append(message)

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
        }
        wanted = {name: value for name, value in system.items() if name in names or "All" in names}
        return {**answer, "Attributes": wanted} if wanted else answer

    # --- settling

    def delete_message_batch(self, QueueUrl: str, Entries: list[dict[str, Any]]) -> dict[str, Any]:
        self._check_batch(Entries)
        queue = self.of_url(QueueUrl)

        def delete(entry: dict[str, Any]) -> None:
            message = self._of_handle(queue, entry["ReceiptHandle"])
            # With an old handle the call succeeds and the message stays (API reference, DeleteMessage).
            if message is not None and message.handles[-1] == entry["ReceiptHandle"]:
                queue.messages.remove(message)

        return self._each(Entries, delete)

    def change_message_visibility_batch(self, QueueUrl: str, Entries: list[dict[str, Any]]) -> dict[str, Any]:
        self._check_batch(Entries)
        queue = self.of_url(QueueUrl)

        def change(entry: dict[str, Any]) -> None:
            now, timeout = self._clock(), entry["VisibilityTimeout"]
            message = self._of_handle(queue, entry["ReceiptHandle"])
            if message is None or message.handles[-1] != entry["ReceiptHandle"]:
                raise LeaseLost("MessageNotInflight")
            if not message.is_in_flight(now) and (queue.is_fifo or message.is_released):
                raise LeaseLost("MessageNotInflight")  # one that merely ran out is taken, where nobody has received it
            if now - message.received_at + timeout > MAX_VISIBILITY_S:
                raise TopologyError("Total VisibilityTimeout for the message is beyond the limit [43200 seconds].")
            message.visible_at = now + timeout
            message.is_released = not timeout

        answer = self._each(Entries, change)
        self._changed.notify_all()
        return answer

    # --- inside

    @staticmethod
    def _of_handle(queue: FakeQueue, handle: str) -> Stored | None:
        if not handle.startswith("handle-"):
            raise LeaseLost("ReceiptHandleIsInvalid")
        return next((message for message in queue.messages if handle in message.handles), None)

    @staticmethod
    def _check_batch(entries: list[dict[str, Any]]) -> None:
        names = [entry["Id"] for entry in entries]
        if not 1 <= len(names) <= 10 or len(set(names)) < len(names):
            raise PublishError("A batch has one to ten entries with distinct ids.")

    @staticmethod
    def _each(entries: list[dict[str, Any]], action: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        successful, failed = [], []
        for entry in entries:
            try:
                action({name: value for name, value in entry.items() if name != "Id"})
            except HakeError as exc:
                code = str(exc) if isinstance(exc, LeaseLost) else "InvalidParameterValue"
                failed.append({"Id": entry["Id"], "Code": code, "Message": str(exc), "SenderFault": True})
            else:
                successful.append({"Id": entry["Id"]})
        answer = {"Successful": successful, "Failed": failed}
        return {name: items for name, items in answer.items() if items}
