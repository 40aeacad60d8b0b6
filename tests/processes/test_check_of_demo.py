"""`celery -A shop hake check` as a user of the demo's project runs it."""

import json
import os
import subprocess
import sys

from support.demo import DEMO_PROJECT
from support.emulators import Emulator


def hake(aws: Emulator, *arguments: str) -> "subprocess.CompletedProcess[str]":
    path = os.pathsep.join(filter(None, [str(DEMO_PROJECT.parent), os.environ.get("PYTHONPATH", "")]))
    settings = {"SHOP_DEBUG": "1", "SHOP_BROKER_URL": aws.url(), "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, "-m", "celery", "-A", "shop", "hake", *arguments],
        cwd=DEMO_PROJECT, env=os.environ | settings, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_the_demo_is_sound_once_its_topology_is_applied(moto: Emulator) -> None:
    aws = moto.in_namespace("demo-check")
    before = hake(aws, "check")
    assert before.returncode == 2
    assert "ERROR topic-missing: Exchange 'orders' has no topic." in before.stdout
    assert "fix  celery -A shop hake apply" in before.stdout
    applied = hake(aws, "apply")
    assert applied.returncode == 0, applied.stderr
    after = hake(aws, "check", "--probe", "--json")
    assert after.returncode == 0, after.stdout
    found = json.loads(after.stdout)
    assert (found["clean"], found["findings"]) == (True, [])
    assert {probed["outcome"] for probed in found["probes"]} == {"delivered"}
    assert "queues wait for their message" in after.stderr
