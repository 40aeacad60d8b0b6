"""No mutated message, tag, policy, filter, name, URL or answer raises what is not documented, or takes a second.

``HAKE_FUZZ_EXAMPLES=100000`` tries so many; ``HAKE_FUZZ_SEED`` makes others. A failure names target, number and seed:
``python -m hostile.fuzz --target … --seed … --only …`` in ``tests/`` tries that case alone.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.emulators import ROOT

from hostile.fuzz import TARGETS

EXAMPLES = int(os.environ.get("HAKE_FUZZ_EXAMPLES", "4000"))
SEED = os.environ.get("HAKE_FUZZ_SEED", "1")
#: A case that hangs ends the process that tries it; so many are reported.
MAX_HANGS = 5


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("target", list(TARGETS))
def test_no_case_raises_what_is_not_documented_or_hangs(target: str, tmp_path: Path) -> None:
    count = max(1, round(EXAMPLES * TARGETS[target][1]))
    progress = tmp_path / "progress"
    lines: list[str] = []
    first = 0
    for _ in range(MAX_HANGS):
        done = subprocess.run(
            [
                *(sys.executable, "-m", "hostile.fuzz", "--target", target, "--examples", str(count)),
                *("--seed", SEED, "--first", str(first), "--progress", str(progress)),
            ],
            cwd=ROOT / "tests",
            env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
            capture_output=True,
            text=True,
            check=False,
        )
        lines += done.stdout.splitlines()
        if any("cases" in json.loads(line) for line in done.stdout.splitlines()):
            break
        hung = int(progress.read_text())
        error = f"it ended the process:\n{done.stderr[-2000:]}"
        lines.append(json.dumps({"target": target, "number": hung, "error": error}))
        first = hung + 1
    found = [json.loads(line) for line in lines if "error" in json.loads(line)]
    assert not found, f"{len(found)} of {count} cases, seed {SEED}:\n" + summary(found)


def summary(failures: list[dict[str, Any]]) -> str:
    """One line for each kind of failure: how many, the number of one of them, and its error."""
    kinds: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for failure in failures:
        error = str(failure["error"])
        kinds.setdefault((error.partition(":")[0], error.rpartition(" at ")[2]), []).append(failure)
    ordered = sorted(kinds.values(), key=len, reverse=True)
    return "\n".join(f"{len(kind):6} like {kind[0]['number']}: {kind[0]['error']}" for kind in ordered)
