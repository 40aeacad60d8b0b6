import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from kombu import pools
from support.celery_workers import Stage, stage
from support.demo import Demo
from support.emulators import Emulator


@pytest.fixture(params=["moto"])
def leg(request: pytest.FixtureRequest) -> str:
    """Workers take seconds to start, so one emulator does, but for tests that are parametrized with LEGS."""
    return str(request.param)


@pytest.fixture
def on_stage(aws: Emulator, tmp_path: Path) -> Iterator[Stage]:
    with stage(aws.url(), tmp_path) as found:
        yield found


@pytest.fixture(scope="module", autouse=True)
def _pools() -> Iterator[None]:
    """kombu's pools of connections outlive the app."""
    yield
    pools.reset()


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    demo = Demo(tmp_path)
    yield demo
    for pid in demo.descendants():
        os.kill(pid, signal.SIGKILL)
    demo.process.communicate()
