"""The transport, through ``kombu.Connection``: opening, events, errors, closing."""

import gc
import json
import logging
import pickle
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fakes import URL, FakeClients, connected, eventually
from kombu import Connection, Exchange, Producer, Queue
from kombu.asynchronous import Hub
from kombu.message import Message

from kombu_hake import transport as transport_module
from kombu_hake.channel import Channel
from kombu_hake.exceptions import AccessDenied, BrokerUnavailable, ConfigurationError
from kombu_hake.receive import leases as leases_module
from kombu_hake.transport import Transport

SECRET = "wJalrXUtnFEMIK7MDENG"


@pytest.fixture
def connection(fake: FakeClients) -> Iterator[Connection]:
    with connected(fake) as made:
        yield made


def consume(connection: Connection, queue: str = "q", **options: Any) -> list[Message]:
    received: list[Message] = []
    channel: Channel = connection.channel()
    channel.queue_declare(queue)
    channel.basic_consume(queue, callback=received.append, **options)
    return received


# --- opening


def test_making_a_connection_calls_nobody_and_starts_nothing(fake: FakeClients) -> None:
    before = set(threading.enumerate())
    with connected(fake) as connection:
        assert isinstance(connection.transport, Transport)
        assert not connection.connected
        assert set(threading.enumerate()) <= before
        assert not fake.calls


def test_opening_checks_and_starts_nothing(connection: Connection) -> None:
    before = set(threading.enumerate())
    connection.connect()
    assert connection.connected
    assert set(threading.enumerate()) <= before


def test_wrong_options_are_one_error_when_it_is_opened(fake: FakeClients) -> None:
    with connected(fake, regoin="r", max_pollers=0) as connection, pytest.raises(ConfigurationError) as caught:
        connection.connect()
    assert len(caught.value.faults) == 2
    assert not fake.calls


@pytest.mark.parametrize("error", [BrokerUnavailable("no route"), ConfigurationError("no keys")])
def test_an_aws_that_does_not_answer_is_an_error_when_it_is_opened(
    fake: FakeClients, connection: Connection, error: Exception
) -> None:
    fake.fail("check", error)
    with pytest.raises(type(error)):  # kombu's own connect() tries twice
        connection.transport.establish_connection()
    assert not connection.connected
    connection.connect()
    assert connection.connected


def test_kombu_tries_again_where_that_may_help_and_nowhere_else(fake: FakeClients, connection: Connection) -> None:
    seen: list[Exception] = []
    fake.fail("check", BrokerUnavailable("1"), BrokerUnavailable("2"))
    connection.ensure_connection(
        errback=lambda exc, interval: seen.append(exc), max_retries=5, interval_start=0, interval_step=0
    )
    assert [str(exc) for exc in seen] == ["1", "2"]
    connection.close()
    fake.fail("check", ConfigurationError("wrong keys"))
    with pytest.raises(ConfigurationError):
        connection.ensure_connection(max_retries=5, interval_start=0)


def test_equal_settings_share_what_can_be_shared(fake: FakeClients) -> None:
    with connected(fake) as one:
        one.connect()
        clone = one.clone()
        clone.transport_options.update(max_retries=3, interval_start=0)  # as kombu itself does
        other = Connection(URL, transport_options={**one.transport_options, "visibility_timeout": 7})
        try:
            for connection in (clone, other):
                connection.connect()
            assert clone.transport.topology is one.transport.topology
            assert clone.transport.inbox is not one.transport.inbox
            assert clone.transport.leases is not one.transport.leases
            assert other.transport.topology is not one.transport.topology
        finally:
            clone.release()
            other.release()


def test_fail_over_urls_are_understood(fake: FakeClients) -> None:
    with connected(fake) as connection:
        connection.switch(f"hake://key:{SECRET}@localhost:4567/staging")
        connection.connect()
        settings = connection.transport.settings
        assert (settings.access_key_id, settings.secret_access_key) == ("key", SECRET)
        assert settings.endpoint_url == "http://localhost:4567"
        assert settings.namer.namespace == "staging"
        assert SECRET not in connection.as_uri()


