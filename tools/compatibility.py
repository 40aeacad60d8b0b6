"""Run a selection of the tests on several versions of Python, kombu, Celery and boto3, and write what happened into
docs/compatibility.md: ``make compatibility``.

Each leg has a virtual environment of its own. A leg whose Python is not on this machine is listed as untested. With
``--leg`` one leg runs with the Python of this process, and nothing is written: the CI workflow does so.
"""

from __future__ import annotations

import argparse
import configparser
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "compatibility.md"
BEGIN, END = "<!-- compatibility:begin -->", "<!-- compatibility:end -->"
HEAD = ("| Python | kombu | Celery | boto3 | result | date |", "|---|---|---|---|---|---|")
TIMEOUT_S = 1_800
#: pytest's exit status for failed tests; any other one than this and 0 means that the run itself failed.
TESTS_FAILED = 1
#: What the selected tests import beyond the package and its extras.
TOOLS = ("pytest>=8", "pytest-timeout>=2.3", "pytest-xdist>=3.6", "hypothesis>=6.100", "pydantic>=2")
#: What is short and touches kombu, Celery and boto3: messages, workers and requests; the contract; a real worker that
#: publishes, retries, fails and dead-letters.
SELECTION = (
    *(
        f"tests/unit/test_{name}.py"
        for name in (
            "envelope", "event_models", "event_types", "golden_messages", "groups", "groups_worker", "internals",
            "messages", "plugin", "transport", "wire", "worker",
        )
    ),
    "tests/contract/test_contract_consuming.py",
    "tests/contract/test_contract_producers.py",
    "tests/processes/test_celery_event_types.py",
)  # fmt: skip
#: Of the contract's legs only the fake, which is as strict as AWS and needs no emulator.
EXPRESSION = "not (contract and (memory or moto or ministack or slow))"


class Leg(NamedTuple):
    """Versions that are tested together.

    Attributes:
        python: Minor version, such as ``3.12``.
        celery: Minor version of kombu and of Celery.
        boto3: ``floor``, the oldest that setup.cfg allows, or ``latest``.
    """

    python: str
    celery: str
    boto3: str

    def __str__(self) -> str:
        return f"py{self.python}-celery{self.celery}-boto3-{self.boto3}"


#: Each series of kombu and Celery, each Python with the oldest and the newest of them, and the oldest of everything.
LEGS = (
    Leg("3.10", "5.4", "floor"),
    Leg("3.10", "5.7", "latest"),
    Leg("3.11", "5.4", "latest"),
    Leg("3.11", "5.5", "latest"),
    Leg("3.11", "5.6", "latest"),
    Leg("3.11", "5.7", "floor"),
    Leg("3.12", "5.4", "latest"),
    Leg("3.12", "5.7", "latest"),
    Leg("3.13", "5.4", "latest"),
    Leg("3.13", "5.7", "latest"),
    Leg("3.14", "5.7", "latest"),
)


class Outcome(NamedTuple):
    """A row of the table."""

    leg: Leg
    versions: dict[str, str]
    result: str
    is_failed: bool


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="compatibility", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--environments", type=Path, default=ROOT / ".venv-compatibility", metavar="FOLDER")
    parser.add_argument("--only", default="", metavar="TEXT", help="run the legs whose name contains TEXT")
    parser.add_argument("--leg", nargs=2, metavar=("CELERY", "BOTO3"), help="one leg with this Python")
    parser.add_argument("--install-only", action="store_true", help="make the environments, run nothing")
    options = parser.parse_args(arguments)
    if options.leg:
        legs = [Leg("{}.{}".format(*sys.version_info), *options.leg)]
        pythons = {legs[0].python: sys.executable}
    else:
        legs = [leg for leg in LEGS if options.only in str(leg)]
        pythons = {python: found for python in {leg.python for leg in legs} if (found := find_python(python))}
    is_failed = False
    for leg in legs:
        outcome = run(leg, pythons.get(leg.python), options.environments, options.install_only)
        is_failed |= outcome.is_failed
        sys.stdout.write(f"{leg}: {outcome.result} {outcome.versions}\n")
        sys.stdout.flush()
        if not (options.leg or options.install_only):  # after each leg: what was run stays, whatever comes next
            today = datetime.now(timezone.utc).strftime("%Y-%m-%d")
            PAGE.write_text(with_row(PAGE.read_text(encoding="utf-8"), outcome, today), encoding="utf-8")
    return int(is_failed)


def find_python(minor: str) -> str | None:
    """The interpreter of a minor version: on PATH, or one of pyenv's."""
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    candidates = [*sorted(root.glob(f"versions/{minor}.*/bin/python"), reverse=True), shutil.which(f"python{minor}")]
    for candidate in filter(None, candidates):
        found = _output([str(candidate), "-c", "import sys; print('{}.{}'.format(*sys.version_info))"])
        if found == minor:
            return str(candidate)
    return None


