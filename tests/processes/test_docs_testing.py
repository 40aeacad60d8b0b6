"""The examples in docs/testing.md run as they stand."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("code", EXAMPLES, ids=range(len(EXAMPLES)))
def test_example_runs(code: str, tmp_path: Path) -> None:
    module = tmp_path / "test_example.py"
    module.write_text(code)
    run = ["-m", "pytest", "-q", "-p", "no:cacheprovider"] if "def test_" in code else []
    command = [sys.executable, *run, module]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
