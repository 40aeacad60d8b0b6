"""The kombu Transport for ``hake://``: one per connection; it owns the parts and stops them in order.

Clients, topology and publisher are shared by all connections of a process with equal settings. Inbox, leases and
temporary queues are the connection's own.
"""

from __future__ import annotations

import atexit
import itertools
import logging
import os
import time
import weakref
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import kombu.exceptions
from kombu.transport import base

from kombu_hake._version import __version__
from kombu_hake.aws import Clients, Pulse, Vital, forksafe, shared_clients
from kombu_hake.channel import Channel, Parts
from kombu_hake.config import (
    Settings,
    UrlParts,
    join_url,
    kombu_fields,
    load,
    mask_url,
    masked,
    masked_url,
    revealed,
    split_url,
)
from kombu_hake.exceptions import (
    AccessDenied,
    BrokerUnavailable,
    ConfigurationError,
    DeliveryError,
    PublishError,
    TopologyError,
)
from kombu_hake.publish import Dispatcher, Limits, Publisher, Routes
from kombu_hake.quoting import guarded
from kombu_hake.receive import (
    DeadLetters,
    Deferring,
    Deliveries,
    Delivery,
    How,
    Inbox,
    Item,
    Leases,
    LostLease,
    Payloads,
)
from kombu_hake.telemetry import Telemetry
from kombu_hake.telemetry import load as load_telemetry
from kombu_hake.temporary import Janitor, Presence, Temporaries
from kombu_hake.topology import Topology
from kombu_hake.worker import health, install, keep_no_tenant, lost_tasks, observe
from kombu_hake.worker import state as worker

__all__ = ["Transport"]

logger = guarded(logging.getLogger(__name__))
#: Maximum number of deliveries per iteration of Celery's event loop, so that timers and pool results are handled too.
_PER_TURN = 100
#: Maximum time that closing spends on acks and releases, and on events.
_STOP_TIMEOUT_S = 5.0
#: How long close waits for open long polls, which may receive messages that were just released.
_LAST_POLLS_S = 1.0
#: How often the consuming thread checks that each consumed queue has a poller, and that acks have a thread.
_LOOK_AFTER_S = 5.0


@dataclass(frozen=True)
class _Shared:
    """The parts that all connections of a process with equal settings share."""

    clients: Clients
    topology: Topology
    dispatcher: Dispatcher
    dead_letters: DeadLetters
    deferring: Deferring
    presence: Presence


def _build_shared(settings: Settings) -> _Shared:
    clients = Clients(settings)
    topology = Topology(clients, settings)
    publisher = Publisher(clients, Limits(settings, topology))
    dispatcher = Dispatcher(topology, Routes(topology, settings), publisher, settings, worker.running_properties)
    janitor = Janitor(clients, settings, topology.topics, topology.home)
    presence = Presence(topology.signs, janitor)
    dead_letters = DeadLetters(
        clients, dispatcher.publish_now, topology.dead_queues.make_again, topology.dead_queues.make_room
    )
    deferring = Deferring(clients, dispatcher, dead_letters)
    return _Shared(clients, topology, dispatcher, dead_letters, deferring, presence)


_open: weakref.WeakSet[Transport] = weakref.WeakSet()
#: The leases of dropped connections live on until they have released all messages.
_leases: weakref.WeakSet[Leases] = weakref.WeakSet()


