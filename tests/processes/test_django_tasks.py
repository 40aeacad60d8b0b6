"""Tasks of ``django.tasks`` in a real worker with a pool of processes, as a project has it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.celery_workers import Worker, wait_until
from support.pages import DOCS, blocks

from kombu_hake.testing import EmbeddedAWS

django = pytest.importorskip("django")
if django.VERSION < (6,):
    pytest.skip("needs Django 6", allow_module_level=True)

PROJECT = {
    "manage.py": """
import os, sys
from django.core.management import execute_from_command_line
os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"
execute_from_command_line(sys.argv)
""",
    "shop/__init__.py": "from shop.celery import app as celery_app\n",
    "shop/settings.py": """
import os
SECRET_KEY = "of this test"
INSTALLED_APPS = ["kombu_hake.contrib.django", "orders"]
TASKS = {"default": {"BACKEND": "kombu_hake.contrib.django.CeleryBackend", "QUEUES": ["default", "urgent"]}}
CELERY_BROKER_URL = os.environ["TEST_BROKER"]
CELERY_RESULT_BACKEND = os.environ["TEST_RESULTS"]
CELERY_TASK_ACKS_LATE = CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_TASK_QUEUE_MAX_PRIORITY = 9
""",
    "shop/celery.py": """
import os
from celery import Celery
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
app = Celery("shop")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
""",
    "orders/__init__.py": "",
    "orders/tasks.py": """
import os, signal
from django.tasks import task

@task
def add(a, b):
    return a + b

@task(queue_name="urgent", priority=100)
async def slowly(text):
    return {"text": text}

@task
def fail(text):
    raise LookupError(text)

@task(takes_context=True)
def die_once(context):
    if context.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return context.attempt
""",
    "client.py": """
import datetime, json, os, time
os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"
import django
django.setup()
from django.tasks import default_task_backend
from django.utils import timezone
from orders import tasks

soon = timezone.now() + datetime.timedelta(seconds=2)
sent = {
    "add": tasks.add.enqueue(1, 2),
    "later": tasks.add.using(run_after=soon).enqueue(3, 4),
    "slowly": tasks.slowly.enqueue("x"),
    "fail": tasks.fail.enqueue("no hake"),
    "die_once": tasks.die_once.enqueue(),
}
found = {}
while len(found) < len(sent):
    for name, result in sent.items():
        result = default_task_backend.get_result(result.id)
        if result.is_finished and name not in found:
            found[name] = {
                "status": result.status,
                "value": result.return_value if result.status == "SUCCESSFUL" else None,
                "errors": [error.exception_class_path for error in result.errors],
                "attempts": result.attempts,
                "after": result.started_at >= soon,
            }
    time.sleep(0.05)
print(json.dumps(found))
""",
}


@pytest.fixture
def project(hake_aws: EmbeddedAWS, tmp_path: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """The folder of the project, and the environment of its processes."""
    for name, text in PROJECT.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "results").mkdir()
    hake_aws.reset()
    yield tmp_path, os.environ | {"TEST_BROKER": hake_aws.url, "TEST_RESULTS": f"file://{tmp_path}/results"}
    hake_aws.reset()


@pytest.mark.timeout(180)
def test_a_worker_runs_the_tasks_of_a_project(project: tuple[Path, dict[str, str]]) -> None:
    folder, environment = project
    checked = subprocess.run(
        [sys.executable, "manage.py", "check"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert checked.stdout == "System check identified no issues (0 silenced).\n", checked.stderr
    log = folder / "worker.log"
    command = ["-m", "celery", "-A", "shop", "worker", "-Q", "celery,urgent", "-c", "2", "-l", "INFO"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=folder, env=environment, stdout=output, stderr=output,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    worker = Worker("worker", process, log)
    try:
        wait_until(lambda: " ready." in log.read_text(), log.read_text)
        done = subprocess.run(
            [sys.executable, "client.py"], cwd=folder, env=environment, capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr + log.read_text()
        found = json.loads(done.stdout)
    finally:
        for pid in worker.descendants():
            os.kill(pid, signal.SIGKILL)
        process.wait()
    ok = {"status": "SUCCESSFUL", "errors": [], "attempts": 1}
    assert {name: {key: each[key] for key in ok} for name, each in found.items()} == {
        "add": ok,
        "later": ok,
        "slowly": ok,
        "fail": {"status": "FAILED", "errors": ["builtins.LookupError"], "attempts": 1},
        "die_once": ok | {"attempts": 2},
    }
    assert [found[name]["value"] for name in ("add", "later", "slowly", "die_once")] == [3, 7, {"text": "x"}, 2]
    assert found["later"]["after"]
    assert "orders.tasks.add" in log.read_text()


def test_the_tasks_of_the_page_are_sent_where_it_says(hake_aws: EmbeddedAWS, tmp_path: Path) -> None:
    for block in blocks(DOCS / "django.md", "python"):
        name = block.code.partition("\n")[0].removeprefix("# ")
        if name.endswith(".py"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(block.code)
    hake_aws.reset()
    code = "import asyncio; from orders import views; views.subscribe('me'); asyncio.run(views.count('one two'))"
    environment = os.environ | {
        "AWS_ENDPOINT_URL": hake_aws.endpoint_url,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "docs",
        "AWS_SECRET_ACCESS_KEY": "docs",
        "DJANGO_SETTINGS_MODULE": "shop.settings",
    }
    done = subprocess.run(
        [sys.executable, "-c", f"import django; django.setup(); {code}"], cwd=tmp_path, env=environment,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert queued(hake_aws, "live__emails") == (0, 1)
    assert queued(hake_aws, "live__celery") == (1, 0)
    hake_aws.reset()


def queued(aws: EmbeddedAWS, queue: str) -> tuple[int, int]:
    """How many messages can be received from a queue, and how many SQS delays."""
    sqs = aws.client("sqs")
    url = sqs.get_queue_url(QueueName=queue)["QueueUrl"]
    found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    return int(found["ApproximateNumberOfMessages"]), int(found["ApproximateNumberOfMessagesDelayed"])
