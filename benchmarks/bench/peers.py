"""Who is compared, and how each is reached."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from support.proxy_control import RemoteProxy

from .services import HOST, Services

NAMES = ("hake", "sqs", "redis", "rabbitmq")
REGION = "us-east-1"
LABELS = {"hake": "hake://", "sqs": "kombu sqs://", "redis": "Redis", "rabbitmq": "RabbitMQ", "boto3": "bare boto3"}


@dataclass(frozen=True)
class Broker:
    """One peer at one latency. Travels to child processes through their environment.

    Attributes:
        peer: One of ``NAMES``.
        url: kombu's broker URL.
        options: Transport options.
        proxy_url: The counting proxy on the way; ``""`` where there is none.
        aws_url: The stand-in itself; ``""`` for peers that are not on AWS.
    """

    peer: str
    url: str
    options: dict[str, Any] = field(default_factory=dict)
    proxy_url: str = ""
    aws_url: str = ""

    @property
    def is_aws(self) -> bool:
        return bool(self.aws_url)

    def environment(self, **more: object) -> dict[str, str]:
        """Variables from which ``from_environment`` makes the same value again."""
        own = {"url": self.url, "peer": self.peer, "options": self.options, "proxy_url": self.proxy_url}
        own["aws_url"] = self.aws_url
        extra = {f"BENCH_{name.upper()}": str(value) for name, value in more.items()}
        return {"BENCH_BROKER": json.dumps(own)} | extra

    @staticmethod
    def from_environment() -> Broker:
        return Broker(**json.loads(os.environ["BENCH_BROKER"]))


def broker(
    services: Services, peer: str, latency_s: float, *, is_counted: bool = True, proxy: RemoteProxy | None = None
) -> Broker:
    """How to reach a peer.

    Args:
        latency_s: 0 or the latency of the services.
        is_counted: False is for filling a queue: past proxy and latency, without confirms.
        proxy: Another proxy than the common one.
    """
    if peer == "redis":
        return Broker(peer, f"redis://{HOST}:{services.ports[peer, latency_s]}/0")
    if peer == "rabbitmq":
        # Without confirms a publish returns before the broker has the message; the others wait for it.
        port = services.ports[peer, latency_s]
        return Broker(peer, f"amqp://guest:guest@{HOST}:{port}//", {"confirm_publish": is_counted})
    url = (proxy or services.proxy).endpoint_url if is_counted else services.aws_url
    address = urlsplit(url).netloc
    aws = {"proxy_url": url if is_counted else "", "aws_url": services.aws_url}
    if peer == "sqs":
        options = {"region": REGION, "is_secure": False, "supports_fanout": True}
        return Broker(peer, f"sqs://bench:bench@{address}", options, **aws)
    return Broker(peer, f"hake://bench:bench@{address}/?region={REGION}", {}, **aws)
