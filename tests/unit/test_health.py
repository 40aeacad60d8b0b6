"""The health file: what is stuck and what only waits, how the file is written, and what a probe makes of it."""

import json
import os
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import FakeClock, eventually
from hypothesis import given
from hypothesis import strategies as st
from test_forksafe import in_child

from kombu_hake import health as reading
from kombu_hake.aws import Pulse, Vital, Wait, waits_until
from kombu_hake.config import Settings
from kombu_hake.exceptions import ConfigurationError
from kombu_hake.health import Health, Stuck, main, read
from kombu_hake.worker import health
from kombu_hake.worker.health import CONNECT_S, DEAD_S, TURN_S, HealthFile, Judge, Watch

NOW = 1_800_000_000.0


# --- what is stuck


class Bench:
    """Parts with a clock of their own."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.until: dict[int, float] = {}
        self.judge = Judge(self.clock, self.until.get)

    def part(self, name: str = "the event loop", *, is_alive: bool = True) -> Vital:
        return Vital(name, Pulse(self.clock), is_alive)

    def stuck(self, *parts: Vital, busy: Vital | None = None) -> list[tuple[str, float]]:
        return [(part.name, since) for part, since in self.judge.stuck(parts, TURN_S, busy)]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_part_that_turns_is_never_stuck(bench: Bench) -> None:
    loop = bench.part()
    for _ in range(120):  # ten minutes of an idle worker
        bench.clock.advance(5.0)
        loop.pulse.beat()
        assert bench.stuck(loop) == []


def test_a_part_that_does_not_turn_is_stuck_within_a_minute_since_its_last_turn(bench: Bench) -> None:
    loop, poller = bench.part(), bench.part("the poller of queue email")
    for _ in range(6):
        bench.clock.advance(5.0)
        loop.pulse.beat()
        assert bench.stuck(loop, poller) == []
    bench.clock.advance(5.0)
    loop.pulse.beat()
    assert bench.stuck(loop, poller) == [("the poller of queue email", 35.0)]


def test_the_part_that_is_stuck_the_longest_comes_first(bench: Bench) -> None:
    first = bench.part("first")
    bench.clock.advance(10.0)
    second = bench.part("second")
    bench.clock.advance(40.0)
    assert bench.stuck(second, first) == [("first", 50.0), ("second", 40.0)]


def test_a_thread_that_waits_is_in_order_until_the_limit_of_its_wait(bench: Bench) -> None:
    poller = bench.part()
    thread = poller.pulse.last[1]
    # Two minutes of a black hole: request after request, each silent until its time limit.
    for _ in range(4):
        bench.until[thread] = bench.clock() + 90.0
        for _ in range(6):
            bench.clock.advance(5.0)
            assert bench.stuck(poller) == []
        poller.pulse.beat()
    # A request that outlives its limit.
    bench.until[thread] = bench.clock() + 90.0
    for _ in range(18):
        bench.clock.advance(5.0)
        assert bench.stuck(poller) == []
    for _ in range(6):
        bench.clock.advance(5.0)
        assert bench.stuck(poller) == []
    bench.clock.advance(5.0)
    assert [name for name, _ in bench.stuck(poller)] == [poller.name]


def test_after_a_wait_a_thread_has_the_time_of_one_turn(bench: Bench) -> None:
    poller = bench.part()
    bench.until[poller.pulse.last[1]] = 1_000_000.0
    bench.clock.advance(500.0)
    assert bench.stuck(poller) == []
    bench.until.clear()
    bench.clock.advance(TURN_S)
    assert bench.stuck(poller) == []
    bench.clock.advance(1.0)
    assert bench.stuck(poller) == [(poller.name, TURN_S + 1)]


def test_a_part_that_is_busy_is_in_order(bench: Bench) -> None:
    loop, poller = bench.part(), bench.part("the poller of queue email")
    for _ in range(24):  # two minutes
        bench.clock.advance(5.0)
        poller.pulse.beat()
        assert bench.stuck(loop, poller, busy=loop) == []
    bench.clock.advance(TURN_S + 1)
    poller.pulse.beat()
    assert bench.stuck(loop, poller) == [(loop.name, TURN_S + 1)]


def test_a_thread_that_has_ended_gets_the_time_to_be_replaced(bench: Bench) -> None:
    poller = bench.part(is_alive=False)
    assert bench.stuck(poller) == []
    bench.clock.advance(DEAD_S - 1)
    assert bench.stuck(poller) == []
    assert bench.stuck(poller._replace(is_alive=True)) == []
    assert bench.stuck(poller) == []
    bench.clock.advance(DEAD_S)
    assert bench.stuck(poller) == [(poller.name, DEAD_S)]


def test_a_thread_that_ended_in_a_wait_does_not_wait(bench: Bench) -> None:
    poller = bench.part(is_alive=False)
    bench.until[poller.pulse.last[1]] = 1_000_000.0
    bench.stuck(poller)
    bench.clock.advance(DEAD_S)
    assert bench.stuck(poller) == [(poller.name, DEAD_S)]


# --- waits


def test_waits_nest_and_end() -> None:
    me = threading.get_ident()
    assert waits_until(me) is None
    with Wait(100.0):
        outer = waits_until(me)
        with Wait(1.0):
            inner = waits_until(me)
        assert waits_until(me) == outer
    assert waits_until(me) is None
    assert inner is not None
    assert outer is not None
    assert inner < outer


def test_a_wait_ends_with_an_error() -> None:
    with pytest.raises(ZeroDivisionError), Wait(100.0):
        raise ZeroDivisionError
    assert waits_until(threading.get_ident()) is None


# --- the file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "w1.health"


def test_what_is_written_is_read_again(path: Path) -> None:
    stuck = (Stuck("the event loop", NOW - 40, "shop.py:1 f"),)
    written = Health("w1@host", 17, "stuck", 3, stuck)
    assert HealthFile(str(path)).write(written.dumps(), NOW - 40)
    found = read(str(path), now_s=NOW)
    assert found == written
    assert found.age_s == 40
    assert path.stat().st_mtime == NOW - 40
    assert os.listdir(path.parent) == [path.name]


def test_it_is_replaced_as_a_whole_and_does_not_follow_links(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("keep")
    path.symlink_to(other)
    (tmp_path / f".{path.name}.{os.getpid()}.tmp").symlink_to(other)  # a trap, or left behind by a process of this pid
    assert HealthFile(str(path)).write("new", NOW)
    assert other.read_text() == "keep"
    assert not path.is_symlink()
    assert path.read_text() == "new"


def test_a_path_that_cannot_be_written_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = HealthFile(str(tmp_path / "missing" / "w1.health"))
    assert not file.write("x", NOW)
    assert not file.write("x", NOW)
    assert [record.message[:7] for record in caplog.records] == ["HAKE720"]
    assert f"there is no folder {tmp_path / 'missing'}: create it before the worker starts" in caplog.text
    file.remove()
    (tmp_path / "missing").mkdir()
    assert file.write("x", NOW)


def test_a_folder_in_its_place_is_not_touched(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.mkdir()
    assert not HealthFile(str(path)).write("x", NOW)
    assert path.is_dir()
    assert os.listdir(path.parent) == [path.name]
    assert "HAKE720" in caplog.text


def test_two_workers_with_one_file_are_logged_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one, other = HealthFile(str(path)), HealthFile(str(path))
    one.write("1", NOW)
    for _ in range(3):
        other.write("2", NOW)
        one.write("1", NOW)
    assert sorted(record.message[:7] for record in caplog.records) == ["HAKE722", "HAKE722"]  # one line of each


def test_only_its_own_file_is_removed(path: Path) -> None:
    old, new = HealthFile(str(path)), HealthFile(str(path))
    old.write("old", NOW)
    new.write("new", NOW)
    old.remove()
    assert path.exists()
    new.remove()
    assert not path.exists()
    new.remove()


# --- the probe


@pytest.mark.parametrize(
    ("written", "age_s", "code", "text"),
    [
        (Health("w1@host", 17, "ok", 3), 0, 0, "healthy: w1@host (pid 17) is ok"),
        (Health("w1@host", 17, "starting"), 44, 0, "healthy: w1@host (pid 17) is starting"),
        (Health("w1@host", 17, "stopping"), 5, 0, "healthy: w1@host (pid 17) is stopping"),
        (Health("w1@host", 17, "ok", 3), 46, 2, "has not renewed its file for 46 s"),
        (Health("w1@host", 17, "ok", 3), -3600, 2, "ahead of the clock"),
        (
            Health("w1@host", 17, "stuck", 3, (Stuck("the event loop", 1_800_000_000.0),)),
            41,
            2,
            "unhealthy: the event loop of w1@host (pid 17) has made no progress since 2027-01-15 08:00:00 UTC",
        ),
    ],
)
def test_the_probe_tells_by_its_exit_code_and_says_why(
    path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    written: Health,
    age_s: float,
    code: int,
    text: str,
) -> None:
    HealthFile(str(path)).write(written.dumps(), NOW - age_s)
    monkeypatch.setattr(reading.time, "time", lambda: NOW)
    assert main([str(path)]) == code
    assert text in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["--help"]])
def test_the_probe_without_one_path_explains_itself(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 1
    assert capsys.readouterr().err.startswith("Usage: ")


def test_no_file_is_no_red_worker(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(path)]) == 1
    assert "There is no file" in capsys.readouterr().err


def test_a_pipe_or_a_folder_is_not_waited_for(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(path)
    assert main([str(path)]) == 1
    assert main([str(path.parent)]) == 1
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert "is not a file" in capsys.readouterr().err


def test_a_folder_in_its_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{tmp_path} is not a file"):
        read(str(tmp_path))


GOOD: dict[str, Any] = json.loads(Health("w1@host", 17, "stuck", 3, (Stuck("a", 1.0),)).dumps())
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=5), inside, max_size=3),
    max_leaves=5,
)
ANY_FILE = (
    st.binary(max_size=200)
    | JSON.map(lambda found: json.dumps(found).encode())
    | st.tuples(st.sampled_from(sorted(GOOD)), JSON).map(lambda pair: json.dumps({**GOOD, pair[0]: pair[1]}).encode())
    | st.tuples(st.sampled_from(["part", "since", "where"]), JSON).map(
        lambda pair: json.dumps({**GOOD, "stuck": [{**GOOD["stuck"][0], pair[0]: pair[1]}]}).encode()
    )
)


@given(content=ANY_FILE)
def test_whatever_the_file_holds_the_probe_answers_with_plain_lines(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "hostile.health"
    path.write_bytes(content)
    try:
        found = read(str(path))
    except ValueError:
        return
    assert all(line.isprintable() for line in str(found).splitlines())
    json.dumps(found.as_dict())


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"version": 1, "pid": ' + b"9" * 60_000 + b"}", b"x" * 70_000])
def test_a_file_that_is_made_to_hurt_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not a health file"):
        read(str(path))


# --- a worker


class Worker:
    """As much of Celery's ``WorkController`` as is looked at."""

    def __init__(self, pool: str = "celery.concurrency.prefork") -> None:
        self.hostname = "w1@host"
        self.pool = type("TaskPool", (), {"__module__": pool})()
        self.clock = FakeClock()
        self.loop = Vital("the event loop", Pulse(self.clock))
        self.transport = SimpleNamespace(vitals=lambda: [self.loop])
        self.consumer = SimpleNamespace(connection=None, controller=self)

    def consume(self, watch: Watch) -> None:
        self.transport = _Transport(self.loop)
        self.consumer.connection = SimpleNamespace(_transport=self.transport)
        watch.consumes_with(self.transport)


