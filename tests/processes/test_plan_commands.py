"""``celery -A shop hake plan`` and ``apply`` on the app of the demo, as its reader runs them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest
from support.celery_workers import stage
from support.demo import DEMO_PROJECT
from support.emulators import Emulator
from support.faults import FAULTS
from support.standin import StandIn

WRITES = (
    "create_queue", "delete_queue", "set_queue_attributes", "tag_queue", "untag_queue", "create_topic", "tag_resource",
    "set_subscription_attributes", "set_topic_attributes", "unsubscribe",
)  # fmt: skip


def hake(url: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"SHOP_BROKER_URL": url, "SHOP_DEBUG": "1"}
    return subprocess.run(
        [sys.executable, "-m", "celery", "-A", "shop", "hake", *arguments],
        cwd=DEMO_PROJECT, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_from_nothing_to_all_that_the_demo_declares(moto: Emulator) -> None:
    namespace = f"demo{uuid4().hex[:6]}"
    url = moto.url(namespace)
    planned = hake(url, "plan", "--json")
    assert planned.returncode == 2, planned.stderr
    changes = json.loads(planned.stdout)["changes"]
    assert f"{namespace}__orders" in {one["name"] for one in changes if one["what"] == "topic"}
    applied = hake(url, "apply")
    assert applied.returncode == 0, applied.stderr
    lines = applied.stdout.splitlines()
    assert lines[-1] == f"{len(changes)} changes made, nothing deleted."
    again = hake(url, "plan")
    assert (again.returncode, again.stdout) == (0, "Nothing to apply: AWS has all that the app declares.\n")


def test_each_fault_in_the_queues_of_the_demo_is_named_and_mended() -> None:
    tests = Path(__file__).parents[1]
    path = os.pathsep.join(map(str, (DEMO_PROJECT, tests, tests.parent)))
    done = subprocess.run(
        [sys.executable, "-m", "support.demo_faults"],
        cwd=DEMO_PROJECT, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) >= len(FAULTS) - 2
    assert [text for text in found.values() if text] == []


@pytest.mark.slow
def test_worker_that_starts_after_apply_writes_nothing_about_what_was_applied(tmp_path: Path) -> None:
    with StandIn() as aws, stage(aws.url(), tmp_path) as found:
        command = ["-m", "celery", "-A", "apps.groups", "hake", "apply"]
        assert found.python(*command).splitlines()[-1].endswith("changes made, nothing deleted.")
        aws.fake.calls.clear()
        worker = found.start("apps.groups", "-P", "solo")
        assert aws.fake.count("receive_message")
        worker.stop()
        written = [call for call in aws.fake.calls if call[0] in WRITES]
        assert [call for call in written if "pidbox" not in str(call) and "celeryev" not in str(call)] == []
        assert found.python(*command).splitlines() == ["Nothing to apply: AWS has all that the app declares."]
