"""Web servers whose views publish: forking ones that load the site first, and Django's own that reloads it."""

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.celery_workers import Stage, Worker, wait_until
from support.emulators import Emulator

SITE = Path(__file__).parent / "apps" / "web_site.py"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def get(port: int) -> str:
    """The page; "" while nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", "/")
        answer = connection.getresponse()
        text = answer.read().decode()
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()
    assert answer.status == 200, text
    return text


@contextmanager
def server(on_stage: Stage, folder: Path, *arguments: str) -> Iterator[Worker]:
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=folder,
            env=on_stage.environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    found = Worker("server", process, log)
    try:
        yield found
    finally:
        for pid in found.descendants():
            os.kill(pid, signal.SIGKILL)
        process.wait()


def published(aws: Emulator) -> int:
    sqs = aws.client("sqs")
    url = sqs.get_queue_url(QueueName=f"{aws.namespace}__celery")["QueueUrl"]
    name = "ApproximateNumberOfMessages"
    return int(sqs.get_queue_attributes(QueueUrl=url, AttributeNames=[name])["Attributes"][name])


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", [pytest.param("sync", marks=pytest.mark.slow), "gthread", "gevent"])
def test_a_server_that_loads_the_site_and_then_forks(on_stage: Stage, aws: Emulator, tmp_path: Path, kind: str) -> None:
    port = free_port()
    preload = [] if kind == "gevent" else ["--preload"]  # gevent has to patch before anything is loaded
    options = ["-w", "2", "-k", kind, "--threads", "4", *preload, "-b", f"127.0.0.1:{port}", "--graceful-timeout", "5"]
    with server(on_stage, tmp_path, "-m", "gunicorn", *options, "apps.web_site:application") as running:
        wait_until(lambda: get(port), lambda: running.log, 60)
        already = 1 + (1 if preload else 2)  # that page, and what is published while the site is loaded
        wait_until(lambda: published(aws) == already, lambda: running.log)
        with ThreadPoolExecutor(8) as clients:
            pages = list(clients.map(lambda _: get(port), range(40)))
        assert all(pages), running.log
        assert published(aws) == already + 40
        # No thread is needed for publishing.
        assert {page.split()[1] for page in pages} == {"0"}
        running.signal(signal.SIGTERM)
        assert running.wait_for_end(20) == 0
        assert running.descendants() == []
        assert "Traceback" not in running.log, running.log


@pytest.mark.timeout(120)
def test_djangos_server_reloads_the_site_and_publishes_on(on_stage: Stage, aws: Emulator, tmp_path: Path) -> None:
    site = tmp_path / "my_site.py"
    shutil.copy(SITE, site)
    port = free_port()
    with server(on_stage, tmp_path, str(site), str(port)) as running:
        wait_until(lambda: get(port), lambda: running.log, 60)
        first = get(port).split()[0]
        site.write_text(site.read_text() + "\n")
        wait_until(lambda: "StatReloader" in running.log, lambda: running.log)

        def is_reloaded() -> bool:
            # Django does not see a change that comes before its first look, which is up to a second late.
            if time.time() - site.stat().st_mtime > 3:
                site.touch()
            return get(port).split()[:1] not in ([], [first])

        wait_until(is_reloaded, lambda: running.log, 60)
        before = published(aws)
        assert get(port)
        assert published(aws) == before + 1
        os.killpg(running.process.pid, signal.SIGINT)  # as Ctrl-C does
        wait_until(lambda: running.descendants() == [], lambda: running.log, 20)
        assert "Traceback" not in running.log, running.log
