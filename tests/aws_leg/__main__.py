"""``make aws``: shows what it would do; with ``--yes``, does it and removes what it made."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType

import botocore
from botocore.exceptions import BotoCoreError, ClientError
from support import loopback

from aws_leg import account, plan, report
from aws_leg.lags import Lag, Rate
from aws_leg.measuring import LAGS_OF_TOPOLOGY, Measurements
from aws_leg.removal import is_run, new_run, remove
from kombu_hake import __version__

__all__ = ["main"]

ROOT = Path(__file__).parents[2]
OK, FAILED, NOT_READY, NO_CONSENT, NOT_REMOVED = 0, 1, 2, 3, 4
#: What AWS documents for policies; filters may take longer, but seldom do.
_SETTLE_S, _MOST_SETTLE_S = 60.0, 120.0
#: How long an emulator may take for anything.
_LOCAL_LONGEST_S = 20.0
#: AWS lists a queue late that was made just before; an emulator may still be making one when the tests are stopped.
_QUIET_S, _LOCAL_QUIET_S = 60.0, 1.0
_STOP_S = 5.0
_TEST_TIMEOUT_S = 3_600


class Interrupted(BaseException):
    """A signal asks to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Signals:
    """Turns the first signal that asks to stop into :class:`Interrupted`; the removal is not interrupted by others."""

    CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self._is_held = self._is_deferred = False
        self._pending: int | None = None

    def catch(self) -> None:
        for number in self.CAUGHT:
            signal.signal(number, self._stop)

    def hold(self) -> None:
        """From now on signals are only answered."""
        self._is_held = True

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """A signal within the block interrupts at its end."""
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = False
            if self._pending is not None:
                number, self._pending = self._pending, None
                self._stop(number, None)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self._is_held:
            say("Still removing what was made; please wait.")
        elif self._is_deferred:
            self._pending = number
        else:
            self._is_held = True
            raise Interrupted(number)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, 1 if a test failed, 2 without credentials, 3 without consent, 4 if something is left."""
    options = _parser().parse_args(arguments)
    if account.is_on_loopback(options.endpoint_url):
        os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
        loopback.install()
    try:
        opened = account.open_account(options.region, options.endpoint_url)
    except account.NotReady as exc:
        print(exc, file=sys.stderr)
        return NOT_READY
    if options.clean:
        signals = Signals()
        signals.hold()
        signals.catch()
        return _remove(opened, options.clean)
    run = new_run()
    parts = [plan.MEASURING] * (options.part != "contract") + [plan.CONTRACT] * (options.part != "measure")
    say(
        plan.text(
            parts,
            run=run,
            account_id=opened.account_id,
            arn=opened.arn,
            region=opened.region,
            endpoint_url=opened.endpoint_url,
        )
    )
    if not options.yes:
        say("\nNothing was made. To run it: make aws ARGS=--yes")
        return NO_CONSENT
    return _carry_out(opened, run, options)


def _carry_out(opened: account.Opened, run: str, options: argparse.Namespace) -> int:
    signals = Signals()
    status = OK
    say(f"\nIf this is killed, remove what it left: make aws ARGS='--clean {run}'\n")
    try:
        try:
            signals.catch()
            status = _work(opened, run, options, signals)
        finally:
            signals.hold()
    except Interrupted as exc:
        say(f"\nStopped by {signal.Signals(exc.number).name}.")
        status = 128 + exc.number
    except (ClientError, BotoCoreError) as exc:
        say(f"\nStopped: {exc}")
        status = FAILED
    finally:
        removed = _remove(opened, run)
    return removed or status


def _work(opened: account.Opened, run: str, options: argparse.Namespace, signals: Signals) -> int:
    lags: list[Lag] = []
    if options.part != "contract":
        rates: list[Rate] = []
        try:
            _measure(opened, run, options.longest, lags, rates)
        finally:
            if lags:
                say(f"\n{report.as_table(lags, rates)}\n")
                _write(options.json, opened, lags, rates)
    if options.part == "measure":
        return OK
    settle_s = _settle_s(opened, lags) if options.settle is None else options.settle
    return _contract(opened.for_tests(run, settle_s), options, signals)


def _measure(opened: account.Opened, run: str, longest_s: float | None, lags: list[Lag], rates: list[Rate]) -> None:
    if longest_s is None:
        longest_s = _LOCAL_LONGEST_S if opened.is_local else math.inf
    measurements = Measurements(opened.client("sqs"), opened.client("sns"), run, longest_s=longest_s, say=say)
    for lag in measurements.lags():
        lags.append(lag)
    for rate in measurements.tag_rates(opened.client("sqs", max_attempts=1)):
        rates.append(rate)


def _settle_s(opened: account.Opened, lags: Sequence[Lag]) -> float:
    """How long the contract waits until what was declared acts: half as long again as what was measured, if it was."""
    if opened.is_local:
        return 0.0
    measured = [lag.worst_s for lag in lags if lag.what in LAGS_OF_TOPOLOGY and lag.worst_s is not None]
    return min(_MOST_SETTLE_S, 1.0 + 1.5 * max(measured)) if measured else _SETTLE_S


def _contract(tests: account.Account, options: argparse.Namespace, signals: Signals) -> int:
    """Run the suite in processes of their own; 0 if all passed."""
    say(f"The contract waits {tests.settle_s:.0f} s after each change of topology.")
    command = [
        sys.executable, "-m", "pytest", str(ROOT / "tests" / "contract"), f"--numprocesses={options.processes}",
        "--dist=loadgroup", "-o", f"timeout={_TEST_TIMEOUT_S}",
        *(["-k", options.k] if options.k else []),
    ]  # fmt: skip
    environ = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    child: subprocess.Popen[bytes] | None = None
    try:
        with signals.deferred():
            # In a session of its own: Ctrl-C comes to this process alone, which ends the tests before it removes.
            child = subprocess.Popen(command, cwd=ROOT, env={**environ, **tests.handed_on()}, start_new_session=True)
        return OK if child.wait() == 0 else FAILED
    finally:
        if child is not None:
            _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the tests and all processes that they started, so that nothing is made after the removal."""
    for number in (signal.SIGINT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_STOP_S)


