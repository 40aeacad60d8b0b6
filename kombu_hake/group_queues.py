"""The dead-letter queue of a group: made with the group, named so that it is found, and let in by the right policies.

The redrive policy is the net under what workers send there by themselves. Its count is high, because each prefetched
message that a deploy hands back has been received once more.
"""

from __future__ import annotations

import json
import logging
from typing import Any

from kombu_hake.clients import Clients
from kombu_hake.exceptions import AccessDenied
from kombu_hake.group_registry import dead_queue
from kombu_hake.naming import QueueArn, QueueUrl
from kombu_hake.priorities import level_names
from kombu_hake.queues import QueueSpec
from kombu_hake.settings import Settings
from kombu_hake.topology import Topology

__all__ = ["MAX_RECEIVE_COUNT", "ensure_dead_queue"]

logger = logging.getLogger(__name__)
MAX_RECEIVE_COUNT = 20


def ensure_dead_queue(topology: Topology, clients: Clients, settings: Settings, queue: str) -> None:
    """Give a group's queue a dead-letter queue, if it has none; one that somebody else chose is kept.

    Makes nothing unless ``topology=auto``, nor for a predefined queue. Where the rights are missing, says so and goes
    on: what fails finally is then deleted, as with any Celery task.
    """
    if settings.topology != "auto" or topology.queues.is_predefined(queue):
        return
    if "x-dead-letter-exchange" in topology.queues.arguments(queue):
        return
    try:
        bare = [
            url
            for name in level_names(queue, topology.queues.arguments(queue))
            if not _has_redrive_policy(clients, url := topology.queues.url(name))
        ]
        if bare:
            _give(topology, clients, queue, bare)
    except AccessDenied as exc:
        logger.warning("Group %s may have no dead-letter queue, because %s is denied: %s", queue, exc.action, exc)


def _has_redrive_policy(clients: Clients, url: QueueUrl) -> bool:
    answer = clients.sqs("get_queue_attributes", QueueUrl=url, AttributeNames=["RedrivePolicy"])
    return bool(answer.get("Attributes", {}).get("RedrivePolicy"))


def _give(topology: Topology, clients: Clients, queue: str, urls: list[QueueUrl]) -> None:
    name = dead_queue(queue)
    topology.declare_queue(QueueSpec(name))
    dead_url = topology.queues.url(name)
    dead_arn = topology.queues.arn(dead_url)
    _allow(clients, dead_url, [topology.queues.arn(url) for url in urls])
    for url in urls:
        policy = {"deadLetterTargetArn": dead_arn, "maxReceiveCount": MAX_RECEIVE_COUNT}
        clients.sqs("set_queue_attributes", QueueUrl=url, Attributes={"RedrivePolicy": json.dumps(policy)})
    logger.info("Dead letters of group %s go to queue %s.", queue, name)


def _allow(clients: Clients, dead_url: QueueUrl, sources: list[QueueArn]) -> None:
    """Let these queues in, and keep those that are in; a policy that lets everybody in, or nobody, is an operator's."""
    # "All", because not every emulator knows the attribute, and none minds that.
    answer = clients.sqs("get_queue_attributes", QueueUrl=dead_url, AttributeNames=["All"])
    text = answer.get("Attributes", {}).get("RedriveAllowPolicy")
    known: dict[str, Any] = json.loads(text) if text else {"redrivePermission": "byQueue", "sourceQueueArns": []}
    if known.get("redrivePermission") != "byQueue":
        return
    allowed = [*known.get("sourceQueueArns", []), *sources]
    policy = {"redrivePermission": "byQueue", "sourceQueueArns": list(dict.fromkeys(allowed))}
    clients.sqs("set_queue_attributes", QueueUrl=dead_url, Attributes={"RedriveAllowPolicy": json.dumps(policy)})
