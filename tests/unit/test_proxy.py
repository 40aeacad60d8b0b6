"""The fault-injecting proxy, in front of an upstream that answers what the test says."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest
from support import aws_wire as wire
from support.proxy import KEYS_PATH, Proxy
from support.proxy_http import Framer, Message, dechunk, header, with_body
from support.proxy_rules import KINDS, Rule, RuleBook, TokenBucket

QUEUE_URL = "http://localhost/000000000000/orders"
TOPIC = "arn:aws:sns:us-east-1:000000000000:events"
SUBSCRIPTION = f"{TOPIC}:5c2a1c4e"
SHORT_S = 0.15


class Upstream:
    """An emulator by hand: notes (action, body) of each request and answers with what ``respond`` returns."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        self.respond: Callable[[str, str], tuple[int, str]] = lambda action, body: (200, "{}")
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                target = self.headers.get("X-Amz-Target", "")
                action = target.rpartition(".")[2] or dict(parse_qsl(body))["Action"]
                upstream.requests.append((action, body))
                status, answer = upstream.respond(action, body)
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer.encode())

            def log_message(self, *args: Any) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def actions(self) -> list[str]:
        return [action for action, _ in self.requests]


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    upstream = Upstream()
    thread = threading.Thread(target=upstream.server.serve_forever, args=(0.01,))
    thread.start()
    yield upstream
    upstream.server.shutdown()
    upstream.server.server_close()
    thread.join()


@pytest.fixture
def proxy(upstream: Upstream) -> Iterator[Proxy]:
    with Proxy(upstream.url, seed=1) as proxy:
        yield proxy


def call(
    proxy: Proxy, headers: dict[str, str], body: str, *, method: str = "POST", path: str = "/"
) -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", int(proxy.endpoint_url.rpartition(":")[2]), timeout=5)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode()
    finally:
        connection.close()


def sqs(proxy: Proxy, action: str, **fields: Any) -> tuple[int, dict[str, Any]]:
    body = json.dumps({"QueueUrl": QUEUE_URL, **fields})
    status, _, answer = call(proxy, {"X-Amz-Target": f"AmazonSQS.{action}"}, body)
    return status, json.loads(answer)


def sns(proxy: Proxy, action: str, **fields: str) -> tuple[int, str]:
    body = urlencode({"Action": action, "TopicArn": TOPIC, **fields})
    status, _, answer = call(proxy, {"Content-Type": "application/x-www-form-urlencoded"}, body)
    return status, answer


def entries(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [{"Id": str(number), "MessageBody": "x", **fields} for number in range(count)]


def sns_entries(count: int) -> dict[str, str]:
    prefix = "PublishBatchRequestEntries.member"
    return {
        f"{prefix}.{number}.{field}": value
        for number in range(1, count + 1)
        for field, value in (("Id", f"e{number}"), ("Message", "m&x=Id=1"))
    }


def messages(*names: str) -> str:
    found = [{"MessageId": name, "ReceiptHandle": f"handle-{name}", "Body": name} for name in names]
    return json.dumps({"Messages": found} if found else {})


def wait_until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.005)


# ---- framing


def test_messages_are_cut_wherever_the_bytes_are_split() -> None:
    raw = b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello"
    for at in range(1, len(raw)):
        framer = Framer()
        assert framer.feed(raw[:at]) is None
        message = framer.feed(raw[at:])
        assert message is not None
        assert message.body == b"hello"


def test_a_chunked_response_goes_on_with_a_length() -> None:
    framer = Framer()
    message = framer.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
    assert message is not None
    assert message.body == b"abcde"
    assert header(message.head, b"content-length") == b"5"
    assert header(message.head, b"transfer-encoding") == b""
    assert dechunk(b"3\r\nab") is None


def test_a_response_without_length_ends_with_its_connection() -> None:
    framer = Framer()
    assert framer.feed(b"HTTP/1.1 200 OK\r\n\r\nabc") is None
    message = framer.at_eof()
    assert message is not None
    assert message.body == b"abc"


