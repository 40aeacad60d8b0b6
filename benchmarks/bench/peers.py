"""Who is compared, and how each is reached."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from . import tools
from .services import HOST, Services
from .standin import StandIn

NAMES = ("memory", "hake", "rabbitmq", "redis", "sqs", "taskiq", "dramatiq", "boto3")
"""In the order in which they take turns: those that are compared most closely stand side by side."""
REGION = "us-east-1"
LABELS = {
    "memory": "Celery's floor",
    "hake": "hake://",
    "rabbitmq": "RabbitMQ",
    "redis": "Redis",
    "sqs": "kombu sqs://",
    "taskiq": "taskiq-aio-sqs",
    "dramatiq": "dramatiq-sqs",
    "boto3": "bare boto3",
}
OF_ANOTHER_ENVIRONMENT = frozenset({"taskiq", "dramatiq"})


def label(peer: str) -> str:
    """What a report calls a peer; a baseline is called as the command line named it."""
    return LABELS.get(peer, peer)


def rank(peer: str) -> int:
    """Place of a peer among others in a table; baselines stand with ``hake``."""
    return NAMES.index(peer.partition("@")[0])


@dataclass(frozen=True)
class Broker:
    """One peer at one latency. Travels to child processes through their environment.

    Attributes:
        peer: One of ``NAMES``, or ``hake@`` and a name for another checkout of this package.
        url: kombu's broker URL; for peers without kombu the endpoint of AWS.
        options: Transport options.
        endpoint_url: Of AWS, late and counted; ``""`` for peers that are not on AWS.
        side_url: Of the same stand-in, neither late nor counted.
        server_pids: Processes that serve this peer; their processor time is reported beside its own.
        package: Folder that holds the ``kombu_hake`` to measure.
        ca_file: Of the certificates to trust; ``""`` without TLS.
    """

    peer: str
    url: str
    options: dict[str, Any] = field(default_factory=dict)
    endpoint_url: str = ""
    side_url: str = ""
    server_pids: list[int] = field(default_factory=list)
    package: str = str(tools.ROOT)
    ca_file: str = ""

    @property
    def is_aws(self) -> bool:
        return bool(self.side_url)

    @property
    def is_hake(self) -> bool:
        return self.peer.partition("@")[0] == "hake"

    @property
    def python(self) -> str:
        """The interpreter that has what the peer needs."""
        return str(tools.other_python()) if self.peer in OF_ANOTHER_ENVIRONMENT else sys.executable

    def environment(self, **more: object) -> dict[str, str]:
        """Variables from which ``from_environment`` makes the same value again, with what the peer needs to run."""
        paths = [self.package, str(tools.ROOT / "benchmarks")]
        variables = {"BENCH_BROKER": json.dumps(asdict(self)), "PYTHONPATH": os.pathsep.join(paths)}
        if self.ca_file:
            variables |= {"AWS_CA_BUNDLE": self.ca_file}
        return variables | {f"BENCH_{name.upper()}": str(value) for name, value in more.items()}

    @staticmethod
    def from_environment() -> Broker:
        return Broker(**json.loads(os.environ["BENCH_BROKER"]))


def broker(
    services: Services,
    peer: str,
    latency_s: float,
    *,
    is_measured: bool = True,
    is_tls: bool = False,
    standin: StandIn | None = None,
    packages: dict[str, Path] | None = None,
) -> Broker:
    """How to reach a peer.

    Args:
        latency_s: 0 or the latency of the services; on AWS the stand-in is to be set to it.
        is_measured: False is for filling a queue: without latency, confirms and TLS, and not counted.
        standin: Another one than the common one.
        packages: Folder by name of a baseline.
    """
    if peer == "memory":
        return Broker(peer, "memory://")
    if peer in ("redis", "rabbitmq"):
        return _of_server(services, peer, latency_s, is_measured=is_measured, is_tls=is_tls and is_measured)
    aws, has_tls = standin or services.standin, is_tls and is_measured
    endpoint = (aws.tls_url if has_tls else aws.url) if is_measured else aws.side_url
    common: dict[str, Any] = {
        "endpoint_url": endpoint,
        "side_url": aws.side_url,
        "server_pids": [aws.pid],
        "ca_file": services.ca_file if has_tls else "",
    }
    address = urlsplit(endpoint).netloc
    if peer == "sqs":
        options = {"region": REGION, "is_secure": has_tls, "supports_fanout": True}
        return Broker(peer, f"sqs://bench:bench@{address}", options, **common)
    if peer.partition("@")[0] == "hake":
        if packages and peer in packages:
            common["package"] = str(packages[peer])
        if has_tls:
            return Broker(peer, f"hake://bench:bench@/?region={REGION}", {"endpoint_url": endpoint}, **common)
        return Broker(peer, f"hake://bench:bench@{address}/?region={REGION}", **common)
    return Broker(peer, endpoint, **common)


def _of_server(services: Services, peer: str, latency_s: float, *, is_measured: bool, is_tls: bool) -> Broker:
    port = services.ports[f"{peer}+tls" if is_tls else peer, latency_s]
    pids = services.server_pids(peer, latency_s)
    if peer == "redis":
        return Broker(peer, f"redis://{HOST}:{port}/0", server_pids=pids)
    # Without confirms a publish returns before the broker has the message; the others wait for it.
    options: dict[str, Any] = {"confirm_publish": is_measured}
    scheme, ca_file = ("amqps", services.ca_file) if is_tls else ("amqp", "")
    return Broker(peer, f"{scheme}://guest:guest@{HOST}:{port}//", options, server_pids=pids, ca_file=ca_file)
