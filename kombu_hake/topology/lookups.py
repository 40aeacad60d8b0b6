"""Lists, tags and attributes as AWS shows them now: each read is a function, whose errors pass through."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

from kombu_hake.amqp import SQS_LIST_PAGE, QueueUrl
from kombu_hake.aws import Clients

__all__ = [
    "attributes",
    "queue_pages",
    "queue_url",
    "queues",
    "subscription",
    "subscriptions",
    "tags",
    "topic_attributes",
    "topic_tags",
    "topics",
]


def queue_url(clients: Clients, name: str, account: str | None = None) -> QueueUrl:
    """The URL of a queue by its name in AWS, of this account if none is given. One request."""
    owner = {} if account is None else {"QueueOwnerAWSAccountId": account}
    return QueueUrl(clients.sqs("get_queue_url", QueueName=name, **owner)["QueueUrl"])


def attributes(clients: Clients, url: str, *names: str) -> dict[str, str]:
    """The named attributes of a queue, as far as it has them; without names, all. One request."""
    answer = clients.sqs("get_queue_attributes", QueueUrl=url, AttributeNames=list(names) or ["All"])
    return dict(answer.get("Attributes") or {})


def tags(clients: Clients, url: str) -> dict[str, str]:
    """All tags of a queue. One request."""
    return dict(clients.sqs("list_queue_tags", QueueUrl=url).get("Tags") or {})


def topic_attributes(clients: Clients, arn: str) -> dict[str, str]:
    """All attributes of a topic. One request."""
    return dict(clients.sns("get_topic_attributes", TopicArn=arn).get("Attributes") or {})


def topic_tags(clients: Clients, arn: str) -> dict[str, str]:
    """All tags of a topic. One request."""
    answer = clients.sns("list_tags_for_resource", ResourceArn=arn)
    return {tag["Key"]: tag["Value"] for tag in answer.get("Tags") or ()}


def subscription(clients: Clients, arn: str) -> dict[str, str]:
    """All attributes of a subscription. One request."""
    return dict(clients.sns("get_subscription_attributes", SubscriptionArn=arn)["Attributes"])


def subscriptions(clients: Clients, topic_arn: str) -> Iterator[dict[str, str]]:
    """Every subscription of a topic, with ``Endpoint``, ``Protocol``, ``Owner`` and ``SubscriptionArn``.

    A request brings 100 of them, and is made when the caller gets there. Thirty such requests a second are all that AWS
    allows an account: for clean-up and for people, not for declaring.
    """
    pages = _pages(lambda token: clients.sns("list_subscriptions_by_topic", TopicArn=topic_arn, **token))
    return chain.from_iterable(page.get("Subscriptions") or () for page in pages)


def topics(clients: Clients) -> list[str]:
    """The ARN of every topic of the account in this region."""
    pages = _pages(lambda token: clients.sns("list_topics", **token))
    return [item["TopicArn"] for page in pages for item in page.get("Topics") or ()]


def queues(clients: Clients, prefix: str) -> list[QueueUrl]:
    """The URL of every queue whose name in AWS has a prefix."""
    return list(chain.from_iterable(queue_pages(clients, prefix)))


def queue_pages(clients: Clients, prefix: str) -> Iterator[list[QueueUrl]]:
    """As :func:`queues`, page by page: a request brings 1,000 at most, and is made when the caller gets there."""
    params: dict[str, Any] = {"MaxResults": SQS_LIST_PAGE} | ({"QueueNamePrefix": prefix} if prefix else {})
    for page in _pages(lambda token: clients.sqs("list_queues", **params, **token)):
        yield [QueueUrl(url) for url in page.get("QueueUrls") or ()]


def _pages(request: Callable[[dict[str, str]], dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Each answer to a request, which gets the token of the page before."""
    token: dict[str, str] = {}
    while True:
        answer = request(token)
        yield answer
        if not answer.get("NextToken"):
            return
        token = {"NextToken": answer["NextToken"]}
