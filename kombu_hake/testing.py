"""Embedded AWS: an SNS and SQS for tests and demos, on a free loopback port, with no account and no network.

    from kombu_hake.testing import embedded_aws

    with embedded_aws() as aws:
        app = Celery(broker=aws.url)

It runs moto's server (``pip install kombu-hake[testing]``) in a separate process, so it shares no memory, patches or
interpreter lock with the code under test, and any number of processes can use it. To start it manually: ``python -m
kombu_hake.testing --port 4100``.

Two things differ from a plain ``moto_server``. Requests are handled one at a time, because moto takes no lock around
its list of messages: two consumers that receive at once may get the same message, and one that is sent while
another is deleted may be lost. And a long poll answers as soon as there is a message, where moto checks about once a
second; while it waits it holds no lock.

Unlike in AWS, everything is immediate, and nothing is throttled, denied or delivered twice. Keep queues short (every
call scans the whole queue), and do not use it for benchmarks.
"""

import argparse
import http.client
import importlib.util
import io
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

__all__ = ["EmbeddedAWS", "embedded_aws"]

HOST = "127.0.0.1"
REGION = "us-east-1"
KEY = SECRET = "testing"  # noqa: S105 - moto accepts any
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 5.0

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@dataclass(frozen=True)
class EmbeddedAWS:
    """A running embedded AWS, seen from one namespace.

    Attributes:
        port: The loopback TCP port it listens on.
        namespace: Prefix of all names created through :attr:`url`; ``""`` for none.
    """

    port: int
    namespace: str = ""

    @property
    def endpoint_url(self) -> str:
        """The ``endpoint_url`` for boto3 and the AWS command line: ``http://127.0.0.1:PORT``."""
        return f"http://{HOST}:{self.port}"

    @property
    def url(self) -> str:
        """The broker URL: ``hake://key:secret@127.0.0.1:PORT/namespace?region=us-east-1``."""
        return f"hake://{KEY}:{SECRET}@{HOST}:{self.port}/{quote(self.namespace, safe='')}?region={REGION}"

    def in_namespace(self, namespace: str) -> "EmbeddedAWS":
        """The same server with another namespace, isolated from this one."""
        return replace(self, namespace=namespace)

    def client(self, service: str) -> Any:
        """A boto3 client, to inspect what was created.

        Args:
            service: ``"sqs"`` or ``"sns"``.
        """
        from kombu_hake.aws import boto_client

        return boto_client(service, endpoint_url=self.endpoint_url, region=REGION, key=KEY, secret=SECRET)

    def reset(self) -> None:
        """Delete every topic, queue, subscription and message, in all namespaces."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=STOP_TIMEOUT_S)
        try:
            connection.request("POST", "/moto-api/reset")
            connection.getresponse().read()
        finally:
            connection.close()


@contextmanager
def embedded_aws(*, namespace: str = "", port: int = 0) -> Iterator[EmbeddedAWS]:
    """Run an embedded AWS in a ``with`` block.

    The server stops at the end of the block, and if this process dies. It does not receive the terminal's Ctrl-C, so
    that stopping workers can still acknowledge.

    Args:
        namespace: Namespace of the URL that is yielded.
        port: TCP port on the loopback interface; 0 selects a free one.
    Yields:
        The running server.
    Raises:
        ModuleNotFoundError: moto is not installed.
        RuntimeError: The server did not start; the reason is on standard error.
    """
    _require_moto()
    process = subprocess.Popen(  # noqa: S603 - our own module, no shell
        [sys.executable, "-m", "kombu_hake.testing", "--port", str(port), "--parent", str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=_server_environment(),
        start_new_session=True,
        text=True,
    )
    try:
        yield EmbeddedAWS(port=_announced_port(process), namespace=namespace)
    finally:
        _stop(process)


def _require_moto() -> None:
    if any(importlib.util.find_spec(name) is None for name in ("moto", "flask", "flask_cors")):
        raise ModuleNotFoundError("The embedded AWS needs moto's server: pip install kombu-hake[testing]")


def _server_environment() -> dict[str, str]:
    """Our environment without the user's AWS settings: a missing profile would make botocore fail inside moto."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    # The package may only be on this process's path, as when run from a checkout.
    path = [str(Path(__file__).parents[1]), kept.get("PYTHONPATH", "")]
    return kept | {"AWS_EC2_METADATA_DISABLED": "true", "PYTHONPATH": os.pathsep.join(filter(None, path))}


