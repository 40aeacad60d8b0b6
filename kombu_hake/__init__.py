"""kombu_hake: topics, consumer groups and task queues for Celery on AWS SNS and SQS. Broker URL: ``hake://``.

Importing this package starts no thread, opens no connection and does not import boto3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kombu_hake._version import __version__
from kombu_hake.plugin import register_transport

if TYPE_CHECKING:
    from kombu_hake.groups import Topic
    from kombu_hake.publish import batch

__all__ = ["Topic", "__version__", "batch"]

register_transport()


def __getattr__(name: str) -> Any:
    # Late, because kombu imports this package while kombu itself is only partly imported (see kombu_hake/plugin.py).
    if name == "batch":
        from kombu_hake.publish import batch

        return batch
    if name == "Topic":  # needs Celery
        from kombu_hake.groups import Topic

        return Topic
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
