"""Answers that are not AWS's mean that AWS is away, whichever call gets them and by whichever way."""

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.odd_answers import HUGE, MESSAGE, ODD, ODD_RECEIVES
from support.proxy import Proxy
from support.proxy_http import response
from support.proxy_rules import Rule

from kombu_hake.aws import clients as clients_module
from kombu_hake.aws import http as http_module
from kombu_hake.aws import timely as timely_module
from kombu_hake.aws import wire as wire_module
from kombu_hake.aws.answers import checked
from kombu_hake.aws.clients import Clients
from kombu_hake.config.settings import load, split_url
from kombu_hake.exceptions import BrokerUnavailable

QUEUE_URL = "http://localhost/000000000000/q"
TOPIC = "arn:aws:sns:us-east-1:000000000000:t"
ENTRIES = [{"Id": str(i), "MessageBody": "x"} for i in range(3)]
CALLS: list[tuple[str, str, dict[str, Any]]] = [
    ("sqs", "receive_message", {"QueueUrl": QUEUE_URL, "MaxNumberOfMessages": 10, "WaitTimeSeconds": 0}),
    ("sqs", "send_message", {"QueueUrl": QUEUE_URL, "MessageBody": "x"}),
    ("sqs", "get_queue_url", {"QueueName": "q"}),
    ("sqs", "tag_queue", {"QueueUrl": QUEUE_URL, "Tags": {"a": "b"}}),
    ("sns", "publish", {"TopicArn": TOPIC, "Message": "x"}),
    ("sns", "delete_topic", {"TopicArn": TOPIC}),
]


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    with Proxy("http://127.0.0.1:9") as found:
        yield found


def make_clients(endpoint_url: str, **options: Any) -> Clients:
    options = {"endpoint_url": endpoint_url, "region": "us-east-1", "max_attempts": 1, "read_timeout": 1.0, **options}
    return Clients(load(split_url("hake://k:s@"), options, {}))


@pytest.fixture(scope="module")
def clients(proxy: Proxy) -> Clients:
    return make_clients(proxy.endpoint_url)


def call(clients: Clients, service: str, operation: str, params: dict[str, Any]) -> Any:
    return getattr(clients, service)(operation, **params)


#: Right for some call: a text of JSON that a service of the query protocol would not send, and the other way round.
FITS = {"tag_queue": {name for name in ODD if name.startswith("receive_")}}


@pytest.mark.parametrize(("service", "operation", "params"), CALLS, ids=[c[1] for c in CALLS])
@pytest.mark.parametrize("odd", ODD)
def test_an_odd_answer_means_that_aws_is_away(
    odd: str, service: str, operation: str, params: dict[str, Any], proxy: Proxy, clients: Clients
) -> None:
    if odd in FITS.get(operation, ()):
        pytest.skip("nothing is read from the answer to this call")
    proxy.rules = [Rule("odd", odd=odd)]
    with pytest.raises(BrokerUnavailable) as caught:
        call(clients, service, operation, params)
    assert not caught.value.is_throttle
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("odd", ["html_200", "html_403", "xhtml_200", "empty_302", "json_200_list"])
def test_an_odd_answer_of_sts_means_that_aws_is_away(odd: str, proxy: Proxy, clients: Clients) -> None:
    proxy.rules = [Rule("odd", odd=odd)]
    with pytest.raises(BrokerUnavailable):
        clients.caller_account()
    role = make_clients(proxy.endpoint_url, role_arn="arn:aws:iam::123456789012:role/r")
    with pytest.raises(BrokerUnavailable):
        role.sqs("send_message", QueueUrl=QUEUE_URL, MessageBody="x")


def test_a_redirect_is_not_followed(proxy: Proxy, clients: Clients) -> None:
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.setblocking(False)
        location = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/"
        ODD["redirect"] = response(307, "text/plain", b"", Location=location)
        try:
            for service, operation, params in CALLS:
                proxy.rules = [Rule("odd", odd="redirect")]
                with pytest.raises(BrokerUnavailable):
                    call(clients, service, operation, params)
        finally:
            del ODD["redirect"]
        with pytest.raises(BlockingIOError):
            elsewhere.accept()


