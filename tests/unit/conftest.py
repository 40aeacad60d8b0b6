"""Fixtures that many modules need; a module that needs another AWS has a fixture ``fake`` of its own."""

import pytest
from fakes import FakeClients
from publishing import Process


@pytest.fixture
def fake() -> FakeClients:
    return FakeClients()


@pytest.fixture
def here(fake: FakeClients) -> Process:
    return Process(fake)


@pytest.fixture
def elsewhere(fake: FakeClients) -> Process:
    return Process(fake)
