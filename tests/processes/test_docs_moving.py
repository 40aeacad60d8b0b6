"""The program in docs/from-redis-rabbitmq.md that takes over what is left in another broker."""

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu import Connection, Exchange, Queue
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport.filesystem import Transport as FilesystemTransport
from support.pages import DOCS, blocks

PAGE = DOCS / "from-redis-rabbitmq.md"


@pytest.fixture
def old_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A broker of files, whose messages outlive the connection; it takes no folder from a URL."""
    folder = str(tmp_path / "old")
    Path(folder).mkdir()
    options = {"data_folder_in": folder, "data_folder_out": folder, "control_folder": f"{folder}/control"}

    class Transport(FilesystemTransport):  # type: ignore[misc]
        def __init__(self, client: Any, **kwargs: Any) -> None:
            client.transport_options.update(options)
            super().__init__(client, **kwargs)

    monkeypatch.setattr("kombu.transport.filesystem.Transport", Transport)
    monkeypatch.setitem(TRANSPORT_ALIASES, "old", "kombu.transport.filesystem:Transport")
    return "old://"


def added(x: int, y: int) -> int:
    return x + y


def take_over(*arguments: str) -> int:
    [block] = [block for block in blocks(PAGE, "python") if block.code.startswith("# take_over.py\n")]
    space: dict[str, Any] = {}
    exec(block.code, space)
    return int(space["take_over"](*arguments))


def test_everything_that_waits_is_taken_over_to_its_own_queue(old_url: str, hake_url: str) -> None:
    app = Celery("shop", broker=old_url, set_as_current=False)
    app.conf.task_compression = "gzip"
    add = app.task(name="shop.add")(added)
    orders = Exchange("orders", type="fanout")
    with app.connection_for_write() as connection:
        for group in ("email", "inventory"):
            Queue(group, orders)(connection.default_channel).declare()
        add.apply_async((1, 2), connection=connection, queue="email")
        eta = datetime.now(timezone.utc) + timedelta(days=2)
        add.apply_async((3, 4), connection=connection, queue="email", eta=eta)
    with Connection(hake_url) as new:
        for group in ("email", "inventory"):
            Queue(group, orders)(new.default_channel).declare()

    assert take_over(old_url, hake_url, "email") == 2
    assert take_over(old_url, hake_url, "email") == 0

    with Connection(hake_url) as new:
        message = Queue("email")(new.default_channel).get(accept=["json"])
        assert message.headers["task"] == "shop.add"
        assert message.payload[0] == [1, 2]
        message.ack()
        sizes = {name: new.default_channel.queue_declare(name, passive=True) for name in ("email", "inventory")}
        sqs = new.default_channel.connection.client.transport.clients.sqs
        url = new.default_channel.connection.client.transport.topology.queues.url("email")
        answer = sqs("get_queue_attributes", QueueUrl=url, AttributeNames=["ApproximateNumberOfMessagesDelayed"])
    assert sizes["email"].message_count == sizes["inventory"].message_count == 0
    assert answer["Attributes"] == {"ApproximateNumberOfMessagesDelayed": "1"}
