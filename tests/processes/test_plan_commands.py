"""``celery -A shop hake plan`` and ``apply`` on the app of the demo, as its reader runs them."""

import json
import os
import subprocess
import sys
from uuid import uuid4

from support.demo import DEMO_PROJECT
from support.emulators import Emulator


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