@pytest.mark.parametrize(("service", "operation", "params"), [CALLS[0], CALLS[2], CALLS[4]])
def test_a_body_larger_than_any_of_aws_is_not_kept(
    service: str, operation: str, params: dict[str, Any], proxy: Proxy, clients: Clients
) -> None:
    ODD["huge"] = HUGE
    try:
        proxy.rules = [Rule("odd", odd="huge")]
        with pytest.raises(BrokerUnavailable, match="bytes"):
            call(clients, service, operation, params)
    finally:
        del ODD["huge"]


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        (b"Transfer-Encoding: chunked\r\n\r\nFFFFF\r\n", b" "),
        (b"Content-Length: 100000\r\n\r\n", b" "),
    ],
    ids=["chunks", "a slow chunk", "a length"],
)
@pytest.mark.parametrize(("service", "operation", "params"), [CALLS[0], CALLS[2]])
def test_a_body_that_never_ends_is_given_up(
    service: str, operation: str, params: dict[str, Any], head: bytes, piece: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (http_module, timely_module):
        monkeypatch.setattr(module, "MOST_S", 0.2)
    is_over = threading.Event()

    def drip(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\n" + head)
            while not is_over.wait(0.02):
                try:
                    connection.sendall(piece)
                except OSError:
                    return

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=drip, args=(server,), daemon=True)
        thread.start()
        found = make_clients(f"http://127.0.0.1:{server.getsockname()[1]}")
        try:
            with pytest.raises(BrokerUnavailable):
                call(found, service, operation, params)
        finally:
            is_over.set()
            thread.join(10)


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\nDate: "], ids=["the status", "a header"])
@pytest.mark.parametrize(("service", "operation", "params"), [CALLS[0], CALLS[2]])
def test_headers_that_never_end_are_given_up(
    service: str, operation: str, params: dict[str, Any], head: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (http_module, timely_module):
        monkeypatch.setattr(module, "MOST_S", 0.2)
    monkeypatch.setattr(wire_module, "read_timeout_s", lambda *_args: 0.3)
    monkeypatch.setattr(clients_module, "read_timeout_s", lambda *_args: 0.3)
    is_over = threading.Event()
    closed: list[bool] = []

    def drip(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(head)
            for _ in range(500):  # ten seconds, and less than a header may have
                if is_over.wait(0.02):
                    return
                try:
                    connection.sendall(b"H")
                except OSError:
                    closed.append(True)
                    return

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=drip, args=(server,), daemon=True)
        thread.start()
        found = make_clients(f"http://127.0.0.1:{server.getsockname()[1]}")
        try:
            with pytest.raises(BrokerUnavailable):
                call(found, service, operation, params)
            thread.join(10)  # the connection is closed, not kept for the next call
            assert closed
        finally:
            is_over.set()
            thread.join(10)


def test_a_foreign_date_does_not_move_our_clock(proxy: Proxy) -> None:
    found = make_clients(proxy.endpoint_url)
    ODD["dated"] = response(200, "text/html", b"<html>", Date="Mon, 01 Jan 2001 00:00:00 GMT")
    try:
        proxy.rules = [Rule("odd", odd="dated")]
        for service, operation, params in CALLS:
            with pytest.raises(BrokerUnavailable):
                call(found, service, operation, params)
    finally:
        del ODD["dated"]
    assert found._clock.offset_s == 0


def test_guarding_botocore_keeps_its_answers(proxy: Proxy, clients: Clients) -> None:
    ODD["fine"] = response(200, "application/x-amz-json-1.0", b'{"QueueUrl": "http://x/1/q"}')
    ODD["empty"] = response(200, "application/x-amz-json-1.0", b"")
    try:
        proxy.rules = [Rule("odd", odd="fine")]
        assert clients.sqs("get_queue_url", QueueName="q")["QueueUrl"] == "http://x/1/q"
        proxy.rules = [Rule("odd", odd="empty")]
        clients.sqs("tag_queue", QueueUrl=QUEUE_URL, Tags={})
    finally:
        del ODD["fine"], ODD["empty"]


# --- shapes, without a wire


@pytest.mark.parametrize("answer", ODD_RECEIVES.values(), ids=ODD_RECEIVES)
def test_a_receive_of_odd_shape_is_refused(answer: dict[str, Any]) -> None:
    with pytest.raises(BrokerUnavailable):
        checked("sqs", "receive_message", {"MaxNumberOfMessages": 10}, answer)


@pytest.mark.parametrize("answer", [{}, {"Messages": None}, {"Messages": []}, {"Messages": [MESSAGE]}])
def test_a_receive_as_aws_answers_it_passes(answer: dict[str, Any]) -> None:
    assert checked("sqs", "receive_message", {"MaxNumberOfMessages": 1}, answer) is answer


def failed_of(answer: dict[str, Any], operation: str = "send_message_batch") -> list[str]:
    return [entry["Id"] for entry in checked("sqs", operation, {"Entries": ENTRIES}, answer)["Failed"]]


@pytest.mark.parametrize("operation", ["send_message_batch", "delete_message_batch", "change_message_visibility_batch"])
def test_an_entry_that_an_answer_does_not_name_counts_as_failed(operation: str) -> None:
    assert failed_of({"Successful": [{"Id": "0"}], "Failed": [{"Id": "2"}]}, operation) == ["1", "2"]
    assert failed_of({}, operation) == ["0", "1", "2"]
    assert failed_of({"Successful": [{"Id": str(i)} for i in range(3)]}, operation) == []


def test_an_id_in_both_lists_or_of_no_entry_is_no_success() -> None:
    answer = {"Successful": [{"Id": i} for i in ("0", "0", "1", "2", "9")], "Failed": [{"Id": "1"}, {"Id": "77"}]}
    assert failed_of(answer) == ["1"]


@pytest.mark.parametrize(
    "answer",
    [{"Failed": "x"}, {"Successful": {"Id": "0"}}, {"Failed": [None]}, {"Failed": [{"Id": 0}]}, {"Failed": [{}]}],
)
def test_a_batch_answer_of_odd_shape_is_refused(answer: dict[str, Any]) -> None:
    with pytest.raises(BrokerUnavailable):
        failed_of(answer)


@pytest.mark.parametrize(
    ("service", "operation", "params", "answer"),
    [
        ("sqs", "get_queue_url", {"QueueName": "q"}, {}),
        ("sqs", "get_queue_url", {"QueueName": "q"}, {"QueueUrl": 5}),
        ("sqs", "get_queue_url", {"QueueName": "q"}, {"QueueUrl": "file:///q"}),
        ("sqs", "get_queue_url", {"QueueName": "q"}, {"QueueUrl": "http://[/1/q"}),
        ("sqs", "get_queue_url", {"QueueName": "q"}, {"QueueUrl": "http://host/1/other"}),
        ("sqs", "create_queue", {"QueueName": "q"}, {"QueueUrl": None}),
        ("sqs", "get_queue_attributes", {}, {"Attributes": []}),
        ("sqs", "get_queue_attributes", {"AttributeNames": ["Policy", "QueueArn"]}, {}),
        ("sqs", "get_queue_attributes", {"AttributeNames": ["QueueArn"]}, {"Attributes": {"QueueArn": "work"}}),
        ("sqs", "get_queue_attributes", {}, {"Attributes": {"LastModifiedTimestamp": "1e999"}}),
        ("sqs", "get_queue_attributes", {}, {"Attributes": {"ApproximateNumberOfMessages": "9" * 5000}}),
        ("sqs", "get_queue_attributes", {}, {"Attributes": {"RedrivePolicy": {"a": 1}}}),
        ("sqs", "list_queue_tags", {}, {"Tags": {"a": 1}}),
        ("sqs", "list_queues", {}, {"QueueUrls": [1]}),
        ("sqs", "list_queues", {}, {"NextToken": {}}),
        ("sqs", "send_message", {}, {}),
        ("sns", "publish", {}, {}),
        ("sns", "create_topic", {"Name": "t"}, {}),
        ("sns", "create_topic", {"Name": "t"}, {"TopicArn": "arn:aws:sns:r:1:other"}),
        ("sns", "subscribe", {}, {}),
        ("sns", "subscribe", {}, {"SubscriptionArn": "pending confirmation"}),
        ("sns", "get_topic_attributes", {}, {}),
        ("sns", "get_topic_attributes", {}, {"Attributes": {"SubscriptionsConfirmed": "-1"}}),
        ("sns", "get_subscription_attributes", {}, {"Attributes": None}),
        ("sns", "list_subscriptions_by_topic", {}, {"Subscriptions": [{"Endpoint": "x"}]}),
        ("sns", "list_tags_for_resource", {}, {"Tags": [{"Key": "a"}]}),
        ("sts", "get_caller_identity", {}, {"Account": "hello"}),
        ("cloudwatch", "get_metric_data", {}, {"MetricDataResults": [{"Id": "q0", "Values": ["x"]}]}),
    ],
)
def test_a_field_that_callers_read_is_there(service: str, operation: str, params: Any, answer: Any) -> None:
    with pytest.raises(BrokerUnavailable, match=operation):
        checked(service, operation, params, answer)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["Messages", "Body", "Id", "Failed", "Successful", "Attributes", "QueueUrl", "Tags", "Key"])
            | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(
    json_values,
    st.sampled_from(
        ["receive_message", "send_message_batch", "get_queue_url", "get_queue_attributes", "list_queue_tags"]
    ),
)
def test_no_answer_raises_anything_else(answer: object, operation: str) -> None:
    with suppress(BrokerUnavailable):
        checked("sqs", operation, {"Entries": ENTRIES, "QueueName": "q"}, answer)


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), ImportError("no descriptor")])
@pytest.mark.parametrize("part", ["_session", "_client", "Wire"])
def test_a_client_that_cannot_be_made_for_now_means_that_aws_is_away(
    part: str, error: Exception, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = make_clients(proxy.endpoint_url)

    class Failing:
        can_serve = staticmethod(lambda *args: True)

        def __init__(self, *args: Any) -> None:
            raise error

    with monkeypatch.context() as patch:
        patch.setattr(clients_module, part, Failing)
        with pytest.raises(BrokerUnavailable):
            found.sqs("send_message", QueueUrl=QUEUE_URL, MessageBody="x")
