"""Several broker URLs in one: kombu tries the next when connecting to one fails."""

from uuid import uuid4

import pytest
from celery import Celery
from kombu import Connection
from support.emulators import Emulator

from kombu_hake.exceptions import BrokerUnavailable


@pytest.fixture
def aws(moto: Emulator) -> Emulator:
    return moto.in_namespace(f"p{uuid4().hex[:8]}")


def dead(aws: Emulator) -> str:
    return aws.url().replace(f":{aws.port}/", ":1/")


def test_the_second_url_is_used_where_the_first_does_not_answer(aws: Emulator) -> None:
    seen: list[Exception] = []
    with Connection(f"{dead(aws)};{aws.url()}") as connection:
        connection.ensure_connection(
            errback=lambda exc, interval: seen.append(exc), max_retries=3, interval_start=0, interval_step=0
        )
        assert [type(exc) for exc in seen] == [BrokerUnavailable]
        assert connection.connected
        assert f":{aws.port}" in connection.as_uri()
        assert ":**@" in connection.as_uri()
        queue = connection.SimpleQueue("q")
        queue.put("hello")
        message = queue.get(timeout=10)
        assert message.payload == "hello"
        message.ack()
        connection.heartbeat_check()
        queue.close()


def test_a_connection_goes_from_one_url_to_the_next_and_back(aws: Emulator) -> None:
    other = aws.in_namespace(f"p{uuid4().hex[:8]}")
    with Connection(f"{aws.url()};{other.url()}") as connection:
        connection.SimpleQueue("q").put("in one")
        before = connection.transport
        connection.maybe_switch_next()
        assert not before.connected
        queue = connection.SimpleQueue("q")
        queue.put("in the other")
        message = queue.get(timeout=10)
        assert message.payload == "in the other"
        message.ack()
        with connection.clone() as clone:
            clone.SimpleQueue("q").put("in the other, too")
        message = queue.get(timeout=10)
        assert message.payload == "in the other, too"
        message.ack()
        connection.maybe_switch_next()
        message = connection.SimpleQueue("q").get(timeout=10)
        assert message.payload == "in one"
        message.ack()


def test_celery_takes_several_urls(aws: Emulator) -> None:
    app = Celery(broker=[dead(aws), aws.url()], set_as_current=False)
    with app.connection_for_write() as connection:
        connection.ensure_connection(max_retries=3, interval_start=0, interval_step=0)
        app.send_task("x", connection=connection)
    with Connection(aws.url()) as connection:
        assert connection.SimpleQueue("celery").get(timeout=10).headers["task"] == "x"