class _Transport:
    def __init__(self, loop: Vital) -> None:
        self.loop = loop
        self.settings = Settings()

    def vitals(self) -> list[Vital]:
        return [self.loop]


@pytest.fixture
def worker() -> Worker:
    return Worker()


def watch_of(worker: Worker, path: Path) -> Watch:
    judge = Judge(worker.clock, lambda thread: None)
    return Watch(worker, HealthFile(str(path)), Pulse(worker.clock), judge)


def look(watch: Watch, path: Path) -> Health:
    watch.look()
    return read(str(path))


def test_a_worker_that_connects_may_take_its_time_but_has_to_try(worker: Worker, path: Path) -> None:
    watch = watch_of(worker, path)
    for _ in range(10):
        assert look(watch, path).state == "starting"
        worker.clock.advance(CONNECT_S - 1)
        watch._connection.pulse.beat()
    worker.clock.advance(CONNECT_S + 1)
    found = look(watch, path)
    assert [one.part for one in found.stuck] == ["the connection to AWS"]
    assert not found.is_healthy


def test_a_worker_that_consumes_is_judged_by_its_parts(
    worker: Worker, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watch = watch_of(worker, path)
    worker.consume(watch)
    assert look(watch, path) == Health("w1@host", os.getpid(), "ok", 1)
    worker.clock.advance(TURN_S + 1)
    found = look(watch, path)
    assert found.state == "stuck"
    assert found.age_s > TURN_S  # for a probe that knows only the time stamp
    assert "kombu_hake.worker.health" in found.stuck[0].where
    look(watch, path)
    assert caplog.text.count("HAKE721") == 1
    worker.loop.pulse.beat()
    assert look(watch, path).is_healthy


def test_a_worker_that_connects_again_is_not_judged_by_its_old_parts(worker: Worker, path: Path) -> None:
    watch = watch_of(worker, path)
    worker.consume(watch)
    worker.consumer.connection = None
    worker.clock.advance(TURN_S + 1)
    assert look(watch, path).state == "starting"
    worker.consumer.connection = SimpleNamespace(_transport=object())  # connected, and not ready
    assert look(watch, path).state == "starting"


@pytest.mark.parametrize(
    ("pool", "is_healthy"), [("celery.concurrency.solo", True), ("celery.concurrency.prefork", False)]
)
def test_a_task_excuses_the_loop_where_it_runs_in_it(
    path: Path, monkeypatch: pytest.MonkeyPatch, pool: str, is_healthy: bool
) -> None:
    worker = Worker(pool)
    watch = watch_of(worker, path)
    worker.consume(watch)
    from celery.worker import state

    monkeypatch.setattr(state, "active_requests", {object()})
    worker.clock.advance(120.0)
    assert look(watch, path).is_healthy is is_healthy
    monkeypatch.setattr(state, "active_requests", set())
    worker.clock.advance(TURN_S + 1)
    assert not look(watch, path).is_healthy


def test_a_worker_that_stops_is_not_judged(worker: Worker, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = watch_of(worker, path)
    worker.consume(watch)
    worker.clock.advance(1_000.0)
    monkeypatch.setattr(health.state, "is_stopping", lambda: True)
    found = look(watch, path)
    assert (found.state, found.is_healthy) == ("stopping", True)


@pytest.fixture
def process() -> Iterator[None]:
    """This process is no worker, before and after."""
    health._stop()
    yield
    health._stop()


@pytest.mark.usefixtures("process")
def test_only_a_process_that_celery_calls_a_worker_writes(worker: Worker, path: Path) -> None:
    settings = Settings(health_file=str(path.parent / "%n-%h.health"))
    written = path.parent / "w1-host.health"
    health.connecting(settings)  # a producer, beat, or a command
    assert not list(path.parent.iterdir())
    health.on_init(worker)
    health.connecting(Settings())
    assert not list(path.parent.iterdir())
    health.connecting(settings)
    assert read(str(written)).state == "starting"
    health.connecting(settings)
    health._stop()
    assert not list(path.parent.iterdir())


@pytest.mark.usefixtures("process")
def test_without_the_signal_a_worker_writes_once_it_is_ready(worker: Worker, path: Path) -> None:
    transport = _Transport(worker.loop)
    transport.settings = Settings(health_file=str(path))
    worker.consumer.connection = SimpleNamespace(_transport=transport)
    health.on_ready(worker.consumer, transport)
    assert path.exists()


@pytest.mark.usefixtures("process")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_process_of_the_pool_neither_writes_nor_removes_it(worker: Worker, path: Path) -> None:
    health.on_init(worker)
    health.connecting(Settings(health_file=str(path)))
    first = path.stat().st_ino
    eventually(lambda: path.stat().st_ino != first)  # by the thread, which writes no more within five seconds

    def child() -> None:
        health.connecting(Settings(health_file=str(path.parent / "child.health")))
        health._stop()

    in_child(child)
    assert os.listdir(path.parent) == [path.name]


# --- the option


@pytest.mark.parametrize("value", ["/run/celery/%n.health", "/run/%h/worker", "/x/100%%"])
def test_a_path_with_celerys_abbreviations_is_accepted(value: str) -> None:
    from kombu_hake.config.options import OPTIONS

    assert OPTIONS["health_file"].parse(value) == value


@pytest.mark.parametrize("value", ["w1.health", "", "/", "/run/", "/run/%x", "/run/100%", "/run/a\0b", "/run/a\nb", 7])
def test_a_path_that_would_fail_later_is_refused(value: Any) -> None:
    from kombu_hake.config import load, split_url

    with pytest.raises(ConfigurationError, match="health_file"):
        load(split_url("hake://"), {"health_file": value}, {})


def test_the_reader_imports_nothing_heavy() -> None:
    assert "celery" not in {name.partition(".")[0] for name in vars(sys.modules["kombu_hake.health"])}
