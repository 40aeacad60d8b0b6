"""Where the messages of the demo go: an embedded AWS, or a broker URL."""

import argparse
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

from kombu import Connection
from kombu.utils.url import maybe_sanitize_url

from kombu_hake.admin import connect
from kombu_hake.exceptions import HakeError
from kombu_hake.testing import embedded_aws
from show.stage.processes import StageError

SCHEME = "hake://"
FRESH = "shop-demo-"


class Unusable(StageError):
    """The broker refuses the connection."""


def broker_url(text: str) -> str:
    """A ``hake://`` URL, for argparse."""
    if not text.startswith(SCHEME):
        raise argparse.ArgumentTypeError(f"{maybe_sanitize_url(text).rstrip('/')!r} is not a {SCHEME} URL")
    try:
        # With topology=assume, connecting checks URL and options, and asks AWS nothing.
        with Connection(text, transport_options={"topology": "assume"}) as connection:
            connection.connect()
    except HakeError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc
    return text


def shown(url: str) -> str:
    """A broker URL without its secrets."""
    return Connection(url).as_uri()


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
    is_fresh = not urlsplit(url).path.strip("/") and "namespace" not in _options(url)
    namespace = FRESH + uuid4().hex[:8]
    if is_fresh:
        host, mark, options = url.removeprefix(SCHEME).partition("?")
        url = f"{SCHEME}{host.rstrip('/')}/{namespace}{mark}{options}"
    in_use = _in_use(url, lease_s)
    try:
        yield in_use
    except Unusable:
        is_fresh = False  # nothing was made
        raise
    finally:
        if is_fresh:
            _remove_all(namespace)


def lease_s(url: str) -> int:
    """Visibility timeout of a broker URL that names it."""
    return int(_options(url)["visibility_timeout"][0])


def _options(url: str) -> dict[str, list[str]]:
    return parse_qs(urlsplit(url).query)


def _in_use(url: str, lease_s: int | None) -> str:
    if lease_s is not None and "visibility_timeout" not in _options(url):
        url += f"{'&' if '?' in url else '?'}visibility_timeout={lease_s}"
    os.environ["SHOP_BROKER_URL"] = url
    return url


def check_that_it_answers() -> None:
    """Raises: Unusable, with what it said."""
    from shop.celery import app

    try:
        with connect(app) as broker:
            broker.groups()
    except HakeError as exc:
        raise Unusable(f"the broker {shown(app.conf.broker_url)} can't be used: {exc}") from exc


def _remove_all(namespace: str) -> None:
    """Delete every queue and topic of a namespace that this process made up."""
    from shop.celery import app

    assert namespace.startswith(FRESH)
    try:
        with connect(app) as broker:
            broker.delete_namespace(namespace)
    except HakeError as exc:
        print(f"\nQueues and topics whose names begin with {namespace}__ may be left: {exc}", flush=True)
