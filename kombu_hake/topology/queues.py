"""SQS queues by logical name: find, create, size, purge, delete. The only cache of their URLs and ARNs.

Every call here is rare: once a queue and process. Nothing lists. Attributes are written when a queue is created and
never again, because an operator may have tuned them; the exception is an old default (:meth:`Queues.raise_size`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from kombu_hake.amqp import (
    MAX_BATCH_ENTRIES,
    SQS_MAX_MESSAGE_BYTES,
    SQS_OLD_MAX_MESSAGE_BYTES,
    SQS_QUEUE_RECREATE_S,
    QueueArn,
    QueueUrl,
    level_names,
    max_priority,
    queue_account,
    whole,
)
from kombu_hake.aws import Clients, SingleFlight, Wait, backoff_s
from kombu_hake.config import Settings
from kombu_hake.exceptions import (
    AccessDenied,
    BrokerUnavailable,
    DeclarationMismatch,
    PurgeInProgress,
    QueueDeletedRecently,
    QueueNotFound,
    TopologyError,
)
from kombu_hake.quoting import fields, guarded
from kombu_hake.topology import lookups
from kombu_hake.topology.home import Home
from kombu_hake.topology.spec import QueueSpec, created_attributes, own_tags, retention_s

__all__ = ["AWS_MANAGED_KEY", "COUNTS", "RECREATE_PATIENCE_S", "Queues"]

logger = guarded(logging.getLogger(__name__))
#: How long to wait for the name of a deleted queue, seconds, where nothing else can be done.
RECREATE_PATIENCE_S = SQS_QUEUE_RECREATE_S + 15
_MAX_FOREIGN_URLS = 1_000
_OF_POLICY = (
    "QueueArn", "Policy", "RedrivePolicy", "LastModifiedTimestamp", "MessageRetentionPeriod", "KmsMasterKeyId",
    "MaximumMessageSize",
)  # fmt: skip
#: How long a policy that was read for another question stands for the next read of it.
_JUST_READ_S = 2.0
#: The key that AWS manages for SQS: its key policy does not let SNS in and can't be changed.
AWS_MANAGED_KEY = "alias/aws/sqs"
#: The ready messages of a queue, those in flight, and the delayed ones.
COUNTS = (
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed",
)


class _Shown(NamedTuple):
    """Attributes of a queue as AWS showed them last, with the policy."""

    arn: QueueArn = QueueArn("")
    redrive: str = ""
    retention: str = ""
    #: Id of its encryption key.
    key: str = ""
    #: Of the largest message that it takes.
    size_bytes: int = SQS_MAX_MESSAGE_BYTES
    #: When they were changed last, ms since the epoch.
    changed_ms: int = 0


_NOT_SHOWN = _Shown()


class Queues:
    """Finds and makes queues, and remembers their addresses. Safe to share between threads."""

    def __init__(self, clients: Clients, settings: Settings, home: Home | None = None) -> None:
        self._clients = clients
        self._settings = settings
        self._home = home or Home(clients, settings)
        self._flights = SingleFlight()
        self._urls: dict[str, QueueUrl] = {}
        self._shown: dict[QueueUrl, _Shown] = {}
        self._specs: dict[str, QueueSpec] = {}
        self._physical: dict[str, str] = {}
        #: Policies that were read a moment ago, and when, until they are asked for.
        self._just_read: dict[QueueUrl, tuple[str | None, float]] = {}
        #: Queues that this process created, with the attributes that they got.
        self._created: dict[QueueUrl, Mapping[str, str]] = {}
        #: ``x-max-priority`` as the tags of a queue say it.
        self._max_priority: dict[str, int] = {}

    def url(self, name: str) -> QueueUrl:
        """The URL of a queue that exists.

        Raises:
            QueueNotFound: there is none of this name, or none that the account may see.
        """
        known = self._urls.get(name)
        if known is not None:
            return known
        with self._flights(name):
            if name not in self._urls:
                self._urls[name] = self._look_up(name)
                self._shorten()
            return self._urls[name]

    def find(self, name: str) -> QueueUrl | None:
        """The URL; None if there is no such queue or, with ``topology=assume``, if this process did not declare it.

        Raises:
            AccessDenied: the account may not look for it.
            BrokerUnavailable: AWS could not be asked. Only an answer of AWS means that there is no queue.
        """
        if self._settings.topology == "assume" and not (name in self._specs or self.is_predefined(name)):
            return None
        try:
            return self.url(name)
        except QueueNotFound:
            return None

    def address(self, name: str) -> QueueUrl:
        """The URL that a queue has, or will have. No call where the account is known."""
        return self._urls.get(name) or self._home.queue_url(self.physical(name))

    def expect(self, name: str, url: QueueUrl) -> None:
        """Record the URL of a queue that is about to be created."""
        self._urls[name] = url

    def is_predefined(self, name: str) -> bool:
        """Return True if the user configured where the queue is. It is never created, changed or deleted then."""
        return self._settings.predefined_queue(name) is not None

    def declare(self, spec: QueueSpec, *, patience_s: float = RECREATE_PATIENCE_S) -> bool:
        """Find the queue or create it, by :meth:`look_for` and :meth:`create`. Return True if it was created."""
        if not self.look_for(spec):
            return False
        self.create(spec, patience_s=patience_s)
        return True

    def look_for(self, spec: QueueSpec, *, physical: str | None = None) -> bool:
        """Record a declaration. Return True if the queue is missing and ours to create.

        Always asks AWS, because the queue may have been deleted; kombu itself remembers what it declared on a
        connection. Makes no call unless ``topology=auto``.

        Args:
            physical: Its name in AWS, where it is not the one that follows from the logical name.
        """
        name = spec.name
        with self._flights(name):
            if physical is not None:
                self._physical[name] = physical
            self._specs[name] = spec
            if self.is_predefined(name) or self._settings.topology != "auto":
                return False
            try:
                self._urls[name] = self._look_up(name)
            except QueueNotFound:
                return True
            return False

    def create(
        self,
        spec: QueueSpec,
        *,
        tags: Mapping[str, str] | None = None,
        attributes: Mapping[str, str] | None = None,
        is_unbound: bool = False,
        patience_s: float = RECREATE_PATIENCE_S,
    ) -> QueueUrl:
        """Create a queue; one that exists meanwhile is found.

        Args:
            tags: Besides those of all our queues.
            attributes: Besides those of all our queues, which come first. If AWS does not take them, the queue is
                created without them; :meth:`created_with` tells.
            is_unbound: No other process binds the queue, so that its tags can go into CreateQueue.
            patience_s: How long to wait for the name of a deleted queue.
        Raises:
            QueueDeletedRecently: AWS still refuses the name then; it does for a minute.
            AccessDenied: it may not be created.
        """
        with self._flights(spec.name):
            self._specs.setdefault(spec.name, spec)
            is_ours_alone = is_unbound or spec.name in self._physical or spec.exclusive
            url = self._create(spec, tags or {}, attributes or {}, patience_s, is_ours_alone=is_ours_alone)
            self._urls[spec.name] = url
            return url

    def was_created(self, name: str) -> bool:
        """Return True if this process created the queue. No call."""
        return self._urls.get(name) in self._created

    def created_with(self, name: str, attribute: str) -> str | None:
        """An attribute with which this process created the queue; None if it did not. No call."""
        url = self._urls.get(name)
        return self._created.get(url, {}).get(attribute) if url is not None else None

    def spec(self, name: str) -> QueueSpec | None:
        """What this process declared the queue with, if it did."""
        return self._specs.get(name)

    def arguments(self, name: str) -> Mapping[str, Any]:
        """The AMQP arguments that this process declared the queue with; ``{}`` when it did not.

        But with the highest ``x-max-priority`` that is known of: the levels of others are the queue's too.
        """
        spec = self._specs.get(name)
        declared = spec.arguments if spec is not None else {}
        recorded = self._max_priority.get(name, 0)
        if not recorded or recorded <= max_priority(declared):  # asked for each message; few queues have priorities
            return declared
        return {**declared, "x-max-priority": recorded}

    def learn_max_priority(self, name: str, highest: int) -> None:
        """Record the ``x-max-priority`` with which other processes declared a queue."""
        if highest:
            self._max_priority[name] = highest

    def built_arn(self, name: str) -> QueueArn | None:
        """The ARN of a queue of ours, whether or not it exists; None while the account is unknown."""
        return self._home.queue_arn(self.physical(name))

    def arn(self, url: QueueUrl) -> QueueArn:
        """The ARN of a queue, from AWS itself."""
        if url not in self._shown:
            self.policy(url)
        return self._shown[url].arn

    def policy(self, url: QueueUrl) -> str | None:
        """The queue's access policy as JSON text; None when it has none. Asks AWS, unless it was read just now."""
        just_read = self._just_read.pop(url, None)
        if just_read is not None and time.monotonic() - just_read[1] <= _JUST_READ_S:
            return just_read[0]
        attributes = lookups.attributes(self._clients, url, *_OF_POLICY)
        self._shown[url] = _Shown(
            arn=QueueArn(attributes["QueueArn"]),
            redrive=attributes.get("RedrivePolicy", ""),
            retention=attributes.get("MessageRetentionPeriod", ""),
            key=attributes.get("KmsMasterKeyId", ""),
            size_bytes=whole(attributes.get("MaximumMessageSize")) or SQS_MAX_MESSAGE_BYTES,
            changed_ms=int(float(attributes.get("LastModifiedTimestamp", 0)) * 1000),
        )
        return attributes.get("Policy") or None

    def has_redrive_policy(self, url: QueueUrl) -> bool:
        """Return True if the queue has a redrive policy: asked for together with its access policy."""
        if "RedrivePolicy" in self._created.get(url, {}):
            return True
        policy = self.policy(url)
        self._just_read[url] = policy, time.monotonic()
        return bool(self.redrive_policy(url))

    def is_closed_to_sns(self, url: QueueUrl) -> bool:
        """Return True if the queue, as last read, is encrypted with a key that SNS cannot use. No call."""
        return self._shown.get(url, _NOT_SHOWN).key == AWS_MANAGED_KEY

    def redrive_policy(self, url: QueueUrl) -> str:
        """The queue's redrive policy as last read, JSON text; ``""`` for none. No call."""
        return self._shown.get(url, _NOT_SHOWN).redrive

    def looks_temporary(self, url: QueueUrl) -> bool:
        """Return True if its retention shows that the queue was created as temporary; False if reading it is denied."""
        try:
            if url not in self._shown:
                self.policy(url)
        except TopologyError as exc:
            logger.debug("Cannot read the retention of %s: %s", url, exc)
        except AccessDenied as exc:
            logger.debug("Reading the retention of %s is denied: %s", url, exc)
        return self._shown.get(url, _NOT_SHOWN).retention == retention_s(self._settings, is_temporary=True)

    def raise_size(self, name: str, size_bytes: int) -> None:
        """Raise the limit of a queue to messages of this size that are sent to it: retries, copies, requeued ones.

        SNS delivers whatever the limit of a queue is. A queue that AWS made before its default became 1 MiB is raised;
        any other limit was chosen by an operator, and is only warned of. No call where the limit, which was read with
        the policy, is high enough.
        """
        url = self.url(name)
        shown = self._shown.get(url, _NOT_SHOWN)
        limit = shown.size_bytes
        if limit >= size_bytes or self.is_predefined(name):
            return
        self._shown[url] = shown._replace(size_bytes=SQS_MAX_MESSAGE_BYTES)  # tried once
        why = self._raise_old_size(name, url, limit)
        if not why:
            return
        logger.warning(
            "HAKE322 Queue %s takes messages of %d bytes, but is bound to a topic with messages of %d: larger ones are "
            "delivered, but cannot be retried or sent to handlers. Set its MaximumMessageSize to %d. Its limit was not "
            "changed, because %s.",
            name, limit, size_bytes, SQS_MAX_MESSAGE_BYTES, why, extra=fields(queue=name),
        )  # fmt: skip

    def raise_size_of_dead_letters(self, name: str) -> bool:
        """Raise a dead-letter queue that refused a message for its size, as :meth:`raise_size` does.

        Returns:
            True if it was raised. AWS may take a minute to act on it.
        """
        url = self.url(name)
        self.policy(url)  # reads the limit, too
        limit = self._shown.get(url, _NOT_SHOWN).size_bytes
        return not self.is_predefined(name) and not self._raise_old_size(name, url, limit)

    def _raise_old_size(self, name: str, url: QueueUrl, limit: int) -> str:
        """Raise a queue whose limit is AWS's former default. Returns why it was not raised, empty if it was."""
        if limit != SQS_OLD_MAX_MESSAGE_BYTES or self._sets_size(name):
            return "it was chosen"
        attributes = {"MaximumMessageSize": str(SQS_MAX_MESSAGE_BYTES)}
        try:
            self._clients.sqs("set_queue_attributes", QueueUrl=url, Attributes=attributes)
        except AccessDenied as exc:
            return str(exc)
        logger.info("Raised queue %s to messages of %d bytes.", name, SQS_MAX_MESSAGE_BYTES)
        return ""

    def _sets_size(self, name: str) -> bool:
        return "MaximumMessageSize" in created_attributes(self._settings, name, is_temporary=False)

    def write_policy(self, url: QueueUrl, policy: str) -> None:
        """Replace the queue's access policy (``""`` removes it). AWS may take a minute to act on it."""
        self._just_read.pop(url, None)
        self._clients.sqs("set_queue_attributes", QueueUrl=url, Attributes={"Policy": policy})
        if (shown := self._shown.get(url)) is not None:
            self._shown[url] = shown._replace(changed_ms=self._clients.now_ms())

    def set_attributes(self, url: QueueUrl, attributes: Mapping[str, str]) -> None:
        """Set attributes of a queue; ``""`` removes a document. AWS may take a minute to act on it."""
        self._just_read.pop(url, None)
        self._clients.sqs("set_queue_attributes", QueueUrl=url, Attributes=dict(attributes))

    def changed_ms(self, url: QueueUrl) -> int:
        """When the queue's attributes were last changed, ms since the epoch; 0 where that is not known. No call."""
        return self._shown.get(url, _NOT_SHOWN).changed_ms

    def counts(self, name: str) -> tuple[int, int, int]:
        """(ready, in flight, delayed) messages, approximately; AWS settles them a minute after the last change.

        Of all priority levels together. With ``topology=assume`` 0, because nothing is asked.
        """
        if self._settings.topology == "assume":
            return 0, 0, 0
        each = [self._counts(self.url(level)) for level in self.levels(name)]
        ready, in_flight, delayed = map(sum, zip(*each, strict=True))
        return ready, in_flight, delayed

    def levels(self, name: str) -> list[str]:
        """The logical names of the SQS queues behind a queue that this process declared, lowest priority first."""
        return level_names(name, self.arguments(name))

    def purge(self, name: str) -> int:
        """Remove the ready messages; about how many there were.

        A second purge within AWS's sixty seconds receives and deletes instead.
        """
        return sum(self._purge(self.url(level)) for level in self.levels(name))

    def delete(self, name: str) -> None:
        """Delete a queue; a queue that is gone is fine. Its subscriptions are to be removed first, by the caller."""
        try:
            self._clients.sqs("delete_queue", QueueUrl=self.url(name))
        except QueueNotFound:
            logger.debug("Queue %s no longer existed when it was to be deleted.", name)
        self.forget(name)
        self._specs.pop(name, None)
        self._physical.pop(name, None)
        self._max_priority.pop(name, None)

    def forget(self, name: str) -> None:
        """Forget the address of a queue; it is looked up again when needed."""
        url = self._urls.pop(name, None)
        if url is not None:
            self._shown.pop(url, None)
            self._just_read.pop(url, None)
            self._created.pop(url, None)

    def name_of(self, url: QueueUrl) -> str | None:
        """The logical name of a queue that was looked up here; None for others."""
        return next((name for name, known in list(self._urls.items()) if known == url), None)

    def physical(self, name: str) -> str:
        """The queue's name in AWS."""
        return self._physical.get(name) or self._settings.namer.queue(name)

    def _counts(self, url: QueueUrl) -> tuple[int, ...]:
        found = lookups.attributes(self._clients, url, *COUNTS)
        return tuple(int(found.get(name, 0)) for name in COUNTS)

    def _purge(self, url: QueueUrl) -> int:
        if self._settings.topology == "assume":
            return self._drain(url)
        ready = self._counts(url)[0]
        try:
            self._clients.sqs("purge_queue", QueueUrl=url)
        except PurgeInProgress:
            return self._drain(url)
        return ready

    def _shorten(self) -> None:
        """Forget the oldest of the queues that others declared: a worker answers to ever new reply queues."""
        if len(self._urls) > _MAX_FOREIGN_URLS + len(self._specs):
            oldest = next((name for name in list(self._urls) if name not in self._specs), None)
            if oldest is not None:
                self.forget(oldest)

    def _look_up(self, name: str) -> QueueUrl:
        if (address := self._settings.predefined_queue(name)) is not None:
            return self._predefined(name, address)
        physical = self.physical(name)
        if self._settings.topology == "assume":
            return self._home.queue_url(physical)
        try:
            url = lookups.queue_url(self._clients, physical)
        except QueueNotFound as exc:
            raise QueueNotFound(
                f"There is no queue {name!r} (in SQS {physical!r}): declare it, or check the namespace, region and "
                "account."
            ) from exc
        self._home.learn_account(queue_account(url))
        return url

    def _predefined(self, name: str, address: str) -> QueueUrl:
        if not address.startswith("arn:"):
            self._home.check_url(address)
            return QueueUrl(address)
        arn = self._home.check_arn(address, f"predefined queue {name!r}")
        if self._settings.topology == "assume":
            return self._home.queue_url(arn.name, arn.account)
        try:
            return lookups.queue_url(self._clients, arn.name, arn.account)
        except QueueNotFound as exc:
            raise QueueNotFound(
                f"The predefined queue {name!r}, {address}, does not exist, or its owner has not let this account see "
                "it: create it, allow it in the queue's policy, or correct predefined_queues."
            ) from exc

    def _create(
        self,
        spec: QueueSpec,
        tags: Mapping[str, str],
        further: Mapping[str, str],
        patience_s: float,
        *,
        is_ours_alone: bool,
    ) -> QueueUrl:
        physical = self.physical(spec.name)
        usual = created_attributes(self._settings, spec.name, is_temporary=bool(spec.kind))
        attributes = {**further, **usual}
        params: dict[str, Any] = {"QueueName": physical, "Attributes": attributes}
        if is_ours_alone:  # a crash between creating and tagging would leave a queue without an owner
            params["tags"] = own_tags(self._settings) | dict(tags)
        deadline = time.monotonic() + patience_s
        attempt = 0
        while True:
            try:
                url = QueueUrl(self._clients.sqs("create_queue", **params)["QueueUrl"])
            except DeclarationMismatch:  # another process made it in this moment, with other attributes
                return self._look_up(spec.name)
            except AccessDenied:
                if "tags" not in params:
                    raise
                del params["tags"]  # tagging is a right of its own
            except (QueueDeletedRecently, BrokerUnavailable) as exc:
                attempt = self._pause(exc, spec.name, attempt, deadline)
            except TopologyError as exc:  # such as a dead-letter queue that AWS does not know everywhere yet
                if attributes == usual:
                    raise
                logger.info("Queue %s is created without %s: %s", spec.name, ", ".join(further), exc)
                params["Attributes"] = attributes = usual
            else:
                logger.info("Created queue %s (%s).", spec.name, physical)
                self._home.learn_account(queue_account(url))
                self._created[url] = dict(attributes)
                if not is_ours_alone:
                    self._tag(url, own_tags(self._settings) | dict(tags))
                return url

    def _tag(self, url: QueueUrl, tags: Mapping[str, str]) -> None:
        """Say who made the queue. Not in CreateQueue: of two that create it at once, the second's tags might replace
        what was bound in between.
        """
        try:
            self._clients.sqs("tag_queue", QueueUrl=url, Tags=dict(tags))
        except (AccessDenied, QueueNotFound) as exc:  # not found: deleted at this moment
            logger.info("Cannot tag the owner of %s: %s", url, exc)

    def _pause(self, exc: TopologyError | BrokerUnavailable, name: str, attempt: int, deadline: float) -> int:
        wait = backoff_s(attempt, first_s=0.5)
        if isinstance(exc, BrokerUnavailable):
            if attempt >= 5 or not exc.is_throttle:
                raise exc
        elif time.monotonic() + wait > deadline:
            raise exc
        if attempt == 0:
            logger.warning(
                "HAKE301 Cannot create queue %s yet; retrying for up to a minute: %s",
                name, exc, extra=fields(queue=name),
            )  # fmt: skip
        with Wait(2 * wait):
            time.sleep(wait)
        return attempt + 1

    def _drain(self, url: QueueUrl) -> int:
        removed = 0
        while True:
            answer = self._clients.sqs(
                "receive_message",
                QueueUrl=url,
                MaxNumberOfMessages=MAX_BATCH_ENTRIES,
                WaitTimeSeconds=1,
                VisibilityTimeout=self._settings.visibility_timeout,
            )
            messages = answer.get("Messages", [])
            if not messages:
                return removed
            entries = [{"Id": str(i), "ReceiptHandle": m["ReceiptHandle"]} for i, m in enumerate(messages)]
            self._clients.sqs("delete_message_batch", QueueUrl=url, Entries=entries)
            removed += len(messages)
