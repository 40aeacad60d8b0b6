"""Delete everything in one namespace: for test runs and environments that are no longer needed."""

from __future__ import annotations

from contextlib import suppress

from kombu_hake.amqp import parse_arn
from kombu_hake.aws import Clients
from kombu_hake.exceptions import ConfigurationError, QueueNotFound, TopicNotFound
from kombu_hake.topology import lookups

__all__ = ["delete_namespace"]


def delete_namespace(clients: Clients, namespace: str) -> list[str]:
    """See :meth:`kombu_hake.admin.connection.Admin.delete_namespace`."""
    settings = clients.settings
    if not namespace or namespace != settings.namer.namespace:
        raise ConfigurationError(f"This app's namespace is {settings.namer.namespace!r}; not deleting {namespace!r}.")
    if settings.topology != "auto":
        raise ConfigurationError(f"With topology={settings.topology}, this package does not delete queues and topics.")
    prefix = f"{namespace}__"
    predefined = (*settings.predefined_queues.values(), *settings.predefined_exchanges.values())
    kept = {_last(address) for address in predefined}
    deleted = []
    for url in lookups.queues(clients, prefix):
        name = _last(url)
        if name.startswith(prefix) and name not in kept:
            with suppress(QueueNotFound):  # AWS lists deleted queues and topics for a while
                clients.sqs("delete_queue", QueueUrl=url)
                deleted.append(name)
    for arn in lookups.topics(clients):
        name = parse_arn(arn).name
        if not name.startswith(prefix) or name in kept:
            continue
        with suppress(TopicNotFound):
            for item in list(lookups.subscriptions(clients, arn)):
                if item["SubscriptionArn"].startswith("arn:"):  # pending ones are deleted with the topic
                    clients.sns("unsubscribe", SubscriptionArn=item["SubscriptionArn"])
            clients.sns("delete_topic", TopicArn=arn)
            deleted.append(name)
    return deleted


def _last(address: str) -> str:
    """The name of a queue or topic, by its URL or ARN."""
    return address.rstrip("/").rpartition("/")[2].rpartition(":")[2]
