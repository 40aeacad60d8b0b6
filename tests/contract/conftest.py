"""The legs of the contract, and the table of test by leg at the end of a run."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import nullcontext
from uuid import uuid4

import pytest
from aws_leg.account import Account
from contract.broker import Broker, wait_for_changes
from contract.features import AWS, LEGS, SOMETIMES, STAND_INS, Features
from kombu.transport import memory
from support.standin import StandIn

#: The real account of `make aws`, and then the only leg.
ACCOUNT = Account.handed_over()
_RUN = LEGS if ACCOUNT is None else {AWS.leg: AWS}
_SIGNS = {"passed": "ok", "failed": "FAILED", "error": "ERROR", "skipped": "-", "xfailed": "known"}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*what): what a leg must be able to do (see contract/features.py)")


@pytest.fixture(params=_RUN)
def leg(request: pytest.FixtureRequest) -> str:
    """Runs the test once for each leg."""
    return request.param


@pytest.fixture
def features(leg: str, request: pytest.FixtureRequest) -> Features:
    """What the leg can do; skips the test where that is not enough."""
    features = _RUN[leg]
    for mark in request.node.iter_markers("needs"):
        for what in mark.args:
            if what in features.lacks:
                pytest.skip(f"{leg} lacks {what.name}: {features.lacks[what]}")
    known = features.known_fault(request.node.originalname)
    if known:
        request.node.add_marker(pytest.mark.xfail(reason=known, strict=known not in SOMETIMES))
    return features


@pytest.fixture
def stand_in(leg: str) -> Iterator[StandIn]:
    """An account of its own for each test, so that none uses up the budget of another."""
    with StandIn(STAND_INS[leg]) as stand_in:
        stand_in.fake.act_before("publish", "publish_batch")
        with stand_in.taken_for_aws() if leg == "slow" else nullcontext():
            yield stand_in


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Account:
    """The real account, in a namespace of its own. The runner removes what the test makes."""
    assert ACCOUNT is not None
    if not ACCOUNT.is_runner_alive():
        pytest.exit(f"The runner is gone. Remove what is left: make aws ARGS='--clean {ACCOUNT.run}'", returncode=1)
    if ACCOUNT.settle_s:
        wait_for_changes(monkeypatch, ACCOUNT.settle_s)
    return ACCOUNT.in_namespace(uuid4().hex[:8])


@pytest.fixture
def broker(leg: str, features: Features, request: pytest.FixtureRequest) -> Iterator[Broker]:
    """The leg, empty at first."""
    if leg == "memory":
        memory.Transport.global_state.clear()
        memory.Channel.queues.clear()
        emulator = None
    elif leg == AWS.leg:
        emulator = request.getfixturevalue("account")
    elif leg in STAND_INS:
        emulator = request.getfixturevalue("stand_in")
    else:
        emulator = request.getfixturevalue(leg).in_namespace(f"c{uuid4().hex[:8]}")
    broker = Broker(features, emulator)
    try:
        yield broker
    finally:
        broker.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    rows: dict[tuple[str, int, str], dict[str, str]] = defaultdict(dict)
    reasons: dict[str, int] = {}
    for outcome in _SIGNS:
        for report in terminalreporter.stats.get(outcome, ()):
            leg = dict(getattr(report, "user_properties", ())).get("leg")
            if "contract/" not in report.nodeid or leg not in _RUN:
                continue
            file, line, _ = report.location
            name = _without_leg(report.nodeid.rpartition("::")[2], leg)
            rows[file, line, name][leg] = _sign(outcome, report, reasons)
    if not rows:
        return
    terminalreporter.section("contract: test by leg")
    width = max(len(name) for _, _, name in rows)
    terminalreporter.line(f"{'':{width}}  " + "".join(f"{leg:12}" for leg in _RUN))
    for (_, _, name), signs in sorted(rows.items()):
        terminalreporter.line(f"{name:{width}}  " + "".join(f"{signs.get(leg, ''):12}" for leg in _RUN))
    for reason, number in reasons.items():
        terminalreporter.line(f"({number}) {reason}")


def _sign(outcome: str, report: pytest.TestReport, reasons: dict[str, int]) -> str:
    if outcome != "skipped":
        return _SIGNS[outcome]
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return f"- ({reasons.setdefault(reason.removeprefix('Skipped: '), len(reasons) + 1)})"


def _without_leg(name: str, leg: str) -> str:
    """``test_x[moto-order.*]`` as ``x [order.*]``."""
    function, _, parameters = name.removeprefix("test_").removesuffix("]").partition("[")
    rest = "-".join(part for part in parameters.split("-") if part != leg) if parameters else ""
    return f"{function.replace('_', ' ')} [{rest}]" if rest else function.replace("_", " ")
