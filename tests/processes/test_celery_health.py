"""The health file of real workers: red when a part is stuck, green in everything that passes by itself."""

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.celery_workers import Stage, Worker, client, stage, wait_until
from support.emulators import Emulator
from support.proxy import Proxy
from support.proxy_rules import Rule

from kombu_hake.health import Health, main, read

SLOW = pytest.mark.slow
RELEASE = pytest.mark.release


class Probed:
    """A worker of ``apps.stuck`` and its health file."""

    def __init__(self, on_stage: Stage, folder: Path, proxy: Proxy) -> None:
        self.stage = on_stage
        self.proxy = proxy
        self.path = folder / "w1.health"
        self.part = folder / "stuck"
        self.worker: Worker | None = None

    def start(self, *options: str, real_limits: bool = False, ready: bool = True) -> Worker:
        limits = {"REAL_LIMITS": "1"} if real_limits else {}
        self.worker = self.stage.start(
            "apps.stuck", *options, ready=ready, environment={"STUCK": str(self.part), **limits}
        )
        return self.worker

    def health(self) -> Health | None:
        try:
            return read(str(self.path))
        except FileNotFoundError:
            return None

    def is_red(self) -> bool:
        found = self.health()
        return found is not None and not found.is_healthy

    def wait_for(self, state: str) -> Health:
        wait_until(lambda: getattr(self.health(), "state", "") == state, lambda: f"{state}: {self.health()}")
        found = self.health()
        assert found is not None
        return found

    def stays_green(self, seconds: float) -> None:
        """The one thing that cannot be waited for: that nothing happens."""
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at:
            found = self.health()
            assert found is not None
            assert found.is_healthy, f"{found}\n{self.worker.log[-3000:] if self.worker else ''}"
            time.sleep(0.05)


@pytest.fixture
def probed(aws: Emulator, proxy: Proxy, tmp_path: Path) -> Iterator[Probed]:
    seen = replace(aws, port=int(proxy.endpoint_url.rpartition(":")[2]))
    options = {"wait_time_seconds": 2, "read_timeout": 3, "health_file": str(tmp_path / "%n.health")}
    with stage(seen.url(**options), tmp_path) as found:
        yield Probed(found, tmp_path, proxy)


@pytest.mark.timeout(150)
def test_a_blocked_event_loop_turns_it_red_and_a_clean_stop_removes_it(
    probed: Probed, capsys: pytest.CaptureFixture[str]
) -> None:
    worker = probed.start("-P", "prefork", "-c", "1")
    found = probed.wait_for("ok")
    assert (found.node, found.pid) == ("w1@test", worker.process.pid)
    assert found.parts >= 2  # the event loop and a poller
    assert main([str(probed.path)]) == 0
    probed.part.write_text("loop")
    stuck = probed.wait_for("stuck").stuck
    assert [one.part for one in stuck] == ["the event loop"]
    assert "block_loop" in stuck[0].where
    assert time.time() - probed.path.stat().st_mtime > 5, "the time stamp is when it turned last"
    assert main([str(probed.path)]) == 2
    assert "the event loop of w1@test" in capsys.readouterr().out
    assert worker.log.count("HAKE721") == 1
    probed.part.unlink()
    probed.wait_for("ok")
    client(probed.stage).send_task("handle", [1])
    probed.stage.runs.wait_for(1)
    worker.stop()
    assert not probed.path.exists()
    assert list(probed.path.parent.glob("*.tmp")) == []


@SLOW
@pytest.mark.timeout(150)
@pytest.mark.parametrize("what", ["killed", "poller"])
def test_a_poller_that_has_ended_or_is_stuck_turns_it_red(probed: Probed, what: str) -> None:
    worker = probed.start("-P", "solo")
    probed.wait_for("ok")
    probed.part.write_text(what)
    stuck = probed.wait_for("stuck").stuck
    assert [one.part for one in stuck] == ["the poller of queue celery"]
    assert ("has ended" if what == "killed" else "_poll") in stuck[0].where
    probed.part.unlink()
    probed.wait_for("ok")  # another poller is started
    client(probed.stage).send_task("handle", [1])
    probed.stage.runs.wait_for(1)
    worker.stop()


@SLOW
@pytest.mark.timeout(150)
@pytest.mark.parametrize("pool", ["solo", "threads", "gevent"])
def test_a_long_task_and_an_empty_queue_leave_it_green(probed: Probed, pool: str) -> None:
    worker = probed.start("-P", pool, "-c", "1")
    probed.wait_for("ok")
    client(probed.stage).send_task("sleep", [1, 9.0])  # longer than a part may need for a turn
    probed.stage.runs.wait_for(1, event="start")
    probed.stays_green(8.0)
    probed.stage.runs.wait_for(1, event="end")
    probed.stays_green(7.0)
    worker.stop()
    assert not probed.path.exists()


