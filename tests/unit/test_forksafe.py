"""A forked child starts afresh, and touches nothing of its parent's."""

import contextlib
import gc
import itertools
import os
import select
import signal
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any
from unittest import mock
from unittest.mock import Mock

import botocore.loaders
import pytest
from botocore.loaders import JSONFileLoader, Loader
from celery import Celery
from fakes import FakeClients, FakeClock, connected, eventually, make_settings
from publishing import Process

from kombu_hake.amqp.naming import QueueUrl
from kombu_hake.aws import clients as clients_module
from kombu_hake.aws import forksafe
from kombu_hake.aws.clients import Clients
from kombu_hake.aws.concurrency import SingleFlight
from kombu_hake.groups.registry import registry
from kombu_hake.groups.setup import route
from kombu_hake.publish.publisher import outgoing
from kombu_hake.publish.routes import QueueTarget
from kombu_hake.receive.deliveries import Inbox
from kombu_hake.receive.delivery import Delivery, Lease
from kombu_hake.receive.leases import Leases

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    # Python 3.12 and later warn of what this file is about.
    pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning"),
]


def in_child(action: Callable[[], None]) -> None:
    """Run *action* in a forked child; fails when it raises there, or hangs."""
    pid = os.fork()
    if not pid:
        try:
            action()
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
            os._exit(1)
        os._exit(0)
    deadline = time.monotonic() + 20
    pause = threading.Event()
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            break
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            pytest.fail("the child hangs")
        pause.wait(0.005)
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.fixture
def fake() -> Iterator[FakeClients]:
    made = FakeClients()
    yield made
    made.end()


def unlock(fake: FakeClients) -> None:
    """The fake's own lock may be held by a thread that is not in the child."""
    fake.changed = threading.Condition(threading.RLock())
    fake.queues.take_lock(fake.changed)
    fake.queues.is_over = True


def held_elsewhere(lock: threading.Lock) -> Callable[[], None]:
    """Hold a lock in another thread; call the result to let it go."""
    taken, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            taken.set()
            assert leave.wait(30.0)

    thread = threading.Thread(target=hold)
    thread.start()
    assert taken.wait(10.0)

    def let_go() -> None:
        leave.set()
        thread.join()

    return let_go


# --- the mechanism


def test_what_is_registered_is_reset_in_the_child_alone() -> None:
    class Aware:
        resets = 0

        def reset_after_fork(self) -> None:
            self.resets += 1

    aware = Aware()
    forksafe.register(aware)

    def check() -> None:
        assert aware.resets == 1

    in_child(check)
    assert aware.resets == 0


def test_what_is_gone_is_not_kept_for_the_sake_of_forks() -> None:
    inbox = Inbox()
    known = weakref.ref(inbox)
    del inbox
    gc.collect()
    assert known() is None


# --- locks


def test_a_key_that_another_thread_works_on_is_free_in_the_child() -> None:
    flights = SingleFlight()
    inside, leave = threading.Event(), threading.Event()

    def work() -> None:
        with flights("key"):
            inside.set()
            assert leave.wait(30.0)

    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(10.0)

    def enter() -> None:
        with flights("key"):
            pass

    in_child(enter)
    leave.set()
    thread.join()


def test_locks_that_another_thread_holds_are_free_in_the_child(fake: FakeClients) -> None:
    clock = FakeClock()
    publisher, inbox, clients = Process(fake).publisher, Inbox(), Clients(make_settings())
    leases = Leases(fake, visibility_s=30, linger_s=0.1, clock=clock)
    url = QueueUrl(fake.sqs("create_queue", QueueName="q")["QueueUrl"])
    locks = [publisher._lock, inbox._changed, leases._lock, clients._lock, clients_module._shared._lock]
    let_go = [held_elsewhere(lock) for lock in locks]

    def use_all() -> None:
        unlock(fake)
        publisher.send(QueueTarget("q", url), outgoing("hello", {}, {}))
        assert inbox.get(0) is None
        leases.ack(Lease(url, "handle-1", 0.0, 30.0))
        assert leases.flush(5.0)
        clients_module.shared_clients(make_settings(region="other"), lambda settings: {"made"})
        with clients._lock:
            pass

    in_child(use_all)
    for release in let_go:
        release()


LOCKS = (type(threading.Lock()), type(threading.RLock()))
#: What a child keeps and never uses: the parent's clients, their credentials, sockets.
NOT_USED_IN_CHILD = {"_inherited"}