def test_a_new_body_gets_its_length() -> None:
    message = with_body(Message(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\nA: b\r\n\r\n", b"x"), b"four")
    assert message.head == b"HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 4\r\n\r\n"


# ---- rules


def test_every_kind_can_be_a_rule_and_others_cannot() -> None:
    assert [Rule(kind).kind for kind in KINDS] == list(KINDS)
    with pytest.raises(ValueError, match="unknown fault 'statsu'"):
        Rule("statsu")


def test_rules_match_by_action_and_target_and_count_down() -> None:
    book = RuleBook([Rule("delay", "*Batch", target="orders", count=2)])
    assert not book.fire("SendMessage", lambda: "orders")
    assert not book.fire("SendMessageBatch", lambda: "celery")
    fired = [len(book.fire("SendMessageBatch", lambda: "orders-x")) for _ in range(3)]
    assert fired == [1, 1, 0]


def test_a_rule_is_not_used_up_by_requests_it_can_do_nothing_to() -> None:
    book = RuleBook([Rule("duplicate", count=1), Rule("recreate_ban"), Rule("partial_failure")])
    assert not book.fire("SendMessage", str)
    assert [rule.kind for rule in book.fire("ReceiveMessage", str)] == ["duplicate"]


def test_a_probability_holds_on_average() -> None:
    book = RuleBook([Rule("delay", probability=0.1)], seed=1)
    assert 60 < sum(bool(book.fire("Publish", str)) for _ in range(1000)) < 140


def test_a_bucket_lets_its_rate_through() -> None:
    bucket = TokenBucket(10, now=0.0)
    assert sum(bucket.take(0.0) for _ in range(20)) == 10
    assert sum(bucket.take(0.5) for _ in range(20)) == 5


# ---- passing on, counting, latency


def test_requests_and_messages_are_counted_by_action(proxy: Proxy, upstream: Upstream) -> None:
    upstream.respond = lambda action, body: (200, messages("a", "b") if action == "ReceiveMessage" else "{}")
    sqs(proxy, "SendMessage", MessageBody='{"Id": "not an entry"}')
    sqs(proxy, "SendMessageBatch", Entries=entries(3, MessageBody='"Id":'))
    sqs(proxy, "ReceiveMessage")
    sns(proxy, "Publish", Message="x")
    sns(proxy, "PublishBatch", **sns_entries(4))
    upstream.respond = lambda action, body: (200, "{}")
    sqs(proxy, "ReceiveMessage")
    stats = proxy.stats()
    sent = {"SendMessage": 1, "SendMessageBatch": 1, "Publish": 1, "PublishBatch": 1}
    assert stats["requests"] == {**sent, "ReceiveMessage": 2}
    assert stats["messages"] == {**sent, "SendMessageBatch": 3, "PublishBatch": 4, "ReceiveMessage": 2}
    assert (stats["empty_receives"], stats["polls"]["orders"]["count"]) == (1, 2)
    assert stats["polls"]["orders"]["first_s"] < stats["polls"]["orders"]["last_s"]
    proxy.reset_stats()
    assert proxy.stats()["requests"] == {}


def test_a_request_of_many_chunks_is_billed_as_many(proxy: Proxy) -> None:
    sqs(proxy, "SendMessage", MessageBody="x" * 130_000)
    assert proxy.stats()["billed"] == {"SendMessage": 2}


def test_a_connection_is_used_again(proxy: Proxy, upstream: Upstream) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", int(proxy.endpoint_url.rpartition(":")[2]), timeout=5)
    for _ in range(3):
        connection.request("POST", "/", "{}", {"X-Amz-Target": "AmazonSQS.ListQueues"})
        assert connection.getresponse().read() == b"{}"
    assert proxy.stats()["connections"] == 1
    connection.close()


def test_latency_is_added_to_each_request_alone(proxy: Proxy, upstream: Upstream) -> None:
    proxy.latency_s = 0.1
    together = threading.Barrier(8)

    def respond(action: str, body: str) -> tuple[int, str]:
        together.wait(20)  # breaks if one is held up until another is done
        return 200, "{}"

    upstream.respond = respond
    started_at = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: sqs(proxy, "SendMessage"), range(8)))
    assert [status for status, *_ in answers] == [200] * 8
    assert time.monotonic() - started_at >= 0.1


