"""The demo: it proves what it claims, says so when it cannot, and leaves nothing behind."""

import signal
import socket
import sys
from collections import Counter

import pytest
from support.demo import DEMO_PROJECT, Demo

from kombu_hake.testing import EmbeddedAWS

GROUPS = ("email", "inventory", "analytics", "fraud")


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(DEMO_PROJECT))
    from show.stage import report

    return report


needs_proc = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc")


@needs_proc
@pytest.mark.slow  # as `make demo ARGS=--check`
def test_every_group_runs_every_order_once(demo: Demo) -> None:
    demo.start("--check", "--orders", "4")
    exit_code, output = demo.finish()
    assert exit_code == 0, output
    assert ["total", "4", "4", "4", "4"] in [line.split() for line in output.splitlines()]
    assert "Every group ran every order exactly once: 4 x 4 = 16 runs" in output
    assert "tried again: email 0, inventory 0, analytics 0, fraud 1." in output
    assert demo.descendants() == []
    assert list(demo.temporary.iterdir()) == []


@needs_proc
@pytest.mark.parametrize(
    ("moment", "signum"),
    [
        ("embedded AWS at", signal.SIGTERM),
        pytest.param("workers ready", signal.SIGINT, marks=pytest.mark.slow),
    ],
)
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
    assert {log.name for log in logs.iterdir()} == {f"{group}-1.log" for group in GROUPS}
    assert demo.descendants() == []


@needs_proc
def test_a_broker_of_the_users_is_used_and_left_as_it_was(demo: Demo, hake_aws: EmbeddedAWS) -> None:
    sqs, sns = hake_aws.client("sqs"), hake_aws.client("sns")
    sqs.create_queue(QueueName="email")
    demo.start("--check", "--orders", "1", "--broker", hake_aws.in_namespace("").url)
    exit_code, output = demo.finish()
    assert exit_code == 0, output
    assert "embedded AWS" not in output
    assert f"@127.0.0.1:{hake_aws.port}/shop-demo-" in output
    assert [url.rpartition("/")[2] for url in sqs.list_queues()["QueueUrls"]] == ["email"]
    assert sns.list_topics()["Topics"] == []
    assert sns.list_subscriptions()["Subscriptions"] == []


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(DEMO_PROJECT))
    from show.__main__ import parse

    return parse


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--port 0", "'0' is not a whole number from 1 to 65535"),
        ("--port eighty", "'eighty' is not a whole number"),
        ("--orders -1", "'-1' is not a whole number from 0 to 1000"),
        ("--pace nan", "'nan' is not a number from 0 to 100"),
        ("--broker sqs://key:secret@host", "'sqs://key:**@host' is not a hake:// URL"),
        ("--broker hake://?regoin=eu-west-1", "did you mean 'region'"),
        ("--check --port 8000", "--port configures the page"),
        ("--check --pace 2", "--pace configures the page"),
        ("--check --orders 0", "--check needs at least 1 order"),
        ("--timeout 5", "--timeout goes with --check"),
        ("--chekc", "unrecognized arguments: --chekc"),
    ],
)
def test_bad_options_are_named(parse, capsys: pytest.CaptureFixture[str], options: str, said: str) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(options.split())
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_a_port_that_is_taken_is_said_before_anything_starts(demo: Demo) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        demo.start("--port", str(port))
        exit_code, output = demo.finish()
    assert exit_code == 1
    assert output.startswith(f"port {port} of 127.0.0.1 can't be had")
    assert list(demo.temporary.iterdir()) == []


def test_a_broker_that_does_not_answer_is_said(demo: Demo) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closing:
        port = closing.getsockname()[1]
    demo.start("--broker", f"hake://k:hidden@127.0.0.1:{port}?max_attempts=1&connect_timeout=1")
    exit_code, output = demo.finish()
    assert exit_code == 1
    assert f"FAILED: the broker hake://k:**@127.0.0.1:{port}/" in output
    assert "hidden" not in output
    assert "may be left" not in output
    assert demo.descendants() == []
    assert list(demo.temporary.iterdir()) == []


def test_one_run_of_each_is_no_fault(report) -> None:
    assert report.faults(Counter([(1, "email"), (2, "email")]), [1, 2], ["email"]) == []


def test_missing_double_and_foreign_runs_are_faults(report) -> None:
    runs = Counter([(1, "email"), (1, "email"), (9, "email"), (1, "stock")])
    assert report.faults(runs, [1, 2], ["email", "stock"]) == [
        "email never ran order 2",
        "email ran order 1 2 times",
        "stock never ran order 2",
        "email ran order 9, which was not sent there",
    ]


def test_long_table_keeps_every_wrong_row(report) -> None:
    orders = range(1, 201)
    runs = Counter((order, "email") for order in orders if order != 150)
    rows = [line.split() for line in report.table(runs, orders, ["email"]).splitlines()]
    assert ["150", "0"] in rows
    assert ["151", "1"] not in rows
    assert ["total", "199"] in rows