def locks_within(roots: Iterable[object]) -> dict[str, Any]:
    """All locks that objects of the package reach, by the way that leads there.

    Follows the attributes of the package's objects, and plain containers.
    """
    found: dict[str, Any] = {}
    seen: set[int] = set()
    left = [(name, root) for name, root in zip(map(str, itertools.count()), roots, strict=False)]
    while left:
        way, item = left.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        kind: Any = type(item)  # not isinstance: Celery's proxies would be evaluated
        inside: Any = item
        if kind in LOCKS:
            found[way] = item
        elif issubclass(kind, dict):
            left += [(f"{way}[{key!r}]", value) for key, value in list(inside.items())]
        elif issubclass(kind, list | tuple | set | frozenset | weakref.WeakSet):
            left += [(f"{way}[]", value) for value in list(inside)]
        elif kind is threading.Condition:
            left.append((f"{way}.lock", inside._lock))
        elif kind is threading.Event:
            left.append((f"{way}.event", inside._cond))
        elif kind.__module__.startswith("kombu_hake"):
            slots = {name for base in kind.__mro__ for name in getattr(base, "__slots__", ())}
            names = {*getattr(item, "__dict__", ()), *slots} - NOT_USED_IN_CHILD
            left += [(f"{way}.{kind.__name__}.{name}", getattr(item, name)) for name in names if hasattr(item, name)]
    return found


def of_modules() -> list[object]:
    """What the modules of the package hold."""
    modules = [module for name, module in sys.modules.items() if name.split(".")[0] == "kombu_hake"]
    return [{f"{m.__name__}.{name}": value for name, value in vars(m).items()} for m in modules]


def test_no_lock_that_another_thread_holds_is_held_in_the_child(fake: FakeClients) -> None:
    with connected(fake) as connection:
        channel = connection.channel()
        channel.queue_declare("q")
        channel.basic_consume("q", callback=lambda message: None)
        connection.Producer().publish({}, routing_key="q")
        roots = [connection.transport, connection.transport._shared, registry, *of_modules()]
        held, leave = threading.Event(), threading.Event()

        def hold_all() -> None:
            locks = locks_within(roots).values()
            with contextlib.ExitStack() as stack:
                for lock in locks:
                    stack.enter_context(lock)
                held.set()
                assert leave.wait(30.0)

        thread = threading.Thread(target=hold_all)
        thread.start()
        assert held.wait(10.0)

        def all_are_free() -> None:
            left = locks_within(roots)
            assert len(left) > 10
            assert [way for way, lock in left.items() if not lock.acquire(blocking=False)] == []

        try:
            in_child(all_are_free)
        finally:
            leave.set()
            thread.join()


def test_a_task_is_routed_in_a_child_that_was_forked_while_another_thread_looked_up_handlers() -> None:
    task = Mock(app=Celery(set_as_current=False))
    let_go = held_elsewhere(registry._lock)

    def publish() -> None:
        assert route("thank", (), {}, {}, task=task) is None

    try:
        in_child(publish)
    finally:
        let_go()


# --- what belongs to the parent


def test_the_child_settles_none_of_the_parents_leases(fake: FakeClients) -> None:
    leases = Leases(fake, visibility_s=30, linger_s=60.0)
    fake.sqs("create_queue", QueueName="q")
    url = QueueUrl(fake.queues.queue("q").url)
    fake.sqs("send_message", QueueUrl=url, MessageBody="hello")
    [message] = fake.sqs("receive_message", QueueUrl=url)["Messages"]
    lease, waiting = (Lease(url, message["ReceiptHandle"], leases.now(), 30.0) for _ in range(2))
    leases.hold([lease, waiting])
    leases.ack(waiting)

    def stop() -> None:
        unlock(fake)
        fake.calls.clear()
        leases.stop(5.0)
        assert repr(leases) == "<Leases held=0 acks waiting=0 requests=0>"
        assert not fake.calls

    in_child(stop)
    assert repr(leases) == "<Leases held=1 acks waiting=1 requests=0>"
    leases.stop(5.0)
    assert fake.count("delete_message_batch") == 1


def test_the_child_keeps_the_parents_descriptor_open_and_uses_its_own() -> None:
    inbox = Inbox()
    fd = inbox.fileno()
    item = Delivery(1, "q", "q", {}, Lease(QueueUrl("u"), "h", 0.0, 30.0))
    inbox.put([item])

    def check() -> None:
        gc.collect()
        assert len(inbox) == 0
        os.fstat(fd)
        assert select.select([fd], [], [], 0)[0], "the parent's wake-up was taken"
        assert inbox.fileno() != fd
        assert not select.select([inbox.fileno()], [], [], 0)[0]
        inbox.close()
        os.fstat(fd)

    in_child(check)
    assert select.select([fd], [], [], 0)[0]
    assert inbox.get(0) is item
    inbox.close()