def test_a_long_poll_delays_no_other_request(proxy: Proxy, upstream: Upstream) -> None:
    proxy.latency_s = 0.01
    release = threading.Event()

    def respond(action: str, body: str) -> tuple[int, str]:
        if action == "ReceiveMessage":
            release.wait(5)
        return 200, "{}"

    upstream.respond = respond
    with ThreadPoolExecutor(1) as pool:
        poll = pool.submit(sqs, proxy, "ReceiveMessage")
        wait_until(lambda: "ReceiveMessage" in upstream.actions())
        assert sqs(proxy, "SendMessage")[0] == 200
        assert not poll.done()
        release.set()
        assert poll.result(5)[0] == 200


# ---- answers instead of the emulator's


@pytest.mark.parametrize(
    ("rule", "sqs_code", "sns_code", "statuses"),
    [
        (Rule("status"), "InternalFailure;Receiver", "InternalError", (500, 500)),
        (Rule("status", status=503), "ServiceUnavailable;Receiver", "ServiceUnavailable", (503, 503)),
        (Rule("throttle"), "ThrottlingException;Sender", "Throttled", (400, 429)),
        (Rule("throttle", status=403), "RequestThrottled;Sender", "Throttling", (403, 400)),
        (Rule("expired"), "ExpiredToken;Sender", "ExpiredToken", (403, 403)),
        (Rule("access_denied"), "AccessDenied;Sender", "AuthorizationError", (403, 403)),
    ],
)
def test_errors_are_worded_as_aws_does(
    proxy: Proxy, upstream: Upstream, rule: Rule, sqs_code: str, sns_code: str, statuses: tuple[int, int]
) -> None:
    proxy.rules = [rule]
    status, headers, _ = call(proxy, {"X-Amz-Target": "AmazonSQS.SendMessage"}, json.dumps({"QueueUrl": QUEUE_URL}))
    assert (status, headers["x-amzn-query-error"]) == (statuses[0], sqs_code)
    status, xml = sns(proxy, "Publish")
    assert status == statuses[1]
    assert f"<Code>{sns_code}</Code>" in xml
    assert upstream.requests == []


def test_a_denial_names_action_and_resource(proxy: Proxy) -> None:
    proxy.rules = [Rule("access_denied", "Publish")]
    assert f"SNS:Publish on resource: {TOPIC}" in sns(proxy, "Publish")[1]
    assert sns(proxy, "Subscribe")[0] == 200


def test_control_plane_calls_above_the_rate_are_throttled(proxy: Proxy) -> None:
    proxy.rules = [Rule("rate_limit", rate=2)]
    assert [sqs(proxy, "GetQueueAttributes")[0] for _ in range(3)] == [200, 200, 400]
    assert proxy.stats()["faults"] == {"rate_limit": 1}
    assert sqs(proxy, "SendMessage")[0] == 200


def test_a_deleted_queue_cannot_be_made_again_at_once(proxy: Proxy) -> None:
    proxy.rules = [Rule("recreate_ban", seconds=SHORT_S)]
    sqs(proxy, "DeleteQueue")
    status, error = sqs(proxy, "CreateQueue", QueueName="orders", QueueUrl="orders")
    assert (status, error["__type"]) == (400, "com.amazonaws.sqs#QueueDeletedRecently")
    assert sqs(proxy, "CreateQueue", QueueUrl="another")[0] == 200
    wait_until(lambda: sqs(proxy, "CreateQueue", QueueUrl="orders")[0] == 200)


# ---- faults of the connection


def test_a_reset_request_is_not_forwarded(proxy: Proxy, upstream: Upstream) -> None:
    proxy.rules = [Rule("reset", count=1)]
    with pytest.raises(ConnectionResetError):
        sqs(proxy, "SendMessage")
    assert upstream.requests == []
    assert sqs(proxy, "SendMessage")[0] == 200
    assert proxy.stats()["faults"] == {"reset": 1}


def test_a_request_whose_response_is_lost_took_effect(proxy: Proxy, upstream: Upstream) -> None:
    proxy.rules = [Rule("lost_response")]
    with pytest.raises(http.client.RemoteDisconnected):
        sqs(proxy, "SendMessage")
    assert upstream.actions() == ["SendMessage"]


