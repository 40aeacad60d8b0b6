"""The demo: it proves what it claims, says so when it cannot, and leaves nothing behind."""

import signal
import sys
from collections import Counter

import pytest
from support.demo import DEMO_PROJECT, Demo


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(DEMO_PROJECT))
    from stage import report

    return report


needs_proc = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc")


@needs_proc
def test_every_group_runs_every_order_once(demo: Demo) -> None:
    demo.start("--check", "--orders", "4")
    exit_code, output = demo.finish()
    assert exit_code == 0, output
    assert ["total", "4", "4", "4"] in [line.split() for line in output.splitlines()]
    assert "Every group ran every order exactly once: 4 x 3 = 12 runs" in output
    assert demo.descendants() == []
    assert list(demo.temporary.iterdir()) == []


@needs_proc
@pytest.mark.parametrize("moment", ["embedded AWS at", "workers ready"])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signal_leaves_no_process_and_no_file(demo: Demo, moment: str, signum: signal.Signals) -> None:
    demo.start("--check", "--orders", "500")
    demo.read_until(moment)
    demo.process.send_signal(signum)
    exit_code, output = demo.finish()
    assert exit_code == 128 + signum, output
    assert demo.descendants() == []
    assert list(demo.temporary.iterdir()) == []


@needs_proc
def test_failure_says_what_is_missing_and_keeps_the_logs(demo: Demo) -> None:
    demo.start("--check", "--timeout", "0.5")
    exit_code, output = demo.finish()
    assert exit_code == 1
    assert "workers ready: not within" in output
    (logs,) = demo.temporary.iterdir()
    assert f"All logs are kept in {logs}" in output
    assert {log.name for log in logs.iterdir()} == {"email.log", "inventory.log", "analytics.log"}
    assert demo.descendants() == []


def test_one_run_of_each_is_no_fault(report) -> None:
    assert report.faults(Counter([(1, "email"), (2, "email")]), [1, 2], ["email"]) == []


def test_missing_double_and_foreign_runs_are_faults(report) -> None:
    runs = Counter([(1, "email"), (1, "email"), (9, "email"), (1, "stock")])
    assert report.faults(runs, [1, 2], ["email", "stock"]) == [
        "email never ran order 2",
        "email ran order 1 2 times",
        "stock never ran order 2",
        "email ran order 9, which nobody sent there",
    ]


def test_long_table_keeps_every_wrong_row(report) -> None:
    orders = range(1, 201)
    runs = Counter((order, "email") for order in orders if order != 150)
    rows = [line.split() for line in report.table(runs, orders, ["email"]).splitlines()]
    assert ["150", "0"] in rows
    assert ["151", "1"] not in rows
    assert ["total", "199"] in rows
