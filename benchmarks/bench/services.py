"""The processes that the benchmark talks to: the stand-in for AWS, Redis, RabbitMQ, the latency relays."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from . import procfs, tools
from .standin import StandIn

HOST = "127.0.0.1"
START_TIMEOUT_S = 60.0
NODE_FOLDER = tools.ROOT / "benchmarks" / "node"


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.create_server((HOST, 0)) as probe:
        return int(probe.getsockname()[1])


class Services:
    """Everything started, within a ``with``.

    Args:
        latency_s: Of what is "far".
        brokers: Of ``redis`` and ``rabbitmq``, those wanted.
        is_tls: Whether TLS is wanted.
    Attributes:
        standin: SQS and SNS.
        ports: Port by broker (``redis``, ``rabbitmq``, ``rabbitmq+tls``) and latency in seconds, of those there are.
        ca_file: Of the certificate authority made for this run; ``""`` without TLS.
        missing: Why a broker or TLS is absent, by name.
    """

    def __init__(self, latency_s: float, brokers: list[str], *, is_tls: bool = False) -> None:
        self._latency_s = latency_s
        self._brokers = brokers
        self._is_tls = is_tls
        self._stack = ExitStack()
        self._pids: dict[str, int] = {}
        self.ports: dict[tuple[str, float], int] = {}
        self.ca_file = ""
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
        if self._is_tls:
            self._make_certificates()
        direct: dict[str, int] = {}
        for broker in self._brokers:  # RabbitMQ takes longest: it starts while the others do
            try:
                direct |= {"redis": self._start_redis, "rabbitmq": self._start_rabbitmq}[broker]()
            except OSError as error:
                self.missing[broker] = str(error)
        self.standin = self.start_standin(is_tls=bool(self.ca_file))
        for name, port in list(direct.items()):
            if not wait_for_port(port):
                self.missing[name] = f"did not start, see {self.folder}"
                del direct[name]
        for name, port in direct.items():
            self.ports[name, 0.0] = port
            command = [tools.node(), str(NODE_FOLDER / "relay.mjs"), str(self._latency_s * 1000), str(port)]
            self._pids[f"{name}-relay"], ports = self.spawn_announcing("relay", command)
            self.ports[name, self._latency_s] = ports[0]

    def revive(self) -> None:
        """Start another stand-in when it has ended, so that one failure does not fail all that follows."""
        if not procfs.is_alive(self.standin.pid):
            self.standin = self.start_standin(is_tls=bool(self.ca_file))

    def server_pids(self, broker: str, latency_s: float) -> list[int]:
        """The processes that serve Redis or RabbitMQ at this latency."""
        names = [broker] if not latency_s else [broker, f"{broker}-relay", f"{broker}+tls-relay"]
        return [self._pids[name] for name in names if name in self._pids]

    def start_standin(self, latency_s: float = 0.0, *, is_tls: bool = False) -> StandIn:
        """A stand-in of its own, with nothing in it."""
        command = [tools.node(), str(NODE_FOLDER / "standin.mjs")]
        if is_tls:
            command += ["--cert", self._cert_file, "--key", self._key_file]
        pid, addresses = self.spawn_announcing("stand-in", command)
        standin = StandIn(pid, **addresses)
        standin.set_latency(latency_s)
        return standin

    def _make_certificates(self) -> None:
        """An authority for this run and a certificate of it for 127.0.0.1, with the ``openssl`` command."""
        openssl = shutil.which("openssl")
        if openssl is None:
            self.missing["tls"] = "there is no openssl command"
            return
        names = {name: str(self.folder / name) for name in ("ca.pem", "ca.key", "cert.pem", "cert.key", "cert.csr")}
        extensions = self.folder / "extensions"
        extensions.write_text(f"subjectAltName=IP:{HOST},DNS:localhost\n")
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        ca = ["req", "-x509", *key, "-days", "2", "-subj", "/CN=benchmark", "-keyout", names["ca.key"]]
        request = ["req", *key, "-subj", f"/CN={HOST}", "-keyout", names["cert.key"], "-out", names["cert.csr"]]
        signed = ["x509", "-req", "-in", names["cert.csr"], "-CA", names["ca.pem"], "-CAkey", names["ca.key"]]
        signed += ["-CAcreateserial", "-days", "2", "-extfile", str(extensions), "-out", names["cert.pem"]]
        for arguments in ([*ca, "-out", names["ca.pem"]], request, signed):
            subprocess.run([openssl, *arguments], check=True, capture_output=True)
        self.ca_file, self._cert_file, self._key_file = names["ca.pem"], names["cert.pem"], names["cert.key"]

    def spawn(self, name: str, command: list[str], **environment: str) -> subprocess.Popen[bytes]:
        """Start a process that ends with the ``with``; its output goes to a file of its name."""
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command, env=os.environ | environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.folder
            )
        self._stack.callback(stop, process)
        return process

    def spawn_announcing(self, name: str, command: list[str]) -> tuple[int, Any]:
        """Start a process; its id, and the JSON line that it prints when it is ready."""
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        self._stack.callback(stop, process)
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the {name} did not start")
        return process.pid, json.loads(line)

    def _start_redis(self) -> dict[str, int]:
        port = free_port()
        executable = _find("redis-server", tools.APT / "usr/bin/redis-server")
        options = ["--port", str(port), "--bind", HOST, "--save", "", "--appendonly", "no", "--dir", str(self.folder)]
        self._pids["redis"] = self.spawn("redis", [executable, *options], **_unpacked_environment()).pid
        return {"redis": port}

    def _start_rabbitmq(self) -> dict[str, int]:
        ports = {"rabbitmq": free_port()}
        port = ports["rabbitmq"]
        home = self.folder / "rabbitmq"
        home.mkdir()
        lines = [f"listeners.tcp.local = {HOST}:{port}", "log.console = false"]
        if self.ca_file:
            ports["rabbitmq+tls"] = free_port()
            files = {"cacertfile": self.ca_file, "certfile": self._cert_file, "keyfile": self._key_file}
            lines += [f"listeners.ssl.local = {HOST}:{ports['rabbitmq+tls']}"]
            lines += [f"ssl_options.{name} = {path}" for name, path in files.items()]
            lines += ["ssl_options.verify = verify_none", "ssl_options.fail_if_no_peer_cert = false"]
        (home / "rabbitmq.conf").write_text("\n".join([*lines, ""]))
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
        self._pids["rabbitmq"] = self.spawn("rabbitmq", [str(servers[0] / "rabbitmq-server")], **environment).pid
        return ports


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