def test_a_fail_over_without_a_host_is_aws(fake: FakeClients) -> None:
    with connected(fake) as connection:
        connection.switch("hake://")
        connection.connect()
        assert connection.transport.settings.endpoint_url is None


TWO_URLS = ("hake://localhost:4566/a?region=r", "hake://localhost:4567/b?region=q")


def test_port_and_alternates_are_those_of_the_urls() -> None:
    connection = Connection(";".join(TWO_URLS))
    assert connection.port == 4566
    assert connection.alt == [*TWO_URLS]
    for port, region, namespace in ((4566, "r", "a"), (4567, "q", "b"), (4566, "r", "a")):
        settings = connection.transport.load_settings()
        assert (settings.region, settings.namer.namespace) == (region, namespace)
        assert settings.endpoint_url == f"http://localhost:{port}"
        assert connection.port == port
        assert connection.alt == [*TWO_URLS]
        connection.maybe_switch_next()


def test_a_switch_by_hand_takes_a_url_with_options() -> None:
    connection = Connection("hake://localhost:1?region=r")
    connection.switch(f"hake://key:{SECRET}@localhost:4567/ns?region=q")
    settings = connection.transport.load_settings()
    assert (settings.region, settings.endpoint_url) == ("q", "http://localhost:4567")
    assert (settings.access_key_id, settings.secret_access_key) == ("key", SECRET)
    connection.switch("hake://?region=r")
    settings = connection.transport.load_settings()
    assert (settings.region, settings.endpoint_url, settings.access_key_id) == ("r", None, None)
    assert connection.port is None


@pytest.mark.parametrize("switch", [Connection.maybe_switch_next, lambda found: found.switch(found.alt[1])])
def test_a_secret_with_a_slash_survives_a_fail_over(switch: Callable[[Connection], None]) -> None:
    connection = Connection("hake://localhost:1?region=r;hake://key:a/b+c=@localhost:2?region=r")
    assert connection.transport
    switch(connection)
    assert connection.transport.load_settings().secret_access_key == "a/b+c="
    assert "a/b" not in repr(connection) + json.dumps(connection.info())


def test_alternates_equal_the_urls_that_were_given_and_show_no_secret() -> None:
    connection = Connection(FAILOVER)
    assert connection.transport
    assert connection.alt == FAILOVER.split(";")
    assert SECRET not in repr(connection.alt) + json.dumps(connection.alt)


def test_the_keys_of_one_url_are_not_used_for_the_next() -> None:
    connection = Connection(f"hake://key:{SECRET}@localhost:1?region=r;hake://localhost:2?region=r")
    for one in (connection, connection.clone(), pickle.loads(pickle.dumps(connection))):
        assert one.transport.load_settings().access_key_id == "key"
        one.maybe_switch_next()
        assert one.transport.load_settings().access_key_id is None


def test_keys_given_beside_the_urls_are_used_for_each() -> None:
    connection = Connection("hake://localhost:1?region=r;hake://localhost:2?region=r", userid="key", password=SECRET)
    for one in (connection, connection.clone()):
        for _ in range(2):
            assert one.transport.load_settings().secret_access_key == SECRET
            one.maybe_switch_next()


def test_a_connection_of_another_broker_can_fail_over_to_this_one() -> None:
    connection = Connection("memory://;hake://localhost:2/ns?region=r")
    connection.maybe_switch_next()
    assert connection.transport.load_settings().region == "r"
    connection.maybe_switch_next()
    assert connection.transport.driver_type == "memory"


def test_a_channel_belongs_to_the_connection_that_a_fail_over_opened(fake: FakeClients) -> None:
    with connected(fake, ";".join(TWO_URLS), region=None) as connection:
        dead = connection.transport
        fake.fail("check", BrokerUnavailable("no route"))
        channel = connection.channel()  # kombu asks the transport of the first URL
        assert connection.transport is not dead
        assert channel.connection is connection.transport
        assert connection.transport.channels == [channel]
        assert connection.transport.settings.endpoint_url == "http://localhost:4567"