def run(leg: Leg, python: str | None, environments: Path, install_only: bool = False) -> Outcome:
    """One leg: its environment, and the tests in it."""
    if python is None:
        return Outcome(leg, {}, f"untested: no Python {leg.python} on this machine", False)
    environment = environments / str(leg)
    if (fault := _install(leg, python, environment)) is not None:
        return Outcome(leg, {}, f"cannot be installed: {fault}", True)
    interpreter = environment / "bin" / "python"
    versions = _versions(interpreter)
    if install_only:
        return Outcome(leg, versions, "installed", False)
    report = environment / "report.xml"
    report.unlink(missing_ok=True)
    command = [str(interpreter), "-m", "pytest", *SELECTION, "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
    # Of a dependency's deprecated calls, older versions have more than the newest ones; nothing is fixed there.
    command += ["-k", EXPRESSION, "-W", "default::DeprecationWarning", "--numprocesses=2"]
    command += ["--dist=loadgroup", "-W", "default::PendingDeprecationWarning"]
    try:
        status = subprocess.run(command, cwd=ROOT, env=_environment(), timeout=TIMEOUT_S, check=False).returncode
    except subprocess.TimeoutExpired:
        return Outcome(leg, versions, f"failed: not finished after {TIMEOUT_S} s", True)
    if status not in (0, TESTS_FAILED) or not report.exists():
        return Outcome(leg, versions, f"failed: pytest ended with status {status}", True)
    passed, failed = _counts(report)
    result = f"{passed} passed" if not failed else f"**{failed} failed**, {passed} passed"
    return Outcome(leg, versions, result, bool(status))


def row(outcome: Outcome, today: str) -> str:
    """A row of the page's table."""
    leg, versions, result, _ = outcome
    planned = {"python": leg.python, "kombu": f"{leg.celery}.x", "celery": f"{leg.celery}.x", "boto3": leg.boto3}
    cells = [*(planned | versions).values(), result, today if versions else ""]
    return f"| {' | '.join(cells)} |"


def with_row(text: str, outcome: Outcome, today: str) -> str:
    """The page with another row for a leg between the markers. A leg that never ran is listed as untested.

    Raises:
        ValueError: it has no markers.
    """
    before, begin, rest = text.partition(BEGIN)
    table, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE} needs the lines {BEGIN} and {END}")
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]  # in the order of the legs
    if len(rows) != len(LEGS):
        rows = [row(Outcome(leg, {}, "untested", False), "") for leg in LEGS]
    rows[LEGS.index(outcome.leg)] = row(outcome, today)
    return "\n".join([f"{before}{begin}", *HEAD, *rows, f"{end}{after}"])


def _install(leg: Leg, python: str, environment: Path) -> str | None:
    """Make the environment unless it is there already; returns the last line of the error if that fails."""
    stamp = environment / "installed"
    series = [f"{name}=={leg.celery}.*" for name in ("kombu", "celery")]
    wanted = [f"{ROOT}[celery,testing]", *series, *_boto3(leg), *TOOLS]
    if stamp.exists() and stamp.read_text(encoding="utf-8").split("\n") == wanted:
        return None
    shutil.rmtree(environment, ignore_errors=True)
    environment.parent.mkdir(parents=True, exist_ok=True)
    interpreter = environment / "bin" / "python"
    pip = [str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    steps = [
        [python, "-m", "venv", str(environment)],
        [*pip, "--editable", *wanted],
    ]
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
            return lines[-1][:200]
    stamp.write_text("\n".join(wanted), encoding="utf-8")
    return None


def _boto3(leg: Leg) -> Iterator[str]:
    if leg.boto3 != "floor":
        return
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    found = re.search(r"^boto3>=([\d.]+)$", config["options"]["install_requires"], re.MULTILINE)
    if found is None:
        raise ValueError("setup.cfg has no lowest version of boto3")
    # boto3 alone would come with the newest botocore of its series.
    yield from (f"{name}=={found[1]}.0" for name in ("boto3", "botocore"))


def _versions(interpreter: Path) -> dict[str, str]:
    code = (
        "import platform; from importlib.metadata import version; "
        "print(platform.python_version(), *map(version, ('kombu', 'celery', 'boto3')))"
    )
    found = _output([str(interpreter), "-c", code]).split()
    return dict(zip(("python", "kombu", "celery", "boto3"), found, strict=True))


def _counts(report: Path) -> tuple[int, int]:
    """(passed, failed) of pytest's report; skipped tests, those of legs that lack a feature, count for neither."""
    suites = ElementTree.parse(report).getroot().iter("testsuite")
    passed = failed = 0
    for suite in suites:
        bad = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        passed += int(suite.get("tests", 0)) - bad - int(suite.get("skipped", 0))
        failed += bad
    return passed, failed


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONHOME", "VIRTUAL_ENV", "CI")}
    return {**kept, "PYTHONPATH": str(ROOT)}


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
