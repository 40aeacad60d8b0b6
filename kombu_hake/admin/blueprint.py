"""What an app's declarations come to in AWS: :func:`blueprint`; and the comparison with AWS: :func:`auditor`.

Makes no call but for the account, if that is unknown.

What AWS is to have is decided in :mod:`kombu_hake.topology`; this only hands over what the app declares.
"""

from __future__ import annotations

from kombu_hake.admin.declared import Declared
from kombu_hake.aws import Clients
from kombu_hake.config import Settings
from kombu_hake.topology import Auditor, Blueprint, Home, SnsSubscription, SnsTopic, SqsQueue
from kombu_hake.topology import blueprint as blueprint_of

__all__ = ["Blueprint", "SnsSubscription", "SnsTopic", "SqsQueue", "auditor", "blueprint"]


def blueprint(found: Declared, settings: Settings, home: Home) -> Blueprint:
    """What ``topology=auto`` makes of what an app declares, in an account that has nothing of it yet.

    Args:
        home: Tells account, region and partition: ``Topology.home`` of a connection.
    Raises:
        ConfigurationError: the account is unknown.
        TopologyError: the arguments of a queue are wrong.
    """
    return blueprint_of(
        [(queue.spec, queue.bindings) for queue in found.queues],
        {exchange.name: exchange.spec for exchange in found.exchanges},
        settings,
        home,
    )


def auditor(found: Declared, clients: Clients, home: Home) -> Auditor:
    """What compares AWS with what an app declares, once."""
    return Auditor(
        clients,
        clients.settings,
        home,
        [(queue.spec, queue.bindings) for queue in found.queues],
        {exchange.name: exchange.spec for exchange in found.exchanges},
        [*found.temporary, *found.other_queues],
    )