class Transport(base.Transport):  # type: ignore[misc]
    """Transport for AWS SNS and SQS. Creating one does no I/O and starts no thread."""

    #: :mod:`kombu_hake.plugin` parses our URLs for kombu, when a connection is created and at each fail-over.
    can_parse_url = False
    default_port = None
    driver_type = "hake"
    driver_name = "hake"
    polling_interval = None
    #: How long an ack may wait to share a request with others, seconds. After a crash in that time the task runs again.
    ack_linger_s = 0.1

    # kombu reconnects on the first and third, passes the second and fourth on, or retries in place. Without the
    # "recoverable" two it would retry on all of them (kombu/connection.py, ``ensure``), denied access included.
    connection_errors = (BrokerUnavailable, kombu.exceptions.ConnectionError)
    channel_errors = (AccessDenied, TopologyError, PublishError, DeliveryError, kombu.exceptions.ChannelError)
    recoverable_connection_errors = (BrokerUnavailable,)
    recoverable_channel_errors = ()

    implements = base.Transport.implements.extend(
        asynchronous=True,
        batch_publish=True,
        exchange_type=frozenset(["direct", "topic", "fanout", "headers"]),
        heartbeats=False,
    )

    def __init__(self, client: Any, **_kwargs: Any) -> None:
        self.client = client
        self.can_parse_url = True  # makes kombu call as_uri()
        _settle_fields(client)
        keep_no_tenant()
        self.channels: list[Channel] = []
        self.connected = False
        self._channel_ids = itertools.count(1)
        self._loops: list[tuple[Any, int, Any]] = []
        #: When to check the threads next, monotonic.
        self._look_at = 0.0
        #: Of the thread that consumes: Celery's event loop.
        self._pulse = Pulse()
        #: The channels closed most recently, and when.
        self._parted: deque[tuple[Channel, float]] = deque(maxlen=4)
        forksafe.register(self)

    def reset_after_fork(self) -> None:
        """The connection stays usable: its parts have been reset. The event loop's epoll belongs to the parent."""
        self._loops = []

    # --- connection

    def prepare(self) -> None:
        """Validate the configuration, without a request.

        Raises:
            ConfigurationError: lists every fault of URL and options.
        """
        self.settings = self.load_settings()
        self._shared: _Shared = shared_clients(self.settings, _build_shared)
        self.clients, self.topology = self._shared.clients, self._shared.topology
        self.dispatcher, self.dead_letters = self._shared.dispatcher, self._shared.dead_letters

    def establish_connection(self) -> Transport:
        """Validate the configuration, and check with one request that AWS answers.

        Raises:
            ConfigurationError: lists every fault of URL and options; or ``tenant_from`` cannot be imported, or there
                is no region or are no credentials.
            BrokerUnavailable: no answer within the connect timeout.
        """
        self.prepare()
        self.dispatcher.check()
        install()
        health.connecting(self.settings)
        if self.settings.topology != "assume":  # which asks AWS nothing
            self.clients.check()
        self.inbox = Inbox()
        inbox = self.inbox
        payloads = Payloads(self.clients, self.topology.stores, max_receives=self.dead_letters.max_receives)
        self.payloads = payloads
        self.leases = Leases(
            self.clients,
            visibility_s=self.settings.visibility_timeout,
            linger_s=self.ack_linger_s,
            on_lost=lambda lease, why: inbox.put([LostLease(lease, why)]),
            on_deleted=payloads.settled,
            on_given_back=payloads.stop,
        )
        self.deliveries = Deliveries(inbox, self.leases, payloads)
        _leases.add(self.leases)
        # The threads refer to the leases and not to this object, so that a dropped connection can be collected.
        self._disown = weakref.finalize(self, self.leases.disown)
        self._disown.atexit = False
        observe(self.clients.telemetry)
        self.temporaries = Temporaries(self.topology, self._shared.presence)
        self.connected = True
        _open.add(self)
        return self

    def _opened(self, connection: Any) -> Transport:
        """The transport that opened *connection*.

        kombu looks up the transport before the connection. If the connection fails over in between, kombu calls the
        transport of the URL that did not answer with the connection of the one that did.
        """
        return connection if isinstance(connection, Transport) else self

    def close_connection(self, connection: Any) -> None:
        """Stop the pollers, then release unsettled messages, flush the acks, and remove temporary queues."""
        if not self.connected:
            return
        self.connected = False
        _open.discard(self)
        # kombu closes its default channel just before (kombu/connection.py, ``_do_close_self``).
        parted = [channel for channel, at in self._parted if time.monotonic() - at < _LAST_POLLS_S]
        if not parted:
            self.leases.given_back.clear()
        channels = [*parted, *self.channels]
        for channel in channels:
            channel.close()
        self.dispatcher.flush_events(_STOP_TIMEOUT_S)
        self._disown.detach()
        _leases.discard(self.leases)
        self.leases.stop(_STOP_TIMEOUT_S)
        self.payloads.stop(_STOP_TIMEOUT_S)
        ends_at = time.monotonic() + _LAST_POLLS_S
        for channel in channels:
            channel.wait_for_open_polls(self.leases.given_back, ends_at - time.monotonic())
        self.temporaries.delete_all()
        for loop, fd, timer in self._loops:
            loop.remove(fd)
            timer.cancel()
        self._loops.clear()
        self._parted.clear()
        self.inbox.close()

    def verify_connection(self, connection: Any) -> bool:
        """Return True if the connection is open; there is no socket that could fail."""
        return self.connected

    def create_channel(self, connection: Any) -> Channel:
        """A new channel of *connection*, which :meth:`establish_connection` returned."""
        return self._opened(connection)._new_channel()

    def _new_channel(self) -> Channel:
        parts = Parts(
            settings=self.settings,
            clients=self.clients,
            topology=self.topology,
            temporaries=self.temporaries,
            dispatcher=self.dispatcher,
            dead_letters=self.dead_letters,
            deferring=self._shared.deferring,
            inbox=self.inbox,
            leases=self.leases,
            deliveries=self.deliveries,
        )
        channel = Channel(self, next(self._channel_ids), parts)
        self.channels.append(channel)
        return channel

    def close_channel(self, channel: Channel) -> None:
        """Remove a channel that has closed itself."""
        if channel in self.channels:
            self.channels.remove(channel)
            self._parted.append((channel, time.monotonic()))
        channel.connection = None

    # --- events

    def drain_events(self, connection: Any, timeout: float | None = None, **_kwargs: Any) -> None:
        """Deliver one event, waiting for it.

        Args:
            timeout: Seconds; None waits forever, 0 not at all.
        Raises:
            TimeoutError: (alias ``socket.timeout``) no event in time.
            BrokerUnavailable: the connection is closed, or was closed by another thread meanwhile.
        """
        self._opened(connection)._drain(timeout)

    def _drain(self, timeout: float | None) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            wait_s = _LOOK_AFTER_S if left is None else min(left, _LOOK_AFTER_S)
            slice_ends = time.monotonic() + wait_s
            item = self.inbox.get(wait_s) if self.connected else None
            if time.monotonic() >= self._look_at:
                self._look_after_threads()
            if not self.connected and item is None:
                raise BrokerUnavailable("This connection is closed and no longer receives messages.")
            if item is None:
                if left == wait_s or time.monotonic() < slice_ends:  # timeout, or :meth:`wake` was called
                    raise TimeoutError(f"no message within {timeout} s")
                continue
            if self._deliver(item):
                return

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Make the event loop call us when the inbox has items. Called again after each reconnect."""
        self._opened(connection)._register(loop)

    def _register(self, loop: Any) -> None:
        self.dispatcher.send_events_aside()
        fd = self.inbox.fileno()
        loop.add_reader(fd, self._on_readable)
        timer = loop.call_repeatedly(_LOOK_AFTER_S, self._look_after_threads)
        self._loops.append((loop, fd, timer))

    def unregister_from_event_loop(self, connection: Any, loop: Any) -> None:
        """Undo :meth:`register_with_event_loop`."""
        for known, fd, timer in [entry for entry in self._loops if entry[0] is loop]:
            known.remove(fd)
            timer.cancel()
        self._loops = [entry for entry in self._loops if entry[0] is not loop]

    def on_readable(self, connection: Any, loop: Any) -> None:
        """kombu's name for what :meth:`register_with_event_loop` registers."""
        self._on_readable()

    def wake(self) -> None:
        """Wake the event loop, as its next step may have changed. For any thread."""
        self.inbox.wake()

    def vitals(self) -> list[Vital]:
        """The threads that a worker needs to consume with this connection; [] if it is closed."""
        if not self.connected:
            return []
        pollers = [vital for channel in list(self.channels) for vital in channel.vitals()]
        return [Vital("the event loop", self._pulse), *self.leases.vitals(), *pollers]

    def _look_after_threads(self) -> None:
        self._pulse.beat()
        self._look_at = time.monotonic() + _LOOK_AFTER_S
        for channel in list(self.channels):
            channel.look_after_pollers()
        if self.connected:
            self.leases.look_after()
            self.deliveries.look_after()

    def _on_readable(self) -> None:
        for _ in range(_PER_TURN):
            if worker.is_stopping():  # a solo pool runs a task here: start no further one
                return
            item = self.inbox.get(0)
            if item is None:
                return
            self._deliver(item)

    def _deliver(self, item: Item) -> bool:
        """Deliver one item; False if no consumer got it."""
        self._pulse.beat()  # for each, as a solo pool runs the task here
        if isinstance(item, Delivery):
            channel = self._channel(item.channel_id)
            if channel is not None:
                return channel.deliver(item)
            self.deliveries.finish(item, How.RELEASE)
            return False
        if isinstance(item, LostLease):
            about = item.lease.about
            owner = self._channel(about.channel_id) if about is not None else None
            ends = self.settings.on_lost_lease == "terminate"
            lost_tasks.on_lost(owner, item.lease, item.why, terminate=ends)
            return False
        raise item

    def _channel(self, channel_id: int) -> Channel | None:
        for channel in self.channels:
            if channel.channel_id == channel_id:
                return channel
        return None

    # --- description

    def as_uri(self, uri: str, include_password: bool = False, mask: str = "**") -> str:
        """The broker URL for display; the secret is masked unless requested."""
        try:
            text = join_url(self._url_parts())
        except ConfigurationError:  # an invalid URL can still be shown
            text = revealed(uri)
        return text if include_password else mask_url(text, mask)

    def driver_version(self) -> str:
        """Our version."""
        return __version__

    @property
    def default_connection_params(self) -> dict[str, Any]:
        """No defaults: no host means AWS."""
        return {}

    def load_settings(self) -> Settings:
        """The settings of the connection; does not connect.

        Raises:
            ConfigurationError: lists every fault of URL and options.
        """
        client = self.client
        # A copy: kombu writes into transport_options while it retries (kombu/messaging.py, ``Producer.publish``).
        options: Mapping[str, Any] = revealed(dict(client.transport_options or {}))
        return load(self._url_parts(), options, os.environ, client.connect_timeout)

    def telemetry(self) -> Telemetry | None:
        """What this process reports to OpenTelemetry; None if the option turns it off. Needs no connection."""
        return load_telemetry() if self.load_settings().telemetry else None

    def _url_parts(self) -> UrlParts:
        """The URL that kombu keeps as host name, or one built from kombu's separate fields.

        Keys given separately apply to each URL that has none of its own.
        """
        client = self.client
        userid, password = client.userid or None, _resolved(client.password) or None
        hostname = revealed(client.hostname)
        if hostname and "://" in hostname:
            parts = split_url(hostname)
            return parts._replace(key=parts.key or userid, secret=parts.secret or password)
        namespace = (client.virtual_host or "").strip("/")
        if hostname in ("", "localhost") and not client.port:
            hostname = None
        return UrlParts(userid, password, hostname, client.port, namespace, {})


