"""The processes that the benchmark talks to: fauxqs behind the counting proxy, Redis, RabbitMQ, the latency relay."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from support.proxy_control import RemoteProxy

from . import tools

HOST = "127.0.0.1"
START_TIMEOUT_S = 60.0


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.create_server((HOST, 0)) as probe:
        return int(probe.getsockname()[1])


class Services:
    """Everything started, within a ``with``.

    Attributes:
        aws_url: fauxqs itself; no latency, not counted.
        proxy: In front of fauxqs, steerable; its ``endpoint_url`` is what peers use.
        ports: Port by broker (``redis``, ``rabbitmq``) and latency in seconds; absent brokers are missing.
        missing: Why a broker is absent, by broker.
    """

    def __init__(self, latency_s: float, brokers: list[str]) -> None:
        self._latency_s = latency_s
        self._brokers = brokers
        self._stack = ExitStack()
        self.ports: dict[tuple[str, float], int] = {}
        self.missing: dict[str, str] = {}

    def __enter__(self) -> Services:
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _start(self) -> None:
        direct: dict[str, int] = {}
        for broker in self._brokers:  # RabbitMQ takes longest: it starts while the others do
            port = free_port()
            try:
                {"redis": self._start_redis, "rabbitmq": self._start_rabbitmq}[broker](port)
                direct[broker] = port
            except OSError as error:
                self.missing[broker] = str(error)
        self._start_fauxqs()
        self.proxy = self.start_proxy()
        for broker, port in list(direct.items()):
            if not wait_for_port(port):
                self.missing[broker] = f"did not start, see {self.folder}"
                del direct[broker]
        self.ports |= {(broker, 0.0): port for broker, port in direct.items()}
        if direct:
            command = [sys.executable, "-m", "bench.tcp_latency", "--latency", str(self._latency_s)]
            relayed = self.spawn_announcing("relay", [*command, *map(str, direct.values())])
            self.ports |= {(broker, self._latency_s): port for broker, port in zip(direct, relayed, strict=True)}

    def start_proxy(self, latency_s: float = 0.0) -> RemoteProxy:
        """One more proxy in front of fauxqs."""
        command = [sys.executable, "-m", "support.proxy", "--upstream", self.aws_url, "--latency", str(latency_s)]
        return RemoteProxy(self.spawn_announcing("proxy", command)["endpoint_url"])

    def spawn(self, name: str, command: list[str], **environment: str) -> subprocess.Popen[bytes]:
        """Start a process that ends with the ``with``; its output goes to a file of its name."""
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command, env=os.environ | environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.folder
            )
        self._stack.callback(stop, process)
        return process

    def spawn_announcing(self, name: str, command: list[str]) -> Any:
        """Start a process and read the JSON line that it prints when it is ready."""
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        self._stack.callback(stop, process)
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the {name} did not start")
        return json.loads(line)

    def _start_fauxqs(self) -> None:
        port = free_port()
        self.aws_url = f"http://{HOST}:{port}"
        app = tools.TOOLS / "fauxqs" / "node_modules" / "fauxqs" / "dist" / "app.js"
        script = self.folder / "fauxqs.mjs"
        script.write_text(
            f"import {{ buildApp }} from {json.dumps(app.as_uri())};\n"
            f"await buildApp({{ logger: false }}).listen({{ port: {port}, host: '{HOST}' }});\n"
        )
        self.spawn("fauxqs", [str(tools.node() / "bin" / "node"), str(script)])
        if not wait_for_port(port):
            raise RuntimeError(f"fauxqs did not start: {(self.folder / 'fauxqs.log').read_text()[-2000:]}")

    def _start_redis(self, port: int) -> None:
        executable = _find("redis-server", tools.APT / "usr/bin/redis-server")
        options = ["--port", str(port), "--bind", HOST, "--save", "", "--appendonly", "no", "--dir", str(self.folder)]
        self.spawn("redis", [executable, *options], **_unpacked_environment())

    def _start_rabbitmq(self, port: int) -> None:
        home = self.folder / "rabbitmq"
        home.mkdir()
        (home / "rabbitmq.conf").write_text(f"listeners.tcp.local = {HOST}:{port}\nlog.console = false\n")
        servers = [*Path("/").glob("usr/lib/rabbitmq/lib/*/sbin"), *tools.APT.glob("usr/lib/rabbitmq/lib/*/sbin")]
        if not servers:
            raise FileNotFoundError("rabbitmq-server is not installed")
        epmd_port = str(free_port())
        environment = _unpacked_environment() | {
            "HOME": str(home),
            "ERL_EPMD_ADDRESS": HOST,
            "ERL_EPMD_PORT": epmd_port,
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_NODENAME": f"bench{port}@localhost",
            "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(home / "none"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(home / "none.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
            "RABBITMQ_LOG_BASE": str(home / "log"),
            "RABBITMQ_PID_FILE": str(home / "pid"),
            # Schedulers that spin while idle would take the processor from the others.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} -start_epmd false"
            " +sbwt none +sbwtdcpu none +sbwtdio none",
        }
        epmd = _find("epmd", tools.APT / "usr/bin/epmd")
        self.spawn("epmd", [epmd, "-address", HOST, "-port", epmd_port], **environment)
        self.spawn("rabbitmq", [str(servers[0] / "rabbitmq-server")], **environment)


def stop(process: subprocess.Popen[bytes], timeout_s: float = 15.0) -> float:
    """End a process: SIGTERM, and SIGKILL after the time-out. Returns the seconds it took."""
    started_at = time.monotonic()
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout:
        process.stdout.close()
    return time.monotonic() - started_at


def wait_for_port(port: int) -> bool:
    """Wait until somebody listens; False when nobody does in time."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((HOST, port), timeout=1):
                return True
        except OSError:
            time.sleep(0.05)
    return False


def _find(name: str, unpacked: Path) -> str:
    found = shutil.which(name) or (str(unpacked) if unpacked.exists() else None)
    if found is None:
        raise FileNotFoundError(f"{name} is not installed")
    return found


def _unpacked_environment() -> dict[str, str]:
    binaries = tools.APT / "usr" / "bin"
    libraries = [str(path) for path in tools.APT.glob("usr/lib/*-linux-gnu*")]
    return {
        "PATH": f"{os.environ['PATH']}{os.pathsep}{binaries}",
        "LD_LIBRARY_PATH": os.pathsep.join([*libraries, os.environ.get("LD_LIBRARY_PATH", "")]).rstrip(os.pathsep),
    }
