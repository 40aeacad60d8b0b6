"""pytest fixtures for apps that use ``hake://``. pytest finds them once ``kombu-hake[testing]`` is installed.

This module is imported at the start of every pytest run where the package is installed, so it imports almost nothing.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

if TYPE_CHECKING:
    from kombu_hake.testing import EmbeddedAWS


@pytest.fixture(scope="session")
def hake_aws() -> "Iterator[EmbeddedAWS]":
    """An embedded AWS for the whole test run (see :func:`kombu_hake.testing.embedded_aws`)."""
    from kombu_hake.testing import embedded_aws

    with embedded_aws() as aws:
        yield aws


@pytest.fixture
def hake_url(hake_aws: "EmbeddedAWS") -> str:
    """A ``hake://`` broker URL in a namespace that no other test has used."""
    return hake_aws.in_namespace(f"test-{uuid4().hex[:12]}").url
