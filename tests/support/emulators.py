"""The emulators that tests run against, each as a running process behind one small value.

moto is part of the test dependencies. ministack pins another botocore, so it lives in a virtual environment of its own
(``make .venv-ministack``); ``HAKE_MINISTACK`` names its executable when that is elsewhere.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from kombu_hake.testing import embedded_aws

ROOT = Path(__file__).parents[2]
HOST = "127.0.0.1"
#: Their names.
LEGS = ("moto", "ministack")
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0


class EmulatorMissing(Exception):
    """An emulator that a test needs is not installed; the text says how to get it."""


@dataclass(frozen=True)
class Emulator:
    """A running emulator, seen from one namespace.

    Attributes:
        name: ``"moto"`` or ``"ministack"``.
        port: Loopback TCP port.
        namespace: The namespace of :meth:`url` where the test names none.
    """

    name: str
    port: int
    namespace: str = ""
    key: str = "test"
    secret: str = "test"
    region: str = "us-east-1"

    @property
    def endpoint_url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def url(self, namespace: str | None = None, **options: object) -> str:
        """A ``hake://`` broker URL; ``options`` go to its query."""
        path = quote(self.namespace if namespace is None else namespace, safe="")
        query = urlencode({"region": self.region, **options})
        return f"hake://{self.key}:{self.secret}@{HOST}:{self.port}/{path}?{query}"

    def client(self, service: str) -> Any:
        """A boto3 client (``"sqs"``, ``"sns"``, ...) that bypasses the code under test."""
        import boto3

        return boto3.client(
            service,
            endpoint_url=self.endpoint_url,
            region_name=self.region,
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
        )

    def in_namespace(self, namespace: str) -> "Emulator":
        return replace(self, namespace=namespace)


@contextmanager
def run_moto() -> Iterator[Emulator]:
    with embedded_aws() as aws:
        yield Emulator("moto", aws.port)


@contextmanager
def run_ministack(log: Path) -> Iterator[Emulator]:
    """ministack with policies, signatures and receipt handles enforced.

    Args:
        log: File for what it prints; its folder becomes the working directory.
    Raises:
        EmulatorMissing: It is not installed.
    """
    executable = _ministack_executable()
    port = free_port()
    settings = {
        "AUTH": "true",
        "BIND_HOST": HOST,
        "MINISTACK_HOST": HOST,
        "GATEWAY_PORT": str(port),
        "LOG_LEVEL": "WARNING",
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [executable],
            cwd=log.parent,
            env=os.environ | settings,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_until_healthy(process, port, log)
        yield Emulator("ministack", port)
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _ministack_executable() -> str:
    wanted = os.environ.get("HAKE_MINISTACK") or str(ROOT / ".venv-ministack" / "bin" / "ministack")
    found = shutil.which(wanted)
    if found is None:
        raise EmulatorMissing(f"ministack not found at {wanted}: run 'make .venv-ministack', or set HAKE_MINISTACK")
    return found


def free_port() -> int:
    """A loopback TCP port that nothing listens on."""
    with socket.create_server((HOST, 0)) as probe:
        return int(probe.getsockname()[1])


def _wait_until_healthy(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        connection = HTTPConnection(HOST, port, timeout=5)
        try:
            connection.request("GET", "/_ministack/health")
            if connection.getresponse().status == 200:
                return
        except (OSError, HTTPException):
            time.sleep(0.05)
        finally:
            connection.close()
    raise RuntimeError(f"ministack did not start:\n{log.read_text(errors='replace')[-2000:]}")