def test_the_child_makes_clients_of_its_own() -> None:
    clients = Clients(make_settings())
    made = object()
    clients._made["sqs"] = made

    def check() -> None:
        assert made not in clients._made.values()

    in_child(check)
    assert clients._made["sqs"] is made


def test_the_child_makes_its_client_of_what_the_parent_has_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    # Most of the processor time of a child's first publish went into botocore's descriptions of the services.
    monkeypatch.setattr(botocore.loaders, "create_loader", lambda *_: Loader())  # tests share one
    monkeypatch.setattr(clients_module, "_loaders", {})
    clients = Clients(replace(make_settings(), access_key_id="key", secret_access_key="secret"))
    assert clients.region()

    def make() -> None:
        with mock.patch.object(JSONFileLoader, "load_file", side_effect=AssertionError("parsed again")):
            assert clients.region()

    in_child(make)


def test_closing_an_inherited_connection_in_the_child_calls_nobody(fake: FakeClients) -> None:
    class Loop:
        def __init__(self) -> None:
            self.removed: list[int] = []

        def add_reader(self, fd: int, callback: Callable[..., None], *args: object) -> None:
            pass

        def call_repeatedly(self, every_s: float, callback: Callable[..., None]) -> Mock:
            return Mock()

        def remove(self, fd: int) -> None:
            self.removed.append(fd)

    loop = Loop()
    with connected(fake) as connection:
        channel = connection.channel()
        channel.basic_qos(0, 4, False)
        channel.queue_declare("q", exclusive=True)
        channel.basic_consume("q", callback=lambda message: None)
        connection.Producer().publish({}, routing_key="q")
        connection.transport.register_with_event_loop(connection.connection, loop)
        eventually(lambda: len(connection.transport.inbox) == 1)

        def close() -> None:
            unlock(fake)
            fake.calls.clear()
            connection.close()
            assert not fake.calls
            assert not loop.removed

        in_child(close)
        assert len(connection.transport.inbox) == 1
        assert not loop.removed
    assert loop.removed


def test_the_child_does_not_close_the_parents_connections_at_exit(fake: FakeClients) -> None:
    from kombu_hake import transport as transport_module

    with connected(fake) as connection:
        connection.connect()

        def exit_handlers() -> None:
            unlock(fake)
            fake.calls.clear()
            transport_module._close_all_at_exit()
            assert not fake.calls

        in_child(exit_handlers)
        assert connection.transport.connected


def test_the_child_can_consume_on_a_connection_of_its_own(fake: FakeClients) -> None:
    with connected(fake) as connection:
        connection.channel().queue_declare("q")

        def consume() -> None:
            unlock(fake)
            with connected(fake) as own:
                found: list[object] = []
                channel = own.channel()
                channel.basic_consume("q", no_ack=True, callback=found.append)
                own.Producer().publish({}, routing_key="q")
                own.drain_events(timeout=10)
                assert found

        in_child(consume)


def test_an_inherited_connection_consumes_and_publishes_in_the_child(fake: FakeClients) -> None:
    with connected(fake) as connection:
        channel = connection.channel()
        channel.queue_declare("q")
        channel.basic_qos(0, 5, False)
        parents: list[object] = []
        channel.basic_consume("q", callback=parents.append)
        producer = connection.Producer()
        producer.publish({}, routing_key="q")
        connection.drain_events(timeout=10)

        def consume() -> None:
            unlock(fake)
            found: list[Any] = []
            channel.basic_consume("q", callback=found.append)
            producer.publish({}, routing_key="q")
            connection.drain_events(timeout=10)
            found[0].ack()
            connection.close()
            # What the parent holds is left to it.
            [left] = fake.queues.queue("q").messages
            assert left.is_in_flight(fake.clock())

        in_child(consume)


def test_a_child_of_a_child_keeps_what_both_inherited() -> None:
    clients = Clients(make_settings())
    touched: list[str] = []

    class Pool:
        def __del__(self) -> None:
            touched.append("finalized")

    clients._made["sqs"] = Pool()

    def fork_again() -> None:
        clients._made["sqs"] = object()

        def check() -> None:
            gc.collect()
            assert not touched

        in_child(check)

    in_child(fork_again)
