"""Delete everything in one namespace: for test runs and environments that are no longer needed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from kombu_hake.amqp import SQS_LIST_PAGE, parse_arn
from kombu_hake.aws import Clients
from kombu_hake.exceptions import ConfigurationError, QueueNotFound, TopicNotFound

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
    most: dict[str, Any] = {"QueueNamePrefix": prefix, "MaxResults": SQS_LIST_PAGE}
    for url in _all("QueueUrls", lambda token: clients.sqs("list_queues", **most, **token)):
        name = _last(url)
        if name.startswith(prefix) and name not in kept:
            with suppress(QueueNotFound):  # AWS lists deleted queues and topics for a while
                clients.sqs("delete_queue", QueueUrl=url)
                deleted.append(name)
    for topic in _all("Topics", lambda token: clients.sns("list_topics", **token)):
        arn = topic["TopicArn"]
        name = parse_arn(arn).name
        if not name.startswith(prefix) or name in kept:
            continue
        with suppress(TopicNotFound):
            for item in _subscriptions(clients, arn):
                clients.sns("unsubscribe", SubscriptionArn=item)
            clients.sns("delete_topic", TopicArn=arn)
            deleted.append(name)
    return deleted


def _last(address: str) -> str:
    """The name of a queue or topic, by its URL or ARN."""
    return address.rstrip("/").rpartition("/")[2].rpartition(":")[2]


def _subscriptions(clients: Clients, topic_arn: str) -> list[str]:
    """ARNs of the confirmed subscriptions of a topic; pending ones are deleted with the topic."""
    found = _all("Subscriptions", lambda token: clients.sns("list_subscriptions_by_topic", TopicArn=topic_arn, **token))
    return [item["SubscriptionArn"] for item in found if item["SubscriptionArn"].startswith("arn:")]


def _all(what: str, page: Callable[[dict[str, str]], dict[str, Any]]) -> list[Any]:
    """The items of all pages, each requested with the token of the previous page."""
    token: dict[str, str] = {}
    items: list[Any] = []
    while True:
        answer = page(token)
        items += answer.get(what) or ()
        if not answer.get("NextToken"):
            return items
        token = {"NextToken": answer["NextToken"]}