@SLOW
@pytest.mark.timeout(200)
def test_a_black_hole_leaves_it_green(probed: Probed) -> None:
    worker = probed.start("-P", "prefork", "-c", "1")
    probed.wait_for("ok")
    probed.proxy.rules = [Rule("black_hole")]
    probed.stays_green(15.0)
    probed.proxy.rules = []
    client(probed.stage).send_task("handle", [1])
    probed.stage.runs.wait_for(1)
    probed.stays_green(1.0)
    worker.stop()


@SLOW
@pytest.mark.timeout(150)
def test_a_worker_that_starts_in_an_outage_is_starting_and_green(probed: Probed) -> None:
    probed.proxy.rules = [Rule("status", status=503)]
    worker = probed.start("-P", "prefork", "-c", "1", ready=False)
    probed.wait_for("starting")
    probed.stays_green(5.0)
    probed.proxy.rules = []
    probed.wait_for("ok")
    worker.stop()


@SLOW
@pytest.mark.timeout(150)
def test_a_killed_worker_leaves_a_file_that_is_old_and_the_next_one_replaces_it(probed: Probed) -> None:
    worker = probed.start("-P", "prefork", "-c", "1")
    old = probed.wait_for("ok")
    worker.kill()
    assert probed.path.exists()
    assert not read(str(probed.path), now_s=time.time() + 60).is_healthy
    worker = probed.start("-P", "prefork", "-c", "1")
    wait_until(lambda: (found := probed.health()) is not None and found.pid != old.pid, "the new file")
    worker.stop()
    assert not probed.path.exists()


@SLOW
@pytest.mark.timeout(150)
def test_only_workers_write_it(probed: Probed, tmp_path: Path) -> None:
    probed.stage.python("-m", "celery", "-A", "apps.plain", "call", "handle", "--args", "[1]")
    assert not list(tmp_path.glob("*.health"))


@pytest.fixture
def at_real_length(aws: Emulator, proxy: Proxy, tmp_path: Path) -> Iterator[Probed]:
    """With the limits and time-outs that users have."""
    seen = replace(aws, port=int(proxy.endpoint_url.rpartition(":")[2]))
    with stage(seen.url(health_file=str(tmp_path / "%n.health")), tmp_path) as found:
        yield Probed(found, tmp_path, proxy)


@RELEASE
@pytest.mark.timeout(1_100)
@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_a_black_hole_an_idle_queue_and_a_long_task_leave_it_green_at_real_length(
    at_real_length: Probed, pool: str
) -> None:
    probed = at_real_length
    worker = probed.start("-P", pool, "-c", "1", real_limits=True)
    probed.wait_for("ok")
    probed.proxy.rules = [Rule("black_hole")]
    probed.stays_green(120.0)
    probed.proxy.rules = []
    probed.stays_green(600.0)
    client(probed.stage).send_task("sleep", [1, 120.0])
    probed.stage.runs.wait_for(1, event="start")
    probed.stays_green(119.0)
    probed.stage.runs.wait_for(1, event="end")
    probed.stays_green(10.0)
    worker.stop()


@RELEASE
@pytest.mark.timeout(400)
@pytest.mark.parametrize("part", ["killed", "poller", "loop"])
def test_what_is_stuck_turns_it_red_within_a_minute_at_real_length(at_real_length: Probed, part: str) -> None:
    probed = at_real_length
    worker = probed.start("-P", "prefork", "-c", "1", real_limits=True)
    probed.wait_for("ok")
    probed.part.write_text(part)
    mark = probed.path.with_name("began")
    if part != "loop":  # the poll that is open returns first; it takes twenty seconds
        wait_until(mark.exists, "the poller to be stuck")
    began = time.monotonic()
    wait_until(probed.is_red, lambda: str(probed.health()), 100.0)
    took_s = time.monotonic() - began
    assert took_s < 60.0
    print(f"{part}: red after {took_s:.0f} s")
    probed.part.unlink()
    wait_until(lambda: not probed.is_red(), lambda: str(probed.health()))
    worker.stop()


def test_a_probe_takes_a_fraction_of_celerys_start(tmp_path: Path) -> None:
    path = tmp_path / "w1.health"
    path.write_text(Health("w1@test", 1).dumps())
    code = "import sys; from kombu_hake.health import main; print(main(sys.argv[1:])); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[:2] == ["healthy: w1@test (pid 1) is ok", "0"]
    assert not {"celery", "boto3", "botocore"} & set(done.stdout.split())