def _remove(opened: account.Opened, run: str) -> int:
    say(f"Removing all queues and topics of {run}" + ("." if opened.is_local else "; this takes a minute or two."))
    try:
        removed = remove(
            opened.client("sqs"), opened.client("sns"), run, quiet_s=_LOCAL_QUIET_S if opened.is_local else _QUIET_S
        )
    except (ClientError, BotoCoreError) as exc:
        say(f"Not all is removed: {exc}\nTo continue: make aws ARGS='--clean {run}'")
        return NOT_REMOVED
    say(f"Removed {removed.queues} queues and {removed.topics} topics.")
    return OK


def _write(path: Path | None, opened: account.Opened, lags: Sequence[Lag], rates: Sequence[Rate]) -> None:
    if path is None:
        return
    where = {
        "region": opened.region,
        "endpoint_url": opened.endpoint_url,
        "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "kombu_hake": __version__,
        "botocore": botocore.__version__,
    }
    path.write_text(json.dumps(report.as_json(where, lags, rates), indent=2) + "\n")


def say(line: str) -> None:
    """Print; whether anything still reads it must not decide about the removal."""
    with contextlib.suppress(OSError, ValueError):
        print(line, flush=True)


def _run_prefix(text: str) -> str:
    if not is_run(text):
        raise argparse.ArgumentTypeError("give the prefix that the run has printed: hakeleg- and ten characters")
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make aws ARGS=", description=__doc__)
    parser.add_argument("--yes", action="store_true", help="agree to what is shown without it")
    parser.add_argument("--part", choices=("measure", "contract"), help="only this part")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured to this file too")
    parser.add_argument("--region", help="default: that of the environment or the profile")
    parser.add_argument("--endpoint-url", help="an emulator, such as http://127.0.0.1:5000")
    parser.add_argument("--longest", type=float, metavar="SECONDS", help="wait no longer for any lag")
    parser.add_argument(
        "--settle", type=float, metavar="SECONDS", help="what the contract waits for changes; default: as measured"
    )
    parser.add_argument("--processes", type=int, default=4, help="processes of the contract (default: 4)")
    parser.add_argument("-k", metavar="EXPRESSION", help="only these tests of the contract")
    parser.add_argument(
        "--clean", type=_run_prefix, metavar="PREFIX", help="remove what the run of this prefix left; makes nothing"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
