"""Fixtures that many modules need; a module that needs another one has its own under the same name."""

from collections.abc import Iterator

import pytest
from fakes import FakeClients, connected
from kombu import Connection
from publishing import Process
from support.large_messages import fake_with_bucket

from kombu_hake.channel import Channel


@pytest.fixture
def fake() -> FakeClients:
    """An AWS with nothing in it but a bucket for large messages."""
    return fake_with_bucket()


@pytest.fixture
def here(fake: FakeClients) -> Process:
    return Process(fake)


@pytest.fixture
def elsewhere(fake: FakeClients) -> Process:
    return Process(fake)


@pytest.fixture
def connection(fake: FakeClients) -> Iterator[Connection]:
    with connected(fake, ack_linger_s=0.0, visibility_timeout=60) as made:
        yield made


@pytest.fixture
def channel(connection: Connection) -> Channel:
    made: Channel = connection.channel()
    return made