def test_an_answer_that_is_cut_belongs_to_a_request_that_took_effect(proxy: Proxy, upstream: Upstream) -> None:
    proxy.rules = [Rule("cut")]
    with pytest.raises((ConnectionResetError, http.client.IncompleteRead)):
        sqs(proxy, "SendMessage")
    assert upstream.actions() == ["SendMessage"]


def test_a_black_hole_takes_the_request_and_never_answers(proxy: Proxy, upstream: Upstream) -> None:
    proxy.rules = [Rule("black_hole")]
    with socket.create_connection(("127.0.0.1", int(proxy.endpoint_url.rpartition(":")[2])), timeout=SHORT_S) as client:
        client.sendall(b"POST / HTTP/1.1\r\nX-Amz-Target: AmazonSQS.SendMessage\r\nContent-Length: 0\r\n\r\n")
        with pytest.raises(TimeoutError):
            client.recv(1)
    assert upstream.requests == []


def test_what_was_swallowed_is_never_answered_and_what_comes_later_is(proxy: Proxy, upstream: Upstream) -> None:
    proxy.swallow(True)
    with socket.create_connection(("127.0.0.1", int(proxy.endpoint_url.rpartition(":")[2])), timeout=SHORT_S) as client:
        client.sendall(b"POST / HTTP/1.1\r\nX-Amz-Target: AmazonSQS.SendMessage\r\nContent-Length: 0\r\n\r\n")
        with pytest.raises(TimeoutError):
            client.recv(1)
        proxy.swallow(False)
        assert sqs(proxy, "SendMessage")[0] == 200
        with pytest.raises(TimeoutError):
            client.recv(1)
    assert upstream.actions() == ["SendMessage"]


def test_refusal_ends_open_connections_and_lasts_its_time(proxy: Proxy) -> None:
    proxy.rules = [Rule("refuse", seconds=SHORT_S, count=1)]
    with pytest.raises(ConnectionResetError):
        sqs(proxy, "SendMessage")
    with pytest.raises(ConnectionRefusedError):
        sqs(proxy, "SendMessage")

    def is_back() -> bool:
        try:
            return sqs(proxy, "SendMessage")[0] == 200
        except ConnectionRefusedError:
            return False

    wait_until(is_back)
    proxy.refuse()
    assert not is_back()
    proxy.accept()
    assert is_back()


def test_nobody_else_gets_the_port_while_it_refuses(proxy: Proxy) -> None:
    proxy.refuse()
    address = ("127.0.0.1", int(proxy.endpoint_url.rpartition(":")[2]))
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(address)
    proxy.accept()
    assert sqs(proxy, "SendMessage")[0] == 200


def test_a_dead_emulator_looks_dead_through_the_proxy(upstream: Upstream) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with Proxy(f"http://127.0.0.1:{port}") as proxy, pytest.raises(ConnectionResetError):
        sqs(proxy, "SendMessage")


def test_a_delay_comes_on_top(proxy: Proxy) -> None:
    proxy.rules = [Rule("delay", "SendMessage", seconds=SHORT_S)]
    started_at = time.monotonic()
    sqs(proxy, "SendMessage")
    assert time.monotonic() - started_at >= SHORT_S


# ---- batches


def test_failed_entries_of_a_send_are_not_forwarded(proxy: Proxy, upstream: Upstream) -> None:
    def respond(action: str, body: str) -> tuple[int, str]:
        return 200, json.dumps({"Successful": [{"Id": entry["Id"]} for entry in json.loads(body)["Entries"]]})

    upstream.respond = respond
    proxy.rules = [Rule("partial_failure", "*Batch", share=0.3)]
    _, answer = sqs(proxy, "SendMessageBatch", Entries=entries(10))
    assert proxy.stats()["faults"] == {"partial_failure": 1}
    failed = [entry["Id"] for entry in answer["Failed"]]
    forwarded = [entry["Id"] for entry in json.loads(upstream.requests[0][1])["Entries"]]
    assert 1 <= len(failed) < 10
    assert sorted(failed + forwarded, key=int) == [str(number) for number in range(10)]
    assert [entry["Id"] for entry in answer["Successful"]] == forwarded
    assert not any(entry["SenderFault"] for entry in answer["Failed"])


