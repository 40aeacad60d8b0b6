"""Emulators, isolation from the developer's own AWS settings, and the count of tests per emulator."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import botocore.loaders
import hypothesis
import pytest
from aws_leg.account import Account
from support import loopback
from support.browser import Browser, BrowserMissing, open_browser
from support.emulators import LEGS, Emulator, EmulatorMissing, run_ministack, run_moto
from support.proxy import Proxy

# Before any test module is imported: whatever the developer has set up must neither be used nor be reached.
for name in list(os.environ):
    if name.startswith("AWS_") or name.lower().endswith("_proxy"):
        del os.environ[name]
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
os.environ["AWS_CONFIG_FILE"] = os.environ["AWS_SHARED_CREDENTIALS_FILE"] = os.devnull
#: The real account of `make aws`, which hands it over in a variable of its own; None in every other run.
ACCOUNT = Account.handed_over()
if ACCOUNT is not None:
    ACCOUNT.use()
loopback.install(ACCOUNT.hosts if ACCOUNT is not None else ())
# A background job of a shell ignores Ctrl-C, and so would every program that the tests start and end with it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says nothing on a machine that does other things too.
hypothesis.settings.register_profile("anywhere", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("anywhere")

NO_LEG = "no emulator"
#: Legs of the contract suite that need no emulator (contract/features.py).
STAND_INS = ("fake", "slow")
TESTS = Path(__file__).parent
SHORTEST_LAST = ("processes", "emulator", "contract", "unit")
#: Fixtures of modules that cost nothing to set up again in another process.
CHEAP_FIXTURES = {"_pools"}


@pytest.fixture(scope="session", autouse=True)
def _models_are_read_once() -> Iterator[None]:
    """Every test has options, and so botocore clients, of its own; reading the service models took half of the time."""
    loader = botocore.loaders.create_loader()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.loaders, "create_loader", lambda *_: loader)
        yield


@pytest.fixture(scope="session")
def moto() -> Iterator[Emulator]:
    """moto's server for the whole run."""
    with run_moto() as emulator:
        yield emulator


@pytest.fixture(scope="session")
def ministack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """ministack for the whole run; where it is missing, tests skip on a laptop and fail in CI."""
    try:
        with run_ministack(tmp_path_factory.mktemp("ministack") / "log") as emulator:
            yield emulator
    except EmulatorMissing as missing:
        _skip_or_fail(missing)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A real browser; where it is missing, tests skip on a laptop and fail in CI."""
    try:
        with open_browser(tmp_path_factory.mktemp("browser")) as found:
            yield found
            assert not found.outside, f"pages asked for what is not on this machine: {found.outside}"
    except BrowserMissing as missing:
        _skip_or_fail(missing)


def _skip_or_fail(missing: Exception) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(str(missing))
    pytest.skip(str(missing))


@pytest.fixture(params=LEGS)
def leg(request: pytest.FixtureRequest) -> str:
    """Runs the test once for each emulator: the name of the one it runs on."""
    return request.param


@pytest.fixture
def aws(leg: str, request: pytest.FixtureRequest) -> Emulator:
    """Each emulator in turn, in a namespace that no other test has used."""
    emulator: Emulator = request.getfixturevalue(leg)
    return emulator.in_namespace(f"t{uuid4().hex[:8]}")


@pytest.fixture
def proxy(aws: Emulator) -> Iterator[Proxy]:
    """What stands before the emulator and injects faults, none yet."""
    with Proxy(aws.endpoint_url) as found:
        yield found


@pytest.fixture(autouse=True)
def _stays_on_loopback() -> Iterator[None]:
    yield
    attempts, loopback.attempts[:] = list(loopback.attempts), []
    assert not attempts, f"tried to leave this machine: {attempts}"


def pytest_itemcollected(item: pytest.Item) -> None:
    if _uses_fixture_of_module(item):  # before pytest-xdist looks for the marker
        item.add_marker(pytest.mark.xdist_group(item.path.stem))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if ACCOUNT is not None and any(_leg_of(item) != "aws" for item in items):
        raise pytest.UsageError("On a real account only the contract suite runs: make aws.")
    items.sort(key=_start_rank)
    for item in items:
        leg_of_item = _leg_of(item)
        item.user_properties.append(("leg", leg_of_item))
        if leg_of_item == "ministack":
            item.add_marker(pytest.mark.ministack)


def _start_rank(item: pytest.Item) -> int:
    """Folders with long tests start first; the short ones at the end keep every process busy to the last."""
    folder = item.path.relative_to(TESTS).parts[0]
    return SHORTEST_LAST.index(folder) if folder in SHORTEST_LAST else -1


def _uses_fixture_of_module(item: pytest.Item) -> bool:
    """Such a fixture, for example two running workers, is set up once only if its tests stay in one process."""
    if not isinstance(item, pytest.Function):
        return False
    used = [definitions[-1] for definitions in item._fixtureinfo.name2fixturedefs.values()]
    return any(one.scope == "module" and one.argname not in CHEAP_FIXTURES for one in used)


def _leg_of(item: pytest.Item) -> str:
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    if "leg" in parameters:
        return str(parameters["leg"])
    fixtures = getattr(item, "fixturenames", ())
    if "ministack" in fixtures:
        return "ministack"
    # The demo and the public fixtures bring their own moto.
    if {"moto", "hake_aws", "hake_url", "demo", "shop"} & set(fixtures):
        return "moto"
    return NO_LEG


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    outcomes = ("passed", "failed", "error", "skipped")
    counts = Counter(
        (dict(report.user_properties).get("leg"), outcome)
        for outcome in outcomes
        for report in terminalreporter.stats.get(outcome, ())
        if hasattr(report, "user_properties")
    )
    terminalreporter.section("tests per emulator")
    for name in (*LEGS, *STAND_INS, NO_LEG) if ACCOUNT is None else ("aws",):
        terminalreporter.line(f"{name:12}" + ", ".join(f"{counts[name, each]} {each}" for each in outcomes))
