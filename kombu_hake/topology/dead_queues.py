"""Dead-letter queues on request: of queues, for unhandled messages; of subscriptions, for undelivered messages.

Who asks
    A queue by its arguments: ``x-dead-letter-queue`` (a name; True for ``<queue>-dead``; False for none) and
    ``x-delivery-limit``, RabbitMQ's name for the receives after which a message is set aside. Or all durable queues by
    the options ``dead_letter_queue`` and ``max_receive_count``. Temporary queues, queues made elsewhere and dead-letter
    queues themselves never get one, nor does the option give one to a queue with ``x-dead-letter-exchange``.

What is made
    The dead-letter queue, a redrive policy of the queue (of each of its priority levels) that names it, and a redrive
    allow policy that allows no other queue. Once, where there is no redrive policy: one that an operator wrote is kept,
    and so are the policies of a dead-letter queue that this package did not create.

    With it a queue ``<queue>-undelivered``, which SNS may send to, as the dead-letter queue of the queue's
    subscriptions: what SNS could not deliver (a deleted queue, a broken policy) is kept there. It is a queue of its own
    because its messages never were in the queue, and because SQS's own redrive does not take them back.

Rights
    A process without them, such as a producer that declares the queue, continues without these queues, and logs that.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable

from kombu_hake.amqp import (
    SQS_QUEUE_RECREATE_S,
    QueueArn,
    QueueUrl,
    dead_name,
    parse_arn,
    read_object,
    undelivered_name,
)
from kombu_hake.aws import Clients
from kombu_hake.config import Settings
from kombu_hake.exceptions import AccessDenied, HakeError, QueueDeletedRecently, QueueNotFound
from kombu_hake.quoting import fields, guarded
from kombu_hake.topology.chores import Chores
from kombu_hake.topology.queues import Queues, read_tags
from kombu_hake.topology.spec import (
    OWNER_TAG,
    Plan,
    QueueSpec,
    plan,
    redrive_allow_policy,
    redrive_to,
    undelivered_queue,
)

__all__ = ["DeadQueues"]

logger = guarded(logging.getLogger(__name__))


class DeadQueues:
    """Makes and removes them. Safe to share between threads."""

    def __init__(self, clients: Clients, settings: Settings, queues: Queues, chores: Chores) -> None:
        self._chores = chores
        self._clients = clients
        self._settings = settings
        self._queues = queues
        self._done: set[str] = set()
        #: Dead-letter queues that were raised, or cannot be.
        self._roomy: set[str] = set()
        #: Queue to the exchanges that its queue for undelivered messages allows; None: a right to make it is missing.
        self._undelivered: dict[str, frozenset[str] | None] = {}

    def plan(self, queue: str) -> Plan | None:
        """What a queue of ours asked for, as it was declared here; None for none."""
        spec = self._queues.spec(queue)
        if spec is None or self._settings.topology != "auto" or self._queues.is_predefined(queue):
            return None
        return plan(spec, self._settings)

    def attributes_at_creation(self, queue: str) -> dict[str, str]:
        """The attributes with which a queue is created that asked for a dead-letter queue of its own; creates that one.

        ``{}`` where the dead-letter queue is that of several queues, or can't be created so: :meth:`ensure` follows.
        """
        wanted = self.plan(queue)
        if wanted is None or not wanted.is_own or queue in self._done or self._queues.is_predefined(wanted.name):
            return {}
        names = self._queues.levels(queue)
        sources = [arn for name in names if (arn := self._queues.built_arn(name)) is not None]
        dead_arn = self._queues.built_arn(wanted.name)
        if dead_arn is None or len(sources) < len(names):
            return {}
        allowed = redrive_allow_policy(sources)
        if self._queues.created_with(wanted.name, "RedriveAllowPolicy") != allowed:
            tags, attributes = {OWNER_TAG: self._queues.physical(queue)}, {"RedriveAllowPolicy": allowed}
            try:
                self._queues.create(
                    QueueSpec(wanted.name), tags=tags, attributes=attributes, is_unbound=True, patience_s=0
                )
            except (AccessDenied, QueueDeletedRecently) as exc:
                logger.debug("Queue %s is created without a dead-letter queue: %s", queue, exc)
            if self._queues.created_with(wanted.name, "RedriveAllowPolicy") != allowed:
                return {}
        logger.info("Dead letters of queue %s go to queue %s.", queue, wanted.name)
        return {"RedrivePolicy": redrive_to(dead_arn, wanted.max_receives)}

    def ensure(self, queue: str) -> None:
        """Give a queue that was declared what it asked for, unless it has a redrive policy already.

        In the background, where AWS refuses the name of the dead-letter queue for a minute.
        """
        wanted = self.plan(queue)
        if wanted is None or queue in self._done:
            return
        try:
            names = self._queues.levels(queue)
            bare = [url for url in map(self._queues.url, names) if not self._queues.has_redrive_policy(url)]
        except AccessDenied as exc:
            logger.info("Cannot check whether queue %s has a dead-letter queue: %s", queue, exc)
            self._done.add(queue)
            return
        try:
            if bare:
                self._give(queue, wanted, bare)
        except AccessDenied as exc:
            logger.warning(
                "HAKE406 Queue %s gets no dead-letter queue, because %s is denied: %s", queue, exc.action, exc,
                extra=fields(queue=queue),
            )  # fmt: skip
        except QueueDeletedRecently as exc:
            logger.info("Queue %s gets its dead-letter queue in a minute: %s", queue, exc)
            self._chores.after(SQS_QUEUE_RECREATE_S + 1, ("dead letters", queue), lambda: self.ensure(queue))
            return
        self._done.add(queue)

    def make_again(self, queue: str, arn: QueueArn) -> bool:
        """Recreate the dead-letter queue of *queue* that was deleted. Return True if it was.

        Args:
            arn: Of the one that is missing. One that *queue* did not ask for here is not ours to make.
        Raises:
            QueueDeletedRecently: AWS refuses the name for a minute. Not waited for: a worker's main thread may be here.
            AccessDenied: it may not be created.
        """
        wanted = self.plan(queue)
        if wanted is None or self._queues.physical(wanted.name) != parse_arn(arn).name:
            return False
        self._queues.forget(wanted.name)
        if not self._queues.declare(QueueSpec(wanted.name), patience_s=0):
            return False
        if wanted.is_own:
            self._own(queue, wanted.name)
        urls = map(self._queues.url, self._queues.levels(queue))
        self._allow(self._queues.url(wanted.name), [self._queues.arn(url) for url in urls], is_new=True)
        logger.error(
            "HAKE402 Dead-letter queue %s of queue %s had been deleted, together with its messages; it has been "
            "recreated.",
            wanted.name, queue, extra=fields(queue=queue),
        )  # fmt: skip
        return True

    def make_room(self, queue: str, arn: QueueArn) -> bool:
        """Raise the dead-letter queue of *queue*, which refused a message for its size. Return True if it was raised.

        Args:
            arn: Of the one that refused it. One that *queue* did not ask for here is not ours to change.
        """
        wanted = self.plan(queue)
        if wanted is None or wanted.name in self._roomy or self._queues.physical(wanted.name) != parse_arn(arn).name:
            return False
        is_raised = self._queues.raise_size_of_dead_letters(wanted.name)
        self._roomy.add(wanted.name)  # not before: while AWS cannot be reached, the next dead letter tries again
        return is_raised

    def undelivered_name(self, queue: str) -> str | None:
        """The queue that is to keep what SNS can't deliver to *queue*; None where there is to be none. No call."""
        spec = self._queues.spec(queue)
        if spec is None or self.plan(queue) is None or self._undelivered.get(queue, "") is None:
            return None
        return undelivered_queue(spec, self._settings)

    def make_undelivered(
        self, queue: str, exchanges: frozenset[str], policy: Callable[[str, QueueArn], str | None]
    ) -> str | None:
        """As :meth:`undelivered_name`; made if need be, once. None also while AWS refuses the name of a deleted one.

        Args:
            exchanges: What the queue is bound to.
            policy: The access policy that lets in the topics of these, by name and ARN of a queue.
        """
        name = self.undelivered_name(queue)
        if name is None or queue in self._undelivered:
            return name
        text = None
        try:
            # Beside a queue that was there it is looked for; beside a new one it is most likely new too.
            was_there = self._queues.was_created(name) or self._queues.is_predefined(name)
            is_new = self._queues.was_created(queue) and not was_there
            if is_new or self._queues.look_for(QueueSpec(name)):
                arn = self._queues.built_arn(name)
                text = policy(name, arn) if arn is not None else None
                attributes = {"Policy": text} if text is not None else {}
                tags = {OWNER_TAG: self._queues.physical(queue)}
                self._queues.create(QueueSpec(name), tags=tags, attributes=attributes, is_unbound=True, patience_s=0)
        except AccessDenied as exc:
            self.cannot_keep(queue, exc)
            return None
        except QueueDeletedRecently as exc:
            logger.info("What SNS can't deliver to queue %s is kept in a minute: %s", queue, exc)
            return None
        is_allowed = text is not None and self._queues.created_with(name, "Policy") == text
        self._undelivered[queue] = exchanges if is_allowed else frozenset()
        return name

    def cannot_keep(self, queue: str, exc: AccessDenied) -> None:
        """Disable the undelivered queue, because a right is missing."""
        logger.warning(
            "HAKE408 Messages that SNS cannot deliver to queue %s are not kept, because %s is denied: %s",
            queue, exc.action, exc, extra=fields(queue=queue),
        )  # fmt: skip
        self._undelivered[queue] = None

    def has_to_allow(self, queue: str, exchanges: frozenset[str]) -> bool:
        """Return True unless the undelivered queue is known to allow the topics of these exchanges."""
        known = self._undelivered.get(queue)
        return known is not None and not exchanges <= known

    def has_allowed(self, queue: str, exchanges: frozenset[str]) -> None:
        """Record that it does."""
        if self._undelivered.get(queue) is not None:
            self._undelivered[queue] = exchanges

    def forget(self, queue: str) -> None:
        """Forget a queue; it is looked at again when it is declared."""
        self._done.discard(queue)
        self._undelivered.pop(queue, None)

    def remove(self, queue: str, owner: str) -> None:
        """Delete the dead-letter queues that belong to a deleted queue, but for those that hold messages.

        Args:
            owner: Name in AWS that the queue had.
        """
        self.forget(queue)
        for name in (dead_name(queue), undelivered_name(queue)):
            try:
                url = self._queues.url(name)
                if read_tags(self._clients, url).get(OWNER_TAG) != owner:
                    continue
                if self._is_empty(name, url):
                    self._queues.delete(name)
                else:
                    logger.warning(
                        "HAKE410 Queue %s was deleted; its dead letters stay in queue %s.", queue, name,
                        extra=fields(queue=queue),
                    )  # fmt: skip
            except QueueNotFound:
                continue
            except HakeError as exc:
                logger.info("Cannot delete queue %s; it stays: %s", name, exc)

    # --- inside

    def _is_empty(self, name: str, url: QueueUrl) -> bool:
        if any(self._queues.counts(name)):
            return False
        # The counts may lag behind a minute: have a look.
        found = self._clients.sqs("receive_message", QueueUrl=url, WaitTimeSeconds=1, VisibilityTimeout=0)
        return not found.get("Messages")

    def _give(self, queue: str, wanted: Plan, urls: list[QueueUrl]) -> None:
        is_new = self._queues.declare(QueueSpec(wanted.name), patience_s=0)
        if is_new and wanted.is_own:
            self._own(queue, wanted.name)
        dead_url = self._queues.url(wanted.name)
        dead_arn = self._queues.arn(dead_url)
        self._allow(dead_url, [self._queues.arn(url) for url in urls], is_new=is_new)
        for url in urls:
            policy = redrive_to(dead_arn, wanted.max_receives)
            self._clients.sqs("set_queue_attributes", QueueUrl=url, Attributes={"RedrivePolicy": policy})
        logger.info("Dead letters of queue %s go to queue %s.", queue, wanted.name)

    def _own(self, queue: str, name: str) -> None:
        try:
            tags = {OWNER_TAG: self._queues.physical(queue)}
            self._clients.sqs("tag_queue", QueueUrl=self._queues.url(name), Tags=tags)
        except AccessDenied as exc:
            logger.info("Queue %s will stay when queue %s is deleted: %s", name, queue, exc)

    def _allow(self, dead_url: QueueUrl, sources: list[QueueArn], *, is_new: bool) -> None:
        """Allow these queues, and keep the allowed ones. Without a policy all are allowed: do not exclude the others
        from a queue that was there before.
        """
        # "All", because not every emulator knows the attribute, and none minds that.
        answer = self._clients.sqs("get_queue_attributes", QueueUrl=dead_url, AttributeNames=["All"])
        text = answer.get("Attributes", {}).get("RedriveAllowPolicy")
        try:
            known = read_object(text) or {"redrivePermission": "byQueue" if is_new else ""}
        except ValueError as exc:
            logger.warning(
                "HAKE407 Cannot read the redrive allow policy of %s; leaving it unchanged: %s", dead_url, exc,
                extra=fields(queue=dead_url),
            )  # fmt: skip
            return
        allowed = known.get("sourceQueueArns", [])
        if known.get("redrivePermission") != "byQueue" or not isinstance(allowed, list):
            return
        policy = redrive_allow_policy([*(arn for arn in allowed if isinstance(arn, str)), *sources])
        if json.loads(policy) != known:
            attributes = {"RedriveAllowPolicy": policy}
            self._clients.sqs("set_queue_attributes", QueueUrl=dead_url, Attributes=attributes)