def test_draining_after_a_fail_over_waits_on_the_new_connection(fake: FakeClients) -> None:
    with connected(fake, ";".join(TWO_URLS), region=None) as connection:
        fake.fail("check", BrokerUnavailable("no route"))
        with pytest.raises(TimeoutError):
            connection.drain_events(timeout=0.01)
        hub = Hub()
        connection.register_with_event_loop(hub)
        assert hub.readers
        connection.close()
        assert not hub.readers


# --- health


def test_the_event_loop_beats_by_its_timer_and_with_each_message(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport_module, "_LOOK_AFTER_S", 0.005)
    hub = Hub()
    try:
        received = consume(connection)
        transport = connection.connection
        transport.register_with_event_loop(transport, hub)
        loop, *others = transport.vitals()
        assert loop.name == "the event loop"
        assert [vital.name for vital in others] == ["the poller of queue q"]
        at = loop.pulse.last[0]
        eventually(lambda: turn(hub) or loop.pulse.last[0] > at)  # type: ignore[func-returns-value]
        hub.timer.clear()
        at = loop.pulse.last[0]
        Producer(connection).publish("a", routing_key="q")
        eventually(lambda: turn(hub) or received)  # type: ignore[func-returns-value]
        assert loop.pulse.last[0] > at
        connection.close()
        assert transport.vitals() == []
    finally:
        connection.close()
        hub.close()


