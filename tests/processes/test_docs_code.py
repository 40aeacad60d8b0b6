"""The Python in README.md and docs/ runs as it stands, on an embedded AWS; the README's examples with real workers.

The blocks of a page run one after the other in one process. A block whose first line is a comment with a file name,
such as ``# shop.py`` or ``# orders/tasks.py``, becomes that file. For a block marked ``<!-- django -->`` Django is set
up as in ``manage.py shell``, with the page's ``settings.py`` at the end of what ``startproject`` writes; a page without
one is about a project that uses Celery already. One marked ``<!-- not run: … -->`` has a test of its own, as has
docs/testing.md, which is about pytest.
"""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from support.pages import DOCS, README, blocks, page_id
from support.pages import PAGES as ALL_PAGES

from kombu_hake.testing import EmbeddedAWS

COMMANDS = re.compile(r"^<!-- run: (\w+) -->\n```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [page for page in ALL_PAGES if blocks(page, "python") and page.name != "testing.md"]
PATIENCE_S = 60.0

#: Runs the blocks of a page so that a traceback has the line of the page.
RUNNER = """
import os, re, sys
from pathlib import Path

page, text = sys.argv[1], Path(sys.argv[1]).read_text()
space = {"__name__": "__main__"}


STARTED = '''
SECRET_KEY = "of a test"
INSTALLED_APPS = []
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
'''


def set_up_django():
    import django
    from django.core.management import call_command

    settings = list(Path().glob("*/settings.py"))
    if not settings:
        Path("project_settings.py").write_text(STARTED + 'CELERY_BROKER_URL = "hake:///mysite"')
    os.environ["DJANGO_SETTINGS_MODULE"] = f"{settings[0].parent.name}.settings" if settings else "project_settings"
    django.setup()
    if not settings:
        from celery import Celery

        space["project"] = Celery("mysite")
        space["project"].config_from_object("django.conf:settings", namespace="CELERY")
    call_command("migrate", run_syncdb=True, verbosity=0)


for block in re.finditer(r"^(<!-- [^\\n]* -->\\n)?```python\\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
    named = re.match(r"# ([\\w/]+\\.py)\\n", block[2])
    if named:
        path = Path(named[1])
        path.parent.mkdir(exist_ok=True, parents=True)
        for folder in list(path.parents)[:-1]:
            (folder / "__init__.py").touch()
        path.write_text(STARTED + block[2] if path.name == "settings.py" else block[2])
        sys.modules.pop(".".join(path.with_suffix("").parts), None)
        continue
    mark = block[1] or ""
    if "not run" in mark:
        continue
    if "django" in mark and "django" not in sys.modules:
        set_up_django()
    lines_before = text.count("\\n", 0, block.start(2))
    exec(compile("\\n" * lines_before + block[2], page, "exec"), space)
"""


@pytest.fixture
def environment(hake_aws: EmbeddedAWS) -> Iterator[dict[str, str]]:
    """What makes ``hake://``, as the pages have it, mean the embedded AWS."""
    hake_aws.reset()
    yield os.environ | {
        "AWS_ENDPOINT_URL": hake_aws.endpoint_url,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "docs",
        "AWS_SECRET_ACCESS_KEY": "docs",
        "AWS_EC2_METADATA_DISABLED": "true",
        "PYTHONUNBUFFERED": "1",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
    hake_aws.reset()


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_the_blocks_of_a_page_run(page: Path, environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "run_page.py").write_text(RUNNER)
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "run_page.py", str(page)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def worker(command: str, folder: Path, environment: dict[str, str]) -> Iterator[Path]:
    """A Celery worker by the page's command, quick to start; yields its log when it is ready."""
    log = folder / f"{uuid4().hex}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [*shlex.split(command), "--pool", "solo"],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(log, " ready.", process)
        yield log
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(log: Path, text: str, process: "subprocess.Popen[bytes] | None" = None) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while text not in log.read_text():
        assert process is None or process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, f"{text!r} not in\n{log.read_text()}"
        time.sleep(0.05)


@contextmanager
def workers(commands: list[str], folder: Path, environment: dict[str, str]) -> Iterator[list[Path]]:
    """Workers by the page's commands; yields their logs when all are ready."""
    with ExitStack() as stack:
        yield [stack.enter_context(worker(command, folder, environment)) for command in commands]


def example(page: Path, folder: Path) -> dict[str, list[str]]:
    """Write a page's ``shop.py``; returns the commands of its marked blocks, by mark."""
    [code] = [block.code for block in blocks(page, "python") if block.code.startswith("# shop.py\n")]
    (folder / "shop.py").write_text(code)
    return {what: text.strip().splitlines() for what, text in COMMANDS.findall(page.read_text())}


def send(command: str, folder: Path, environment: dict[str, str]) -> None:
    subprocess.run(shlex.split(command), cwd=folder, env=environment, timeout=PATIENCE_S, check=True)


def test_the_readme_start_needs_no_account(environment: dict[str, str], tmp_path: Path) -> None:
    commands = example(README, tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    ready = f"until python -c 'import socket; socket.create_connection((\"127.0.0.1\", {port}))' 2>&-; do :; done"
    (tmp_path / "look.py").write_text(
        "from shop import app\nprint(app.connection().default_channel.queue_declare('celery', passive=True))"
    )
    start = "\n".join(commands["aws"]).replace("4100", port)
    script = "\n".join([start, ready, *commands["send"], "python look.py", "kill %1"])
    bare = {name: value for name, value in environment.items() if not name.startswith("AWS_") or "METADATA" in name}
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=bare, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert "message_count=1" in done.stdout, done.stdout + done.stderr


def test_the_readme_start_runs_a_task_and_an_event_in_every_group(environment: dict[str, str], tmp_path: Path) -> None:
    commands = example(README, tmp_path)
    [command] = commands["worker"]
    with worker(command, tmp_path, environment) as log:
        for sender in commands["send"]:
            send(sender, tmp_path, environment)
        for text in ("the sum is 5", "email handles order 7", "analytics handles order 7"):
            wait_for(log, text)
            assert log.read_text().count(text) == 1


def test_the_tutorial_runs_a_task_and_an_event_in_every_group(environment: dict[str, str], tmp_path: Path) -> None:
    page = DOCS / "tutorial-celery.md"
    commands = example(page, tmp_path)
    [code] = [block.code for block in blocks(page, "python") if block.code.startswith("from shop import build_report")]
    (tmp_path / "send.py").write_text(code)
    with workers(commands["workers"], tmp_path, environment) as (tasks, email, inventory):
        send("python send.py", tmp_path, environment)
        for log, text in ((tasks, "report for 2026"), (email, "receipt for order 7"), (inventory, "stock for order 7")):
            wait_for(log, text)
