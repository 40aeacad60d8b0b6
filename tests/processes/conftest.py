import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.demo import Demo


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    demo = Demo(tmp_path)
    yield demo
    for pid in demo.descendants():
        os.kill(pid, signal.SIGKILL)
    demo.process.communicate()
