"""kombu_hake: topics, consumer groups and task queues for Celery on AWS SNS and SQS. Broker URL: ``hake://``.

Importing this package starts nothing, connects to nothing and does not import boto3.
"""

from __future__ import annotations

from kombu_hake._version import __version__
from kombu_hake.plugin import register_transport

__all__ = ["__version__"]

register_transport()
