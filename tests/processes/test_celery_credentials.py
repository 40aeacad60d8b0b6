"""A worker whose credentials can't be renewed, and are refused, for some seconds while it holds tasks and acks."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from support.celery_workers import BROKER, client, stage, unfinished, wait_until
from support.emulators import Emulator
from support.proxy import Proxy
from support.proxy_rules import Rule

TASKS = 6


class Container:
    """The credentials endpoint of a container; ``is_down`` makes it answer 500."""

    def __init__(self, aws: Emulator) -> None:
        self.is_down = False
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                ends_at = datetime.now(timezone.utc) + timedelta(seconds=300)  # botocore must renew them all the time
                keys = {"AccessKeyId": aws.key, "SecretAccessKey": aws.secret, "Token": "t"}
                body = json.dumps({**keys, "Expiration": ends_at.strftime("%Y-%m-%dT%H:%M:%SZ")}).encode()
                self.send_response(500 if owner.is_down else 200)
                self.end_headers()
                self.wfile.write(b"no role" if owner.is_down else body)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/credentials"


@contextmanager
def container(aws: Emulator) -> Iterator[Container]:
    found = Container(aws)
    threading.Thread(target=found.server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield found
    finally:
        found.server.shutdown()
        found.server.server_close()


@pytest.mark.timeout(120)
def test_tasks_run_once_while_credentials_fail(aws: Emulator, tmp_path: Path) -> None:
    with container(aws) as source, Proxy(aws.endpoint_url) as proxy, stage(aws.url(), tmp_path) as on_stage:
        app = client(on_stage)
        port = proxy.endpoint_url.rpartition(":")[2]
        broker = f"hake://127.0.0.1:{port}/{aws.namespace}?region={aws.region}&visibility_timeout=30"
        environment = {BROKER: broker, "AWS_CONTAINER_CREDENTIALS_FULL_URI": source.url}
        worker = on_stage.start("apps.leases", "-P", "threads", "-c", "2", environment=environment)
        for number in range(TASKS):
            app.send_task("sleep", [number, 0.5])
        on_stage.runs.wait_for(1, event="start")
        source.is_down = True
        proxy.rules = [Rule("expired")]
        on_stage.runs.wait_for(3, event="end")  # their acks are refused
        wait_until(lambda: "Cannot renew the AWS credentials" in worker.log, "the worker to ask for keys in vain")
        source.is_down = False
        proxy.rules = []
        on_stage.runs.wait_for(TASKS, event="end")
        wait_until(lambda: unfinished(aws) == (0, 0), "the acks to be delivered")
        worker.stop()
        started = [run["number"] for run in on_stage.runs.of(event="start")]
        assert sorted(started) == list(range(TASKS))
        assert "Lost the lease" not in worker.log
