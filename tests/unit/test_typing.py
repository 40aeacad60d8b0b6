"""What mypy says of handlers and publishes: nothing about tests/typing/good.py, the marked errors of bad.py."""

import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

import kombu_hake

ROOT = Path(kombu_hake.__file__).parents[1]
SAMPLES = Path(__file__).parents[1] / "typing"
_MARK = "  # E: "
_ERROR = re.compile(r"^(\S+\.py):(\d+): error: (.*)  \[([\w-]+)\]$")
#: Code and text of each error, by file and line.
Errors = dict[tuple[str, int], list[tuple[str, str]]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Errors:
    """What mypy finds in the samples."""
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "--no-error-summary", "--show-error-codes"]
    command += ["--cache-dir", str(tmp_path_factory.mktemp("mypy")), "good.py", "bad.py"]
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    done = subprocess.run(command, cwd=SAMPLES, env=environment, capture_output=True, text=True, check=False)
    assert not done.stderr
    errors: Errors = defaultdict(list)
    for line in done.stdout.splitlines():
        if error := _ERROR.match(line):
            errors[error[1], int(error[2])].append((error[4], error[3]))
        else:
            assert ": note: " in line, line
    return errors


def test_right_uses_have_no_error(found: Errors) -> None:
    assert not [place for place in found if place[0] != "bad.py"]


def test_wrong_uses_have_the_errors_that_are_marked(found: Errors) -> None:
    marked = {}
    for number, line in enumerate((SAMPLES / "bad.py").read_text(encoding="utf-8").splitlines(), 1):
        if marks := line.split(_MARK)[1:]:
            marked["bad.py", number] = [tuple(mark.split(": ", 1)) for mark in marks]
    assert set(found) == set(marked)
    for place, expected in marked.items():
        assert [code for code, _ in found[place]] == [code for code, _ in expected], (place, found[place])
        for (_, text), (_, words) in zip(found[place], expected, strict=True):
            assert words in text, place
