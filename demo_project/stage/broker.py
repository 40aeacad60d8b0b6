"""Where the messages of the show go: an embedded AWS, or whatever a broker URL says."""

import argparse
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from uuid import uuid4

from kombu_hake.admin import Desk, open_desk
from kombu_hake.config import SCHEME, join_url, load, mask_url, split_url
from kombu_hake.exceptions import HakeError
from kombu_hake.testing import embedded_aws
from stage.processes import StageError

FRESH = "shop-demo-"


class Unusable(StageError):
    """The broker does not let anybody in."""


def broker_url(text: str) -> str:
    """A ``hake://`` URL, for argparse."""
    if not text.startswith(f"{SCHEME}://"):
        raise argparse.ArgumentTypeError(f"{mask_url(text)!r} is not a {SCHEME}:// URL")
    try:
        load(split_url(text), {}, os.environ)
    except HakeError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc
    return text


@contextmanager
def messages(url: str | None, lease_s: int | None) -> Iterator[str]:
    """Yields the broker URL, which is also in the environment for all processes.

    A URL without a namespace gets a new one, whose queues and topics are deleted at the end. One that is named is the
    user's, and everything in it stays.

    Args:
        url: None for an embedded AWS.
        lease_s: Visibility timeout, where the URL does not say; None for the usual.
    Raises:
        StageError: the embedded AWS does not start.
    """
    if url is None:
        with ExitStack() as doors:
            try:
                aws = doors.enter_context(embedded_aws())
            except (ModuleNotFoundError, RuntimeError) as exc:
                raise StageError(str(exc)) from exc
            yield _in_use(aws.url, lease_s)
        return
    parts = split_url(url)
    is_fresh = not parts.namespace and "namespace" not in parts.query
    if is_fresh:
        parts = parts._replace(namespace=FRESH + uuid4().hex[:8])
    in_use = _in_use(join_url(parts), lease_s)
    try:
        yield in_use
    except Unusable:
        is_fresh = False  # nothing was made
        raise
    finally:
        if is_fresh:
            _remove_all(parts.namespace)


def lease_s(url: str) -> int:
    """Visibility timeout of a broker URL."""
    return load(split_url(url), {}, os.environ).visibility_timeout


def _in_use(url: str, lease_s: int | None) -> str:
    parts = split_url(url)
    if lease_s is not None:
        parts = parts._replace(query={"visibility_timeout": str(lease_s), **parts.query})
    os.environ["HAKE_BROKER_URL"] = join_url(parts)
    return os.environ["HAKE_BROKER_URL"]


def check_that_it_answers() -> None:
    """Raises: Unusable, with what it said."""
    from shop.celery import app

    try:
        with open_desk(app) as desk:
            desk.groups()
    except HakeError as exc:
        raise Unusable(f"the broker {mask_url(app.conf.broker_url)} can't be used: {exc}") from exc


def _remove_all(namespace: str) -> None:
    """Delete every queue and topic of a namespace that this process made up."""
    from shop.celery import app

    assert namespace.startswith(FRESH)
    try:
        with open_desk(app) as desk:
            for url in _queues(desk, namespace):
                desk.clients.sqs("delete_queue", QueueUrl=url)
            for arn in _topics(desk, namespace):
                for subscription in _subscriptions(desk, arn):
                    desk.clients.sns("unsubscribe", SubscriptionArn=subscription)
                desk.clients.sns("delete_topic", TopicArn=arn)
    except HakeError as exc:
        print(f"\nQueues and topics whose names begin with {namespace}__ may be left: {exc}", flush=True)


def _queues(desk: Desk, namespace: str) -> list[str]:
    return list(desk.clients.sqs("list_queues", QueueNamePrefix=f"{namespace}__").get("QueueUrls") or [])


def _topics(desk: Desk, namespace: str) -> list[str]:
    arns = [topic["TopicArn"] for page in _pages(desk, "list_topics") for topic in page.get("Topics") or []]
    return [arn for arn in arns if arn.rpartition(":")[2].startswith(f"{namespace}__")]


def _subscriptions(desk: Desk, topic_arn: str) -> list[str]:
    pages = _pages(desk, "list_subscriptions_by_topic", TopicArn=topic_arn)
    return [item["SubscriptionArn"] for page in pages for item in page.get("Subscriptions") or []]


def _pages(desk: Desk, operation: str, **params: str) -> Iterator[dict[str, object]]:
    token: dict[str, str] = {}
    while True:
        page = desk.clients.sns(operation, **params, **token)
        yield page
        if not page.get("NextToken"):
            return
        token = {"NextToken": page["NextToken"]}
