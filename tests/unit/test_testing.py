"""The embedded AWS: its address, its life, and the two promises it makes beyond moto's own."""

import importlib.util
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from kombu_hake import testing
from kombu_hake.testing import EmbeddedAWS, embedded_aws


def test_url_holds_address_namespace_and_region() -> None:
    assert EmbeddedAWS(port=4100).url == "hake://testing:testing@127.0.0.1:4100/?region=us-east-1"
    assert EmbeddedAWS(port=4100, namespace="shop").url == "hake://testing:testing@127.0.0.1:4100/shop?region=us-east-1"


def test_namespace_is_quoted_in_the_url() -> None:
    assert "/a%2Fb%20c?" in EmbeddedAWS(port=1).in_namespace("a/b c").url


def test_missing_moto_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "moto" else find_spec(name))
    with pytest.raises(ModuleNotFoundError, match=r"pip install kombu-hake\[testing\]"), embedded_aws():
        pass


def test_pytest_plugin_imports_no_aws_library() -> None:
    heavy = ["boto3", "botocore", "moto", "celery", "flask"]
    code = f"import sys, kombu_hake.pytest_plugin; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_server_starts_in_spite_of_a_broken_aws_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
    with embedded_aws() as aws:
        monkeypatch.delenv("AWS_PROFILE")
        assert aws.client("sns").list_topics()["Topics"] == []


def test_port_in_use_is_an_error(hake_aws: EmbeddedAWS) -> None:
    with pytest.raises(RuntimeError, match="did not start"), embedded_aws(port=hake_aws.port):
        pass


def test_reset_forgets_everything() -> None:
    with embedded_aws() as aws:
        aws.client("sqs").create_queue(QueueName="q")
        aws.client("sns").create_topic(Name="t")
        aws.reset()
        assert not aws.client("sqs").list_queues().get("QueueUrls")
        assert not aws.client("sns").list_topics()["Topics"]


