"""The demo's project on queues and topics that infrastructure code made of its export, with ``topology=assume``."""

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.demo import DEMO_PROJECT
from support.emulators import Emulator
from support.terraform import Terraform
from support.workers import until

GROUPS = "email,inventory,analytics,fraud"
ORDERS = 2


def deploy(aws: Emulator, form: str, document: dict[str, Any]) -> None:
    if form == "terraform":
        Terraform(document, aws.client("sqs"), aws.client("sns")).apply()
        return
    stacks = aws.client("cloudformation")
    stacks.create_stack(StackName=aws.namespace, TemplateBody=json.dumps(document))
    waiter = stacks.get_waiter("stack_create_complete")
    waiter.wait(StackName=aws.namespace, WaiterConfig={"Delay": 0.1, "MaxAttempts": 300})


def handled(database: Path) -> int:
    with closing(sqlite3.connect(database)) as connection:
        query = "SELECT count(*) FROM orders_order WHERE is_reserved AND is_counted AND risk IS NOT NULL"
        return int(connection.execute(query).fetchone()[0])


@pytest.mark.parametrize(
    ("leg", "form"),
    [
        pytest.param("moto", "terraform", id="terraform"),
        pytest.param("ministack", "cloudformation", id="cloudformation", marks=pytest.mark.slow),
    ],
)
def test_groups_run_on_what_was_deployed(aws: Emulator, form: str, tmp_path: Path) -> None:
    account = aws.client("sts").get_caller_identity()["Account"]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(DEMO_PROJECT.parent), os.environ.get("PYTHONPATH", "")])),
        "SHOP_DEBUG": "1",
        "SHOP_DATABASE": str(tmp_path / "shop.sqlite3"),
        "SHOP_BROKER_URL": aws.url(topology="assume", account_id=account, wait_time_seconds=1),
        "C_FORCE_ROOT": "1",
    }

    def run(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=DEMO_PROJECT, env=environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    hake = ("-m", "celery", "-A", "shop", "hake")
    deploy(aws, form, json.loads(run(*hake, "export", form, *(["--no-import"] if form == "terraform" else []))))
    run(*hake, "plan")
    run("manage.py", "migrate", "--verbosity", "0")
    run("manage.py", "place_orders", str(ORDERS))
    log = tmp_path / "log"
    with log.open("wb") as output:
        worker = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "shop", "worker", "-P", "solo", "-Q", GROUPS],
            cwd=DEMO_PROJECT, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        until(lambda: handled(tmp_path / "shop.sqlite3") == ORDERS, log.read_text)
    finally:
        worker.terminate()
        worker.wait(30)