def test_a_batch_that_fails_whole_is_not_forwarded(proxy: Proxy, upstream: Upstream) -> None:
    proxy.rules = [Rule("partial_failure", share=1)]
    _, answer = sqs(proxy, "DeleteMessageBatch", Entries=entries(3, ReceiptHandle="h"))
    assert len(answer["Failed"]) == 3
    _, xml = sns(proxy, "PublishBatch", **sns_entries(2))
    assert xml.count("<member>") == 2
    assert upstream.requests == []


def test_failed_entries_of_a_publish_are_not_forwarded(proxy: Proxy, upstream: Upstream) -> None:
    upstream.respond = lambda action, body: (
        200,
        "<PublishBatchResponse><PublishBatchResult><Successful/><Failed/></PublishBatchResult></PublishBatchResponse>",
    )
    proxy.rules = [Rule("partial_failure", share=0.0)]
    _, xml = sns(proxy, "PublishBatch", **sns_entries(3))
    fields = dict(parse_qsl(upstream.requests[0][1]))
    kept = [fields["PublishBatchRequestEntries.member.1.Id"], fields["PublishBatchRequestEntries.member.2.Id"]]
    (failed,) = {"e1", "e2", "e3"} - set(kept)
    assert "PublishBatchRequestEntries.member.3.Id" not in fields
    assert fields["PublishBatchRequestEntries.member.2.Message"] == "m&x=Id=1"
    assert f"<Failed><member><Id>{failed}</Id>" in xml


def test_single_requests_have_no_entries_to_fail(proxy: Proxy, upstream: Upstream) -> None:
    proxy.rules = [Rule("partial_failure")]
    assert sqs(proxy, "SendMessage")[0] == 200


# ---- deliveries


def received(answer: tuple[int, dict[str, Any]]) -> list[str]:
    return [message["MessageId"] for message in answer[1].get("Messages", [])]


def test_a_duplicate_is_delivered_once_more_and_settled_here(proxy: Proxy, upstream: Upstream) -> None:
    upstream.respond = lambda action, body: (200, messages("a", "b"))
    proxy.rules = [Rule("duplicate", "ReceiveMessage", count=1)]
    assert received(sqs(proxy, "ReceiveMessage", MaxNumberOfMessages=10)) == ["a", "b"]
    assert proxy.stats()["faults"] == {"duplicate": 1}
    upstream.respond = lambda action, body: (200, messages("c") if action == "ReceiveMessage" else "{}")
    _, again = sqs(proxy, "ReceiveMessage", MaxNumberOfMessages=10, WaitTimeSeconds=20)
    assert [message["MessageId"] for message in again["Messages"]] == ["a", "b", "c"]
    asked = json.loads(upstream.requests[-1][1])
    assert (asked["MaxNumberOfMessages"], asked["WaitTimeSeconds"]) == (8, 0)

    handles = [message["ReceiptHandle"] for message in again["Messages"]]
    batch = [{"Id": str(number), "ReceiptHandle": handle} for number, handle in enumerate(handles)]
    _, answer = sqs(proxy, "DeleteMessageBatch", Entries=batch)
    assert [entry["Id"] for entry in answer["Successful"]] == ["0", "1"]
    assert [entry["ReceiptHandle"] for entry in json.loads(upstream.requests[-1][1])["Entries"]] == ["handle-c"]
    before = len(upstream.requests)
    assert sqs(proxy, "DeleteMessage", ReceiptHandle=handles[0])[0] == 200
    assert sqs(proxy, "DeleteMessageBatch", Entries=batch[:2])[1] == {"Successful": [{"Id": "0"}, {"Id": "1"}]}
    assert len(upstream.requests) == before