def test_draining_beats(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Greenlets have no event loop: Celery drains the connection."""
    monkeypatch.setattr(transport_module, "_LOOK_AFTER_S", 0.001)
    consume(connection)
    loop = connection.connection.vitals()[0]
    at = loop.pulse.last[0]
    with pytest.raises(TimeoutError):
        connection.drain_events(timeout=0.01)
    assert loop.pulse.last[0] > at


# --- description


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        (f"hake://key:{SECRET}@localhost:1/ns", "hake://key:**@localhost:1/ns"),
        (f"hake://key:{SECRET}@?region=r&session_token={SECRET}", "hake://key:**@?region=r&session_token=**"),
        ("hake://", "hake://"),
    ],
)
def test_the_secret_is_in_no_description(url: str, masked: str) -> None:
    connection = Connection(url)
    assert connection.as_uri() == masked
    assert SECRET not in repr(connection)
    assert connection.as_uri(include_password=True) == url


@pytest.mark.parametrize(
    "url", [f"hake://key:{SECRET}@host:port", f"hake://key:what?{SECRET}@host", f"hake://key:{SECRET}"]
)
def test_a_url_that_is_wrong_can_still_be_described(url: str) -> None:
    connection = Connection(url)
    assert SECRET not in repr(connection)
    assert SECRET not in connection.as_uri()
    with pytest.raises(ConfigurationError):
        connection.transport.establish_connection()


@pytest.mark.parametrize(
    ("query", "options"), [(f"region=r&session_token={SECRET}", {}), ("region=r", {"session_token": SECRET})]
)
def test_a_worker_tells_nobody_the_secret(query: str, options: dict[str, str]) -> None:
    # "inspect stats" answers with all of this but the password (celery/worker/consumer/connection.py).
    connection = Connection(f"hake://key:{SECRET}@localhost:1/ns?{query}", transport_options=options)
    assert connection.as_uri()
    told = {name: value for name, value in connection.info().items() if name != "password"}
    assert SECRET not in repr(told)


FAILOVER = f"hake://key:{SECRET}@localhost:1/ns?region=r;hake://key2:{SECRET}@localhost:2/ns?region=q"
PROXIES = {"client_config": {"proxies": {"https": f"http://user:{SECRET}@proxy:3128"}}}


@pytest.mark.parametrize("options", [{}, {"session_token": SECRET}, PROXIES])
@pytest.mark.parametrize("url", ["hake://", FAILOVER])
def test_a_worker_tells_no_secret_of_fail_over_urls_and_proxies(url: str, options: dict[str, Any]) -> None:
    given = {**options}
    connection = Connection(url, transport_options=given)
    for shown in (connection, connection.clone()):
        told = {name: value for name, value in shown.info().items() if name != "password"}
        assert SECRET not in repr(told) + json.dumps(told, default=str)
        assert SECRET not in repr(shown) + shown.as_uri()
        settings = None
        if url == FAILOVER or options is not PROXIES:
            continue
        settings = shown.transport.load_settings()
        assert settings.client_config == PROXIES["client_config"]
    assert given == options


def test_fail_over_still_knows_the_secrets_that_it_hides() -> None:
    connection = Connection(FAILOVER, transport_options={"session_token": "token"})
    for host in ("localhost:1", "localhost:2", "localhost:1"):
        settings = connection.transport.load_settings()
        assert settings.endpoint_url == f"http://{host}"
        assert settings.secret_access_key == SECRET
        assert settings.session_token == "token"
        assert SECRET not in repr(connection.info()["alternates"])
        connection.maybe_switch_next()


def test_a_clone_has_the_credentials_of_the_original(fake: FakeClients) -> None:
    with connected(fake, f"hake://key:{SECRET}@localhost:1/ns?session_token=to%2Bken") as connection:
        connection.connect()
        with connection.clone() as clone:
            clone.connect()
            assert clone.transport.settings == connection.transport.settings
        settings = connection.transport.settings
        assert (settings.access_key_id, settings.secret_access_key, settings.session_token) == ("key", SECRET, "to+ken")


def test_a_session_token_among_the_options_is_used_and_left_in_the_users_own(fake: FakeClients) -> None:
    options = {"session_token": "to ken"}
    with Connection(f"hake://key:{SECRET}@localhost:1/ns?region=r", transport_options=options) as connection:
        for one in (connection, connection.clone()):
            settings = one.transport.load_settings()
            assert (settings.secret_access_key, settings.session_token) == (SECRET, "to ken")
    assert options == {"session_token": "to ken"}


def test_what_kombu_and_celery_may_expect(connection: Connection) -> None:
    for exchange_type in ("direct", "topic", "fanout", "headers"):
        assert connection.supports_exchange_type(exchange_type)
    assert connection.is_evented
    assert not connection.supports_heartbeats
    assert connection.transport.driver_type == "hake"
    assert connection.transport.driver_version()
    assert connection.get_heartbeat_interval() == 0


# --- events


@pytest.mark.parametrize("timeout", [0, 0.01])
def test_draining_honours_its_timeout(connection: Connection, timeout: float) -> None:
    consume(connection)
    with pytest.raises(socket.timeout):
        connection.drain_events(timeout=timeout)


def test_draining_delivers_one_event_at_a_time(connection: Connection) -> None:
    received = consume(connection)
    for number in range(3):
        Producer(connection).publish(number, routing_key="q")
    for count in (1, 2, 3):
        connection.drain_events(timeout=10)
        assert len(received) == count


def test_a_denied_action_is_raised_in_the_consuming_thread(fake: FakeClients, connection: Connection) -> None:
    fake.deny("sqs:ReceiveMessage")
    consume(connection)
    with pytest.raises(AccessDenied):
        connection.drain_events(timeout=10)


def test_a_message_for_a_channel_that_is_closed_goes_back(fake: FakeClients, connection: Connection) -> None:
    received = consume(connection)
    Producer(connection).publish("a", routing_key="q")
    eventually(lambda: len(connection.transport.inbox) == 1)
    [channel] = [channel for channel in connection.transport.channels if channel._consumers]
    connection.transport.channels.remove(channel)
    with pytest.raises(TimeoutError):
        connection.drain_events(timeout=0.05)
    assert not received
    connection.transport.channels.append(channel)


def turn(hub: Hub) -> None:
    """One turn of the event loop, as Celery's worker makes it."""
    if hub._loop is None:
        hub._loop = hub.create_loop()
    next(hub._loop)


def test_an_event_loop_is_woken(fake: FakeClients, connection: Connection) -> None:
    hub = Hub()
    try:
        received = consume(connection)
        connection.transport.register_with_event_loop(connection.connection, hub)
        for number in range(5):
            Producer(connection).publish(number, routing_key="q")
        while len(received) < 5:
            turn(hub)
        fd = connection.transport.inbox.fileno()
        assert fd in hub.readers
        connection.close()
        assert fd not in hub.readers
    finally:
        hub.close()


def test_an_event_loop_gets_its_turn_among_many_messages(
    fake: FakeClients, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport_module, "_PER_TURN", 10)
    received = consume(connection)
    for number in range(25):
        Producer(connection).publish(number, routing_key="q")
    eventually(lambda: len(connection.transport.inbox) == 25)
    connection.transport.on_readable(connection.connection, None)
    assert len(received) == 10


def test_after_a_reconnect_everything_works_again(fake: FakeClients, connection: Connection) -> None:
    hub = Hub()
    try:
        for text in ("a", "b"):
            received = consume(connection)
            connection.transport.register_with_event_loop(connection.connection, hub)
            Producer(connection).publish(text, routing_key="q")
            while not received:
                turn(hub)
            received[0].ack()
            connection.close()
            connection._closed = False
        assert not hub.readers
    finally:
        hub.close()


def test_the_last_events_of_a_worker_are_sent_before_its_connection_is_closed(
    fake: FakeClients, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kombu_hake.publish.events._IDLE_S", 0.05)
    events = Exchange("celeryev", "topic")
    Queue("monitor", events, routing_key="#")(connection.channel()).declare()
    hub = Hub()
    try:
        connection.transport.register_with_event_loop(connection.connection, hub)
        reached, leave = threading.Event(), threading.Event()

        def hold() -> None:
            reached.set()
            assert leave.wait(10)

        fake.before("publish", hold)
        Producer(connection).publish("bye", exchange=events, routing_key="worker.offline", delivery_mode=1)
        assert reached.wait(10)  # and the event loop goes on
        threading.Timer(0.1, leave.set).start()
        connection.close()
        assert len(fake.queues.queue("monitor").messages) == 1
    finally:
        hub.close()


def test_a_loop_may_be_left(fake: FakeClients, connection: Connection) -> None:
    hub = Hub()
    try:
        connection.connect()
        transport = connection.transport
        transport.register_with_event_loop(connection.connection, hub)
        transport.unregister_from_event_loop(connection.connection, hub)
        assert not hub.readers
    finally:
        hub.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("by", ["drain", "drain for ever", "loop"])
def test_the_consuming_thread_replaces_a_poller_that_has_died(
    by: str, fake: FakeClients, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fatal(BaseException):
        pass

    monkeypatch.setattr(transport_module, "_LOOK_AFTER_S", 0.05)
    fake.fail("receive_message", Fatal())
    received = consume(connection)
    [channel] = [channel for channel in connection.transport.channels if channel._consumers]
    eventually(lambda: not channel._receiver._sources["q"].pollers)
    Producer(connection).publish("after", routing_key="q")
    hub = Hub()
    try:
        if by == "loop":
            connection.transport.register_with_event_loop(connection.connection, hub)
            while not received:
                turn(hub)
        else:
            connection.drain_events(timeout=10.0 if by == "drain" else None)
        assert received
        connection.close()
    finally:
        hub.close()


# --- closing


def test_closing_flushes_acks_gives_back_the_rest_and_ends_the_threads(fake: FakeClients) -> None:
    before = set(threading.enumerate())  # of connections of other tests, which await the garbage collector
    with connected(fake, ack_linger_s=5) as connection:
        received = consume(connection)
        for number in range(6):
            Producer(connection).publish(number, routing_key="q")
        for _ in range(3):
            connection.drain_events(timeout=10)
        eventually(lambda: len(connection.transport.inbox) == 3)
        received[0].ack()
        connection.close()
        assert len(fake.queues.queue("q").messages) == 5
        assert not any(message.is_in_flight(fake.clock()) for message in fake.queues.queue("q").messages)
        fake.end()
        eventually(lambda: not [t for t in {*threading.enumerate()} - before if t.name.startswith("hake")])


def test_closing_twice_is_fine(fake: FakeClients, connection: Connection) -> None:
    connection.connect()
    transport = connection.transport
    connection.close()
    transport.close_connection(transport)
    connection.close()


def test_closing_removes_what_was_temporary(fake: FakeClients, connection: Connection) -> None:
    channel = connection.channel()
    channel.queue_declare("mine", exclusive=True)
    channel.queue_declare("ours")
    connection.close()
    assert set(fake.queues.by_name) == {"ours"}


def test_closing_one_connection_leaves_the_others_alone(fake: FakeClients, connection: Connection) -> None:
    received = consume(connection)
    with connection.clone() as other:
        consume(other, "other")
    Producer(connection).publish("a", routing_key="q")
    connection.drain_events(timeout=10)
    assert len(received) == 1


def test_connections_that_nobody_closed_are_closed_at_exit(
    fake: FakeClients, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    consume(connection)
    Producer(connection).publish("a", routing_key="q")
    connection.drain_events(timeout=10)
    transport_module._close_all_at_exit()
    assert not connection.transport.connected
    assert not any(message.is_in_flight(fake.clock()) for message in fake.queues.queue("q").messages)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_channel_that_nobody_holds_any_more_stops_polling(fake: FakeClients, connection: Connection) -> None:
    consume(connection)
    transport = connection.transport
    [channel] = transport.channels
    receiver = channel._receiver
    transport.channels.clear()
    del channel
    gc.collect()
    assert receiver.vitals() == []


# --- threads and forgotten connections


def test_a_thread_that_drains_hears_that_another_one_closed_the_connection(
    fake: FakeClients, connection: Connection
) -> None:
    consume(connection)
    transport = connection.transport
    caught: list[Exception] = []

    def drain() -> None:
        try:
            transport.drain_events(transport)
        except transport.recoverable_connection_errors as exc:
            caught.append(exc)

    thread = threading.Thread(target=drain)
    thread.start()
    eventually(lambda: len(transport.inbox._changed._waiters) == 1)
    connection.close()
    thread.join(10.0)
    assert "closed" in str(caught[0])
    with pytest.raises(BrokerUnavailable, match="closed"):
        transport.drain_events(transport, timeout=0)


def test_draining_a_connection_that_was_never_opened_is_an_error(connection: Connection) -> None:
    with pytest.raises(BrokerUnavailable, match="closed"):
        connection.transport.drain_events(None, timeout=0)


def test_channels_opened_by_several_threads_are_told_apart(connection: Connection) -> None:
    connection.connect()
    barrier = threading.Barrier(8)
    ids: list[int] = []

    def open_many() -> None:
        barrier.wait()
        for _ in range(25):
            ids.append(connection.channel().channel_id)

    threads = [threading.Thread(target=open_many) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids)) == 200


def test_a_connection_that_is_forgotten_gives_its_messages_back(
    fake: FakeClients, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases_module, "_LOOK_UP_S", 0.01)
    before = set(threading.enumerate())  # of other tests: a poll of theirs may last for twenty seconds
    forgotten = connection.clone()
    received = consume(forgotten)
    Producer(forgotten).publish("a", routing_key="q")
    forgotten.drain_events(timeout=10)
    [stored] = fake.queues.queue("q").messages
    assert stored.is_in_flight(fake.clock())
    received.clear()
    del forgotten
    gc.collect()
    eventually(lambda: not stored.is_in_flight(fake.clock()))
    fake.end()
    eventually(lambda: not [t for t in {*threading.enumerate()} - before if t.name.startswith("hake")])


def test_a_transport_knows_before_it_connects_whether_there_is_telemetry() -> None:
    pytest.importorskip("opentelemetry")
    on, off = (Connection(URL, transport_options={"telemetry": value}) for value in ("on", "off"))
    assert on.transport.telemetry() is not None
    assert off.transport.telemetry() is None
