"""Exchanges, queues and bindings: declare, bind, unbind, delete. Idempotent, and cheap when repeated.

``topology=auto`` creates what is missing (:mod:`kombu_hake.topology.reconciler`). ``verify`` only reads, and fails with
a list of what is missing (:mod:`kombu_hake.topology.verification`). ``assume`` makes no call.

The latter two assume that bindings exist, and so does ``auto`` between a queue and an exchange that are both
predefined. Such bindings are noted here. They are never known for certain, because other processes note their own: a
message in doubt is delivered.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, cast

from kombu_hake.amqp import (
    FIFO_SUFFIX,
    PRIVATE_EXCHANGE,
    Binding,
    BindingSet,
    ExchangeType,
    QueueUrl,
    is_reply_exchange,
    level_names,
    main_queue,
    max_priority,
)
from kombu_hake.aws import Clients, Once
from kombu_hake.config import Settings
from kombu_hake.exceptions import AccessDenied, DeclarationMismatch, TopologyError
from kombu_hake.quoting import fields, guarded
from kombu_hake.topology.apply import Applier
from kombu_hake.topology.chores import Chores
from kombu_hake.topology.dead_queues import DeadQueues
from kombu_hake.topology.home import Home
from kombu_hake.topology.knowledge import Knowledge
from kombu_hake.topology.observed import Memory
from kombu_hake.topology.planning import Planner
from kombu_hake.topology.queues import RECREATE_PATIENCE_S, Queues
from kombu_hake.topology.reading import Reader
from kombu_hake.topology.reconciler import Reconciler
from kombu_hake.topology.removal import Remover
from kombu_hake.topology.repair import Repairer
from kombu_hake.topology.signs import Signs
from kombu_hake.topology.sizes import TopicSizes
from kombu_hake.topology.spec import QueueSpec, needs_topic
from kombu_hake.topology.stores import Stores
from kombu_hake.topology.timings import Timings
from kombu_hake.topology.topics import Topics
from kombu_hake.topology.verification import Verification

__all__ = ["Topology"]

logger = guarded(logging.getLogger(__name__))
#: AMQP has these from the start.
_PREDECLARED: Mapping[str, ExchangeType] = {
    "amq.direct": "direct",
    "amq.fanout": "fanout",
    "amq.headers": "headers",
    "amq.match": "headers",
    "amq.topic": "topic",
}


class Topology:
    """Makes AWS match what was declared. One per process and settings; safe to share between threads."""

    def __init__(
        self,
        clients: Clients,
        settings: Settings,
        timings: Timings | None = None,
        clock: Callable[[], float] = time.monotonic,
        chores: Chores | None = None,
    ) -> None:
        """*timings*: how late AWS may be; None for those of the endpoint in *settings*. *clock*: monotonic seconds."""
        self.timings = timings or Timings.of(settings)
        self.chores = chores or Chores(clock)
        self.home = Home(clients, settings)
        self.queues = Queues(clients, settings, self.home)
        self.signs = Signs(clients, settings, clock, self.queues.looks_temporary, self._heal_later, self.timings)
        self.topics = Topics(clients, settings, self.home)
        self.sizes = TopicSizes(clients, settings, self.topics, clock)
        self.topics.on_created = self.sizes.created
        #: Where payloads are kept that are too large for a message.
        self.stores = Stores(settings)
        self._clients = clients
        self._settings = settings
        self._clock = clock
        self.dead_queues = DeadQueues(clients, settings, self.queues, self.chores)
        memory = Memory(self.timings, clock)
        self._reader = Reader(clients, self.queues, self.topics, memory, clock)
        self._planner = planner = Planner(settings, self.queues, self.topics, self.dead_queues, memory)
        self._knowledge = Knowledge(
            clients, settings, self.queues, self.topics, self._reader, self.chores, self.timings, clock
        )
        applier = Applier(
            clients, self.queues, self.topics, self.dead_queues, memory, self._reader, planner, self.chores,
            self.timings, self.sizes.explained, self._recheck, clock,
        )  # fmt: skip
        self._reconciler = Reconciler(
            self.queues, self._reader, planner, self._knowledge, applier, self.chores, self.timings, self._recheck,
            clock,
        )  # fmt: skip
        self._remover = Remover(
            clients, settings, self.queues, self.topics, self._reader, planner, self._knowledge, applier,
            self._reconciler,
        )  # fmt: skip
        self._verification = Verification(clients, self.queues, self.topics, self.sizes, self._reader, planner)
        self._types: dict[str, ExchangeType] = dict(_PREDECLARED)
        self._denied: dict[str, AccessDenied] = {}
        self._has_warned = False
        self._is_new_fifo = Once()
        self._noted: dict[str, dict[Binding, None]] = {}
        #: Queue to the exchanges that this process asked to bind it to, also where AWS refused.
        self._asked: dict[str, set[str]] = {}
        self._repairer = Repairer(
            self, self._reader, planner, self._knowledge, applier, self._reconciler, self.chores, self.signs.heal,
            clock,
        )  # fmt: skip

    @property
    def makes(self) -> bool:
        """Return True if missing queues and topics are created (``topology=auto``)."""
        return self._settings.topology == "auto"

    def for_operators(self) -> Topology:
        """The same with ``topology=auto``, whatever the setting is: for operators who ask for it."""
        if self.makes:
            return self
        settings = replace(self._settings, topology="auto")
        return Topology(self._clients, settings, self.timings, self._clock, self.chores)

    # --- exchanges

    def declare_exchange(self, exchange: str, exchange_type: ExchangeType, max_size_bytes: int | None = None) -> None:
        """Record an exchange's type. Its topic is created by the first binding or publish.

        Args:
            max_size_bytes: Size of its largest messages; see :mod:`kombu_hake.topology.sizes`.
        Raises:
            DeclarationMismatch: this process declared it with another type, or saw that another one did.
        """
        known = self.topics.seen_type(exchange) or self._types.setdefault(exchange, exchange_type)
        if known != exchange_type:
            raise DeclarationMismatch(
                f"Exchange {exchange!r} was declared as {known} and cannot become {exchange_type}: delete it first, or "
                "use another name."
            )
        self._types[exchange] = exchange_type
        if max_size_bytes is not None:
            self.sizes.declare(exchange, max_size_bytes)

    def exchange_type(self, exchange: str) -> ExchangeType | None:
        """The type this process declared, if it did."""
        return self._types.get(exchange)

    def bound_type(self, exchange: str) -> ExchangeType:
        """The type for a binding: as declared here, else as recorded at the topic, else direct."""
        declared = self._types.get(exchange)
        if declared is not None or not exchange or exchange == PRIVATE_EXCHANGE or is_reply_exchange(exchange):
            return declared or "direct"
        return cast(ExchangeType, self.topics.recorded_type(exchange) or "direct")

    def has_topic(self, exchange: str) -> bool:
        """Return True if queues are subscribed to the exchange, or its topic is predefined."""
        return self.topics.is_predefined(exchange) or bool(self.topics.subscribers(exchange))

    def denied(self, exchange: str) -> AccessDenied | None:
        """Why this exchange is disabled in this process; None if it is not."""
        return self._denied.get(exchange)

    def give_up(self, exchange: str, exc: AccessDenied) -> None:
        """Disable an exchange whose topic is denied, and log that once."""
        if exchange in self._denied:
            return
        is_first = not any(map(self._settings.is_best_effort, self._denied))
        self._denied[exchange] = exc
        if not self._settings.is_best_effort(exchange):
            logger.warning(
                "HAKE314 Cannot publish to exchange %s, because %s is denied. Its queues still receive what is sent "
                "to them directly; publishing to the exchange raises: %s",
                exchange, exc.action, exc, extra=fields(exchange=exchange),
            )  # fmt: skip
        elif is_first:
            logger.warning(
                "HAKE315 Remote control and events are off in this process, because %s is denied and exchange %s "
                "needs it. Tasks are not affected. Allow it, or set worker_enable_remote_control=False: %s",
                exc.action, exchange, exc, extra=fields(exchange=exchange),
            )  # fmt: skip
        else:
            logger.info("Exchange %s is disabled, because %s is denied.", exchange, exc.action)

    def gives_up(self, exchange: str, exc: AccessDenied) -> bool:
        """Disable an exchange if it is best effort. Return True if it is."""
        if not self._settings.is_best_effort(exchange):
            return False
        self.give_up(exchange, exc)
        return True

    def can_do_without(self, exchange: str) -> bool:
        """Return True if a temporary queue of this exchange, which cannot be created, is best effort. Logs once."""
        if not self._settings.is_best_effort(exchange):
            return False
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "HAKE316 Remote control and events are off in this process: they need temporary queues, such as one "
                "for exchange %s, and topology=%s creates none. Tasks are not affected. Set "
                "worker_enable_remote_control=False to accept this, or use topology=auto.",
                exchange, self._settings.topology, extra=fields(exchange=exchange),
            )  # fmt: skip
        return True

    def is_best_effort(self, queue: str) -> bool:
        """Return True if a consumer may go on without this queue: all exchanges that feed it are best effort.

        A queue without bindings is judged by its own name. Makes no call.
        """
        known = self.known_bindings(queue)
        exchanges = self._asked.get(queue, set()) | (known.exchanges() if known is not None else frozenset())
        return all(map(self._settings.is_best_effort, exchanges or {queue}))

    # --- queues

    def declare_queue(
        self,
        spec: QueueSpec,
        *,
        physical: str | None = None,
        patience_s: float = RECREATE_PATIENCE_S,
        fed_by: str = "",
    ) -> bool:
        """Find or create a queue, its priority levels included; as :meth:`kombu_hake.topology.queues.Queues.declare`.

        One that is temporary, or expires, is created with tags that say so (:mod:`kombu_hake.topology.signs`).

        Args:
            physical: Its name in AWS, where it is not the one that follows from the logical name.
            fed_by: An exchange that the queue is bound to next. A queue that is created allows its topic at once.
        """
        if physical is not None:
            self.forget(spec.name)  # an earlier incarnation
        is_new = False
        if spec.name.endswith(FIFO_SUFFIX) and max_priority(spec.arguments) and self._is_new_fifo(spec.name):
            logger.warning(
                "HAKE324 Ignoring the priorities of queue %s: a FIFO queue delivers in order.", spec.name,
                extra=fields(queue=spec.name),
            )  # fmt: skip
        for name in level_names(spec.name, self._arguments_of(spec)):
            if name == spec.name:
                is_new = self._declare_one(spec, physical, patience_s, fed_by)
                if is_new:
                    self._reconciler.forget(name)
            else:
                kept = {"x-expires": spec.arguments["x-expires"]} if "x-expires" in spec.arguments else {}
                self._declare_one(replace(spec, name=name, arguments=kept), None, patience_s)
            if self._settings.topology == "verify":
                self._verification.expect_queue(name)
        if not spec.is_temporary:
            self.dead_queues.ensure(spec.name)
        return is_new

    def _declare_one(self, spec: QueueSpec, physical: str | None, patience_s: float, fed_by: str = "") -> bool:
        kind = spec.kind
        is_new = self.queues.look_for(spec, physical=physical)
        if not (kind and self.is_managed(spec.name)):
            if is_new:
                attributes = self.dead_queues.attributes_at_creation(main_queue(spec.name))
                self.queues.create(spec, attributes=attributes, patience_s=patience_s)
            return is_new
        if is_new:
            tags = self.signs.at_creation(kind, owned=spec.exclusive)
            attributes = self._policy_at_creation(spec.name, fed_by)
            self.queues.create(spec, tags=tags, attributes=attributes, patience_s=patience_s)
            if spec.is_temporary and not fed_by and self.timings.queue_ready_s:
                time.sleep(self.timings.queue_ready_s)  # others send to it by name, and do not wait for it
        url = self.queues.url(spec.name)
        if is_new:
            self.signs.created(url, kind)
        elif kind.expires_s is not None and not kind.exclusive:
            self.signs.touch(url, kind)
        return is_new

    def _policy_at_creation(self, queue: str, exchange: str) -> dict[str, str]:
        arn = self.queues.built_arn(queue) if exchange else None
        if arn is None:
            return {}
        bindings = BindingSet(frozenset({Binding(exchange, "fanout")}))
        policy = self._planner.policy_at_creation(queue, arn, bindings)
        return {"Policy": policy} if policy else {}

    def incarnation(self, queue: str) -> str:
        """A unique AWS name for a queue, never used before or again."""
        return self._settings.namer.incarnation(queue)

    def is_managed(self, queue: str) -> bool:
        """Return True if this package creates the queue, and so may delete it, rather than infrastructure code."""
        return self.makes and not self.queues.is_predefined(queue)

    def _arguments_of(self, spec: QueueSpec) -> Mapping[str, Any]:
        known = self.queues.arguments(spec.name)
        return known if max_priority(known) > max_priority(spec.arguments) else spec.arguments

    # --- bindings

    def needs_topic(self, queue: str, binding: Binding) -> bool:
        """As :func:`kombu_hake.topology.spec.needs_topic`."""
        return needs_topic(self._settings, queue, binding)

    def bind(self, queue: str, binding: Binding) -> None:
        """Bind a queue, which must exist.

        AWS itself may take a minute to act on a new queue policy, and a quarter of an hour on a changed filter.

        Raises:
            AccessDenied: it is denied, and nothing shows that the binding exists already. Not raised for an exchange
                that is best effort, nor for a direct one: these are disabled, with one warning.
            QueueNotFound: the queue does not exist.
            TopologyError: the queue is another account's, and its policy does not allow the exchange's topic.
        """
        self._asked.setdefault(queue, set()).add(binding.exchange or queue)
        if not self.needs_topic(queue, binding):
            return
        if self._is_taken_as_made(queue, binding.exchange):
            self._note(queue, binding)
            return
        try:
            if self._is_foreign(queue):
                self._bind_foreign(queue, binding)
            else:
                self._repairer.bind(queue, binding)
            self._raise_sizes(queue, binding.exchange)
        except AccessDenied as exc:
            is_dispensable = self._settings.is_best_effort(binding.exchange) or binding.exchange_type == "direct"
            if self._seems_bound(queue, binding):
                logger.info("Assuming that queue %s is bound to %s: %s", queue, binding.exchange, exc)
                self._note(queue, binding)
            elif exc.action.startswith("sns:") and is_dispensable:
                self.give_up(binding.exchange, exc)
            else:
                raise

    def enforce(self, spec: QueueSpec, bindings: Collection[Binding]) -> list[AccessDenied]:
        """Declare and bind a queue, and mend all that differs from what it is to have by its bindings.

        For operators who ask for it: a worker that finds its queue bound changes nothing. Attributes and tags of the
        SQS queue are left as they are.

        Returns:
            What was denied of what the queue works without: keeping what SNS cannot deliver.
        Raises: as :meth:`declare_queue` and :meth:`bind`.
        """
        self.forget(spec.name)
        self.declare_queue(spec)
        own = [one for one in bindings if self.needs_topic(spec.name, one)]
        own = [one for one in own if not self._is_taken_as_made(spec.name, one.exchange)]
        if self._is_foreign(spec.name) or (self.queues.is_predefined(spec.name) and not own):
            return []
        self._asked.setdefault(spec.name, set()).update(binding.exchange for binding in own)
        denied = self._reconciler.enforce(spec.name, own)
        for exchange in {binding.exchange for binding in own}:
            self._raise_sizes(spec.name, exchange)
        return denied

    def unbind(self, queue: str, binding: Binding) -> None:
        """Undo :meth:`bind`; a missing binding is fine."""
        if not self.needs_topic(queue, binding):
            return
        self._noted.get(queue, {}).pop(binding, None)
        if self._is_taken_as_made(queue, binding.exchange) or self._is_foreign(queue):
            self._verification.expect_no_more(queue, binding)
            logger.info("The binding of queue %s to exchange %s is not ours to remove.", queue, binding.exchange)
            return
        self._reconciler.unbind(queue, binding)

    def verify(self) -> None:
        """With ``topology=verify``, check that all that was declared exists. What was found before costs no call.

        Raises:
            TopologyIncomplete: something is missing or wrong.
        """
        if self._verification.due:
            self._verification.check()

    def has_exchange(self, exchange: str) -> bool | None:
        """Return True if the exchange was declared here, or has a topic; None if reading that is denied."""
        return exchange in self._types or self.topics.exists(exchange)

    def bindings(self, queue: str) -> BindingSet:
        """The bindings of a queue as its tags say now."""
        url = self.queues.url(queue)
        return self._knowledge.understood(queue, url, self._reader.tags(url))

    def make_again(self, queue: str) -> QueueUrl | None:
        """Recreate a deleted queue with its bindings; None if this process never declared it."""
        return self._repairer.make_again(queue)

    def check_bindings(self, queue: str) -> None:
        """Check whether the queue's subscriptions still exist, and recreate those that were removed."""
        if self.makes and not self._is_foreign(queue):
            self._repairer.check_bindings(queue)

    def known_bindings(self, queue: str) -> BindingSet | None:
        """The bindings that this process last saw, or assumes; no call."""
        return self._with_noted(queue, self._knowledge.known(queue))

    def read_bindings(self, queue: str, sent_ms: int | None = None) -> tuple[BindingSet | None, int, float]:
        """The bindings as their tags say, for a message that matches no known one.

        Args:
            sent_ms: When the message was sent, ms since the epoch by AWS's clock.
        Returns:
            The bindings; None where they can't be known for certain: their tags can't be read, or infrastructure code
            made them. When they were read, ms since the epoch by AWS's clock; and in how many seconds it is worthwhile
            to ask again.
        """
        if self.queues.is_predefined(queue) or not self.makes:
            return None, self._clients.now_ms(), 0.0
        found, read_at, again_s = self._knowledge.read(queue, sent_ms)
        return found and self._with_noted(queue, found), read_at, again_s

    def list_bindings(self) -> list[tuple[str, str, str]]:
        """(queue, exchange, routing key) of every binding that this process knows."""
        known = {queue for queue, _ in self._knowledge.all_known()} | set(self._noted)
        return [
            (queue, binding.exchange, binding.routing_key)
            for queue in sorted(known)
            for binding in sorted((self.known_bindings(queue) or BindingSet()).bindings)
        ]

    # --- removal

    def forget(self, queue: str) -> None:
        """Forget what is known of a queue: another one has its logical name now."""
        for name in self.queues.levels(queue):
            self.queues.forget(name)
        self.dead_queues.forget(queue)
        self._reconciler.forget(queue)

    def delete_queue(self, queue: str) -> None:
        """Delete a queue and its subscriptions; a missing queue is fine. Foreign queues are left alone."""
        if not self.makes or self.queues.is_predefined(queue):
            logger.info("Queue %s is not ours to delete (topology=%s).", queue, self._settings.topology)
            return
        try:
            owner, asked = self.queues.physical(queue), self.dead_queues.plan(queue)
            self._remover.delete_queue(queue)
            if asked is not None:
                self.dead_queues.remove(queue, owner)
        finally:
            self._noted.pop(queue, None)
            self._asked.pop(queue, None)
            self._repairer.forget(queue)
            self.forget(queue)

    def delete_exchange(self, exchange: str) -> None:
        """Delete an exchange's topic, unless foreign subscriptions use it; remove ours.

        One that infrastructure code made is left alone.
        """
        self._types.pop(exchange, None)
        self._denied.pop(exchange, None)
        if not self.makes or self.topics.is_predefined(exchange):
            logger.info("The topic of exchange %s is not ours to delete.", exchange)
        else:
            self._remover.delete_exchange(exchange)

    # --- inside

    def _raise_sizes(self, queue: str, exchange: str) -> None:
        """Raise the limits of a topic and a queue to the size of messages that the exchange was declared with."""
        declared = self.sizes.declared(exchange)
        if declared is not None:
            self.sizes.make(exchange)
            for name in self.queues.levels(queue):
                self.queues.raise_size(name, declared)

    def _heal_later(self, url: QueueUrl) -> None:
        self._repairer.heal_later(url)

    def _recheck(self, queue: str) -> None:
        self._repairer.recheck(queue)

    def _is_taken_as_made(self, queue: str, exchange: str) -> bool:
        return not self.makes or (self.queues.is_predefined(queue) and self.topics.is_predefined(exchange))

    def _note(self, queue: str, binding: Binding) -> None:
        self._noted.setdefault(queue, {})[binding] = None
        if self._settings.topology == "verify":
            self._verification.expect_binding(queue, binding)

    def _with_noted(self, queue: str, found: BindingSet | None) -> BindingSet | None:
        noted = frozenset(tuple(self._noted.get(queue, ())))
        if not noted:
            return found
        return replace(found, bindings=found.bindings | noted) if found is not None else BindingSet(noted)

    def _is_foreign(self, queue: str) -> bool:
        """Return True if the queue is another account's: AWS refuses nearly everything but sending and receiving."""
        address = self._settings.predefined_queue(queue)
        return address is not None and self.home.is_foreign(address)

    def _bind_foreign(self, queue: str, binding: Binding) -> None:
        """Assume a binding if the queue's policy allows the topic: SNS and SQS let only its owner create it."""
        if not self._seems_bound(queue, binding):
            raise TopologyError(
                f"Queue {queue!r} ({self._settings.predefined_queue(queue)}) is another account's, and its policy "
                f"does not let the topic of exchange {binding.exchange!r} in: only its owner can subscribe it to "
                f"{self.topics.arn(binding.exchange)} and allow that in the queue's policy."
            )
        self._note(queue, binding)

    def _seems_bound(self, queue: str, binding: Binding) -> bool:
        """Return True if the queue's policy allows the topic, or reading it is denied, as to a mere producer."""
        try:
            return self._reader.is_allowed(queue, binding.exchange)
        except AccessDenied:
            return True