def test_duplicates_beyond_a_receives_size_wait_for_the_next(proxy: Proxy, upstream: Upstream) -> None:
    upstream.respond = lambda action, body: (200, messages("a", "b", "c"))
    proxy.rules = [Rule("duplicate", count=1)]
    sqs(proxy, "ReceiveMessage", MaxNumberOfMessages=10)
    assert received(sqs(proxy, "ReceiveMessage", MaxNumberOfMessages=2)) == ["a", "b"]
    assert len(upstream.requests) == 1
    assert received(sqs(proxy, "ReceiveMessage", MaxNumberOfMessages=1)) == ["c"]
    sqs(proxy, "ReceiveMessage", QueueUrl="http://localhost/0/other")
    assert len(upstream.requests) == 2


def test_reordering_loses_nothing(proxy: Proxy, upstream: Upstream) -> None:
    names = [f"m{number}" for number in range(10)]
    upstream.respond = lambda action, body: (200, messages(*names))
    proxy.rules = [Rule("reorder", count=1)]
    first = received(sqs(proxy, "ReceiveMessage", MaxNumberOfMessages=10))
    upstream.respond = lambda action, body: (200, messages())
    second = received(sqs(proxy, "ReceiveMessage", MaxNumberOfMessages=10))
    assert (len(first), len(second)) == (9, 1)
    assert first != sorted(first)
    assert sorted(first + second) == names


# ---- delayed effects


def test_queue_attributes_show_at_once_and_act_later(proxy: Proxy, upstream: Upstream) -> None:
    upstream.respond = lambda action, body: (200, '{"Attributes": {"Policy": "old", "DelaySeconds": "0"}}')
    proxy.rules = [Rule("delayed_effect", seconds=SHORT_S)]
    assert sqs(proxy, "SetQueueAttributes", Attributes={"Policy": "new"}) == (200, {})
    assert upstream.requests == []
    shown = sqs(proxy, "GetQueueAttributes", AttributeNames=["Policy"])[1]["Attributes"]
    assert shown["Policy"] == "new"
    wait_until(lambda: "SetQueueAttributes" in upstream.actions())
    wait_until(lambda: sqs(proxy, "GetQueueAttributes", AttributeNames=["All"])[1]["Attributes"]["Policy"] == "old")


def subscription_xml(action: str, policy: str) -> str:
    if action == "Subscribe":
        return f"<SubscribeResult><SubscriptionArn>{SUBSCRIPTION}</SubscriptionArn></SubscribeResult>"
    return f"<entry><key>FilterPolicy</key><value>{policy}</value></entry><entry><key>Owner</key></entry>"


def test_a_subscription_shows_at_once_and_acts_later(proxy: Proxy, upstream: Upstream) -> None:
    upstream.respond = lambda action, body: (200, subscription_xml(action, "never"))
    proxy.rules = [Rule("delayed_effect", seconds=SHORT_S)]
    attributes = {"Attributes.entry.1.key": "FilterPolicy", "Attributes.entry.1.value": '{"rk":["a"]}'}
    assert SUBSCRIPTION in sns(proxy, "Subscribe", Endpoint="arn:queue", **attributes)[1]
    assert "proxy-not-yet" in dict(parse_qsl(upstream.requests[0][1]))["Attributes.entry.1.value"]
    sns(proxy, "Subscribe", Endpoint="arn:queue", **attributes)
    assert "Attributes" not in upstream.requests[1][1]

    shown = call(proxy, {}, urlencode({"Action": "GetSubscriptionAttributes", "SubscriptionArn": SUBSCRIPTION}))[2]
    assert '<value>{"rk":["a"]}</value>' in shown
    wait_until(lambda: upstream.actions()[-1] == "SetSubscriptionAttributes")
    assert dict(parse_qsl(upstream.requests[-1][1]))["AttributeValue"] == '{"rk":["a"]}'


def test_two_that_subscribe_a_queue_at_once_wait_for_one_filter(proxy: Proxy, upstream: Upstream) -> None:
    together = threading.Barrier(2)

    def respond(action: str, body: str) -> tuple[int, str]:
        if action == "Subscribe":
            together.wait(5)
        return 200, subscription_xml(action, "never")

    upstream.respond = respond
    proxy.rules = [Rule("delayed_effect", seconds=SHORT_S)]
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda _: sns(proxy, "Subscribe", Endpoint="arn:queue"), range(2)))
    wait_until(lambda: "SetSubscriptionAttributes" in upstream.actions())
    proxy.rules = []
    wait_until(lambda: proxy._faults.is_idle)
    assert upstream.actions().count("SetSubscriptionAttributes") == 1