def _announced_port(process: subprocess.Popen[str]) -> int:
    """The port that the server prints first; a silent server is killed, which ends the read."""
    assert process.stdout is not None  # noqa: S101 - stdout=PIPE above
    watchdog = threading.Timer(START_TIMEOUT_S, process.kill)
    watchdog.start()
    try:
        line = process.stdout.readline().strip()
    finally:
        watchdog.cancel()
    if not line:
        raise RuntimeError(f"The embedded AWS did not start (exit code {process.wait()}); see standard error.")
    return int(line.rpartition(":")[2])


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    assert process.stdout is not None  # noqa: S101 - stdout=PIPE above
    process.stdout.close()


# The code below runs in the server's process.


def _one_request_at_a_time(app: WsgiApp) -> WsgiApp:
    """Wrap moto's application in a monitor: one request inside at a time, long polls wait outside.

    Args:
        app: moto's WSGI application.
    Returns:
        The application to serve. It also replaces ``SQSBackend.receive_message`` in this process.
    """
    from moto.sqs.models import SQSBackend

    # A condition's wait releases its lock completely, even if held recursively, so other requests run meanwhile.
    monitor = threading.Condition()
    receive_now = SQSBackend.receive_message

    def receive_message(
        self: Any, queue_name: str, count: int, wait_seconds_timeout: int, *args: Any, **kwargs: Any
    ) -> Any:
        deadline = time.monotonic() + wait_seconds_timeout
        while True:
            messages = receive_now(self, queue_name, count, 0, *args, **kwargs)
            left_s = deadline - time.monotonic()
            if messages or left_s <= 0:
                return messages
            # A tenth of a second, for messages that become visible by the clock alone: a delay or a lease ends.
            monitor.wait(min(left_s, 0.1))

    SQSBackend.receive_message = receive_message

    def serialised(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        # Read before taking the lock: a slow sender must not block other requests.
        length = int(environ.get("CONTENT_LENGTH") or 0)
        environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(length))
        with monitor:
            if _has_left(environ.get("werkzeug.socket")):
                # Clients retry after a timeout: a slow machine that also served the abandoned requests would never
                # catch up.
                start_response("503 Service Unavailable", [])
                return []
            try:
                return app(environ, start_response)
            finally:
                if not environ.get("HTTP_X_AMZ_TARGET", "").endswith(".ReceiveMessage"):  # no poll has to be woken
                    monitor.notify_all()

    return serialised


def _has_left(client: socket.socket | None) -> bool:
    """Return True if the client has closed its connection."""
    if client is None:
        return False
    try:
        return client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _serve(port: int, parent: int | None) -> None:
    """Serve until SIGTERM, SIGINT, or until ``parent`` is no longer the process that started this one."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line per request would hide the test's own output
    app = _one_request_at_a_time(DomainDispatcherApplication(create_backend_app))
    server = make_server(HOST, port, app, threaded=True)
    stop = threading.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: stop.set())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(f"http://{HOST}:{server.server_port}\n")
    sys.stdout.flush()
    while not stop.wait(0.5):
        if parent is not None and os.getppid() != parent:
            break
    server.server_close()


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 65_536):  # the server would take it modulo 65,536
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to 65535")
    return int(text)


def main(argv: list[str] | None = None) -> None:
    """``python -m kombu_hake.testing``: serve, and print the address as the first line."""
    parser = argparse.ArgumentParser(prog="python -m kombu_hake.testing", description="An SNS and SQS on loopback.")
    parser.add_argument("--port", type=_port, default=0, help="TCP port; 0 (default) takes a free one")
    parser.add_argument("--parent", type=int, metavar="PID", help="end when PID is no longer the parent process")
    options = parser.parse_args(argv)
    try:
        _require_moto()
        _serve(options.port, options.parent)
    except (ModuleNotFoundError, OSError) as error:
        sys.exit(f"{parser.prog}: {error}")


if __name__ == "__main__":
    main()