def test_server_ends_when_the_process_that_started_it_is_killed() -> None:
    code = (
        "import os, signal\n"
        "from kombu_hake.testing import embedded_aws\n"
        "with embedded_aws() as aws:\n"
        "    print(aws.port, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    starter = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert starter.returncode == -signal.SIGKILL
    _wait_for(lambda: not _listening(int(starter.stdout)))


@pytest.mark.parametrize("port", ["99999", "-1", "abc"])
def test_a_port_that_is_none_is_refused(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        testing.main(["--port", port])
    assert f"'{port}' is not a port from 0 to 65535" in capsys.readouterr().err


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_server_started_by_hand_prints_its_address_and_ends_quietly(signum: signal.Signals) -> None:
    server = subprocess.Popen(
        [sys.executable, "-m", "kombu_hake.testing", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with server:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        assert _listening(int(address.rpartition(":")[2]))
        os.kill(server.pid, signum)
        _, errors = server.communicate(timeout=10)
    assert (server.returncode, errors) == (0, "")


def test_requests_are_handled_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = pytest.importorskip("moto.sqs.models").SQSBackend
    monkeypatch.setattr(backend, "receive_message", backend.receive_message)  # puts it back afterwards
    inside, seen = 0, []

    def moto(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        nonlocal inside
        inside += 1
        seen.append(inside)
        time.sleep(0.01)  # the work of a request; long enough for another one to come in if nothing stops it
        inside -= 1
        return []

    app = testing._one_request_at_a_time(moto)
    callers = [threading.Thread(target=app, args=({"wsgi.input": io.BytesIO()}, None)) for _ in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert seen == [1] * 8


@pytest.mark.parametrize("leaves", [False, True])
def test_a_request_whose_client_has_left_is_not_served(monkeypatch: pytest.MonkeyPatch, leaves: bool) -> None:
    backend = pytest.importorskip("moto.sqs.models").SQSBackend
    monkeypatch.setattr(backend, "receive_message", backend.receive_message)  # puts it back afterwards
    served = []

    def moto(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        served.append(environ)
        return []

    ours, clients = socket.socketpair()
    with ours, clients:
        if leaves:
            clients.close()
        environ = {"wsgi.input": io.BytesIO(), "werkzeug.socket": ours}
        assert list(testing._one_request_at_a_time(moto)(environ, lambda *args: None)) == []
    assert bool(served) != leaves


def test_two_consumers_never_get_the_same_message(queue: "Queue") -> None:
    expected = {str(n) for n in range(60)}
    received: list[str] = []

    def consume() -> None:
        own = Queue(queue.aws, queue.url)
        while len(received) < len(expected) and (messages := own.receive(wait_s=2, count=3)):
            received.extend(message["Body"] for message in messages)
            for message in messages:
                own.delete(message)

    consumers = [threading.Thread(target=consume) for _ in range(4)]
    for consumer in consumers:
        consumer.start()
    # While the others receive and delete: a message sent in the middle of a delete must not vanish.
    for body in expected:
        queue.send(body)
    for consumer in consumers:
        consumer.join()
    assert sorted(received) == sorted(expected)


def test_long_poll_answers_as_soon_as_a_message_is_sent(queue: "Queue") -> None:
    def send() -> None:
        queue.send("late")

    assert _seconds_until_answer(queue, after=send) < 0.4


def test_long_poll_answers_as_soon_as_a_message_is_released(queue: "Queue") -> None:
    queue.send("again")
    (message,) = queue.receive(wait_s=5)

    assert _seconds_until_answer(queue, after=lambda: queue.release(message)) < 0.4


def test_long_poll_answers_when_a_lease_ends_by_the_clock(queue: "Queue") -> None:
    queue.send("leased")
    queue.receive(wait_s=5, visibility_timeout_s=1)
    assert [message["Body"] for message in queue.receive(wait_s=10)] == ["leased"]


def test_empty_long_poll_lasts_as_long_as_asked(queue: "Queue") -> None:
    started = time.monotonic()
    assert queue.receive(wait_s=1) == []
    assert 0.9 < time.monotonic() - started < 3


class Queue:
    """One SQS queue through its own boto3 client."""

    def __init__(self, aws: EmbeddedAWS, url: str) -> None:
        self.aws, self.url, self._sqs = aws, url, aws.client("sqs")

    def send(self, body: str) -> None:
        self._sqs.send_message(QueueUrl=self.url, MessageBody=body)

    def receive(self, wait_s: int, count: int = 1, visibility_timeout_s: int = 60) -> list[dict[str, Any]]:
        answer = self._sqs.receive_message(
            QueueUrl=self.url,
            WaitTimeSeconds=wait_s,
            MaxNumberOfMessages=count,
            VisibilityTimeout=visibility_timeout_s,
        )
        return answer.get("Messages", [])

    def delete(self, message: dict[str, Any]) -> None:
        self._sqs.delete_message(QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"])

    def release(self, message: dict[str, Any]) -> None:
        handle = message["ReceiptHandle"]
        self._sqs.change_message_visibility(QueueUrl=self.url, ReceiptHandle=handle, VisibilityTimeout=0)


@pytest.fixture
def queue(hake_aws: EmbeddedAWS, request: pytest.FixtureRequest) -> Queue:
    name = request.node.name.replace("[", "-").replace("]", "")[:80]
    return Queue(hake_aws, hake_aws.client("sqs").create_queue(QueueName=name)["QueueUrl"])


def _seconds_until_answer(queue: Queue, after: Callable[[], None]) -> float:
    """Start a long poll, wait until the server holds it, then act: seconds from the act to the answer."""
    answered: list[float] = []

    def poll() -> None:
        assert queue.receive(wait_s=20)
        answered.append(time.monotonic())

    poller = threading.Thread(target=poll)
    poller.start()
    time.sleep(0.2)  # nothing tells from outside that the server has begun to wait
    acted = time.monotonic()
    after()
    poller.join()
    return answered[0] - acted


def _listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _wait_for(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.05)