def test_a_filter_written_while_the_subscription_is_pending_waits_with_it(proxy: Proxy, upstream: Upstream) -> None:
    upstream.respond = lambda action, body: (200, subscription_xml(action, "never"))
    proxy.rules = [Rule("delayed_effect", seconds=SHORT_S)]
    sns(proxy, "Subscribe", Endpoint="arn:queue")
    fields = {"SubscriptionArn": SUBSCRIPTION, "AttributeName": "FilterPolicy", "AttributeValue": '{"rk":["b"]}'}
    status, xml = call(proxy, {}, urlencode({"Action": "SetSubscriptionAttributes", **fields}))[::2]
    assert (status, "SetSubscriptionAttributesResponse" in xml) == (200, True)
    assert upstream.actions() == ["Subscribe"]
    wait_until(lambda: "SetSubscriptionAttributes" in upstream.actions())
    assert dict(parse_qsl(upstream.requests[-1][1]))["AttributeValue"] == '{"rk":["b"]}'


# ---- AWS's wire


def test_targets_are_found_in_both_protocols() -> None:
    head = b"POST / HTTP/1.1\r\nX-Amz-Target: AmazonSQS.CreateQueue\r\n\r\n"
    request = wire.parse_request(Message(head, b'{"QueueName": "orders"}'))
    assert (request.service, request.action, request.target) == ("sqs", "CreateQueue", "orders")
    body = urlencode({"Action": "Unsubscribe", "SubscriptionArn": SUBSCRIPTION}).encode()
    request = wire.parse_request(Message(b"POST / HTTP/1.1\r\n\r\n", body))
    assert (request.service, request.action, request.target) == ("sns", "Unsubscribe", SUBSCRIPTION)


# ---- credentials and clocks


def stamp(ahead_s: float) -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time.time() + ahead_s))


@pytest.mark.parametrize(
    ("skew_s", "signed_s", "status"), [(0, 0, 200), (0, 1200, 403), (1200, 0, 403), (1200, 1200, 200)]
)
def test_a_clock_that_jumps_refuses_old_signatures_and_tells_its_time(
    proxy: Proxy, skew_s: float, signed_s: float, status: int
) -> None:
    proxy.rules = [Rule("skewed", seconds=skew_s)]
    headers = {"X-Amz-Target": "AmazonSQS.SendMessage", "X-Amz-Date": stamp(signed_s)}
    found, answered, body = call(proxy, headers, json.dumps({"QueueUrl": QUEUE_URL}))
    assert found == status
    assert abs(parsedate_to_datetime(answered["date"]).timestamp() - time.time() - skew_s) < 30
    assert ("InvalidSignatureException" in body) == (status == 403)
    assert proxy.stats()["faults"] == ({"skewed": 1} if status == 403 else {})


def keys(proxy: Proxy) -> tuple[int, dict[str, str]]:
    status, _, body = call(proxy, {}, "", method="GET", path=KEYS_PATH)
    return status, json.loads(body)


def test_keys_are_refused_when_they_are_too_old(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    status, found = keys(proxy)
    assert (status, sorted(found)) == (200, ["AccessKeyId", "Expiration", "SecretAccessKey", "Token"])
    headers = {"X-Amz-Target": "AmazonSQS.SendMessage", "X-Amz-Security-Token": found["Token"]}
    body = json.dumps({"QueueUrl": QUEUE_URL})
    proxy.rules = [Rule("old_keys", seconds=60.0)]
    assert call(proxy, headers, body)[0] == 200
    proxy.rules = [Rule("old_keys", seconds=-1.0)]
    status, _, answer = call(proxy, headers, body)
    assert (status, "ExpiredToken" in answer) == (403, True)
    assert call(proxy, {"X-Amz-Target": "AmazonSQS.SendMessage"}, body)[0] == 200  # keys of its own


def test_a_source_of_keys_fails(proxy: Proxy) -> None:
    proxy.rules = [Rule("no_keys")]
    assert keys(proxy)[0] == 500
    assert sqs(proxy, "SendMessage")[0] == 200