def _resolved(password: Any) -> str:
    """kombu accepts a callable for a changing password."""
    return str((password() if callable(password) else password) or "")


def _settle_fields(client: Any) -> None:
    """Make a kombu connection's fields match its URL, and mask the secrets in them.

    A worker answers ``inspect stats`` with all fields except the password (``celery/worker/consumer/connection.py``,
    ``info``). So the URLs and options keep their values but are shown masked.
    """
    if client.hostname and "://" in client.hostname:
        fields = kombu_fields(client.hostname)
        client.hostname, client.port = fields["hostname"], fields["port"]
    if client.alt:
        client.alt = [masked_url(url) if isinstance(url, str) else url for url in client.alt]
    options = dict(client.transport_options or {})
    shown = masked(options)
    if repr(shown) != repr(options):
        client.transport_options = shown


def _close_all_at_exit() -> None:
    """Flush the acks and release the unsettled messages of connections that were not closed."""
    for transport in list(_open):
        try:
            transport.close_connection(transport)
        except Exception:
            logger.exception("HAKE704 Cannot close a connection at exit.")
    forgotten = list(_leases)
    for leases in forgotten:
        leases.give_all_back()
    if any(leases.given_back for leases in forgotten):
        time.sleep(_LAST_POLLS_S)  # also for their open polls


atexit.register(_close_all_at_exit)
# Celery imports this module when a worker reads its settings, just before it sends the signal worker_init.
install()
