"""No mutated message, tag, policy, filter, name, URL or answer raises what is not documented, or takes a second.

``HAKE_FUZZ_EXAMPLES=100000`` tries so many; ``HAKE_FUZZ_SEED`` makes others. A failure names target, number and seed:
``python -m hostile.fuzz --target … --seed … --only …`` in ``tests/`` tries that case alone.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

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
    failures = [line for line in lines if "error" in json.loads(line)]
    assert not failures, f"{len(failures)} of {count} cases, seed {SEED}:\n" + "\n".join(failures[:20])
