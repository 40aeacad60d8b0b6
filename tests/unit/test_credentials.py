"""Credentials whose source fails, and clocks that are wrong: AWS is away for a while, by whichever way it is called."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from botocore.credentials import CredentialResolver, RefreshableCredentials
from botocore.exceptions import ClientError, CredentialRetrievalError, MetadataRetrievalError

from kombu_hake.aws import credentials as credentials_module
from kombu_hake.aws import retry as retry_module
from kombu_hake.aws.clients import Clients
from kombu_hake.aws.clock import AwsClock
from kombu_hake.config.settings import load, split_url
from kombu_hake.exceptions import AccessDenied, BrokerUnavailable, ConfigurationError

QUEUE_URL = "http://localhost/000000000000/q"
TOPIC = "arn:aws:sns:us-east-1:000000000000:t"
ROLE = "arn:aws:iam::123456789012:role/worker"
#: One call over our own client and one over botocore's, to each service.
CALLS: list[tuple[str, str, dict[str, Any]]] = [
    ("sqs", "send_message", {"QueueUrl": QUEUE_URL, "MessageBody": "x"}),
    ("sqs", "get_queue_url", {"QueueName": "q"}),
    ("sns", "publish", {"TopicArn": TOPIC, "Message": "x"}),
]
each_way = pytest.mark.parametrize(("service", "operation", "params"), CALLS, ids=[c[1] for c in CALLS])
XML = {
    "PublishBatch": "<PublishBatchResponse><PublishBatchResult/></PublishBatchResponse>",
    "Publish": "<PublishResponse><PublishResult><MessageId>1</MessageId></PublishResult></PublishResponse>",
    "AssumeRole": (
        "<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>a</AccessKeyId>"
        "<SecretAccessKey>s</SecretAccessKey><SessionToken>assumed</SessionToken>"
        "<Expiration>2100-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"
    ),
}


class Aws:
    """An AWS that has a clock, and may refuse a request for its time, its token, or its role."""

    def __init__(self) -> None:
        self.ahead_s = 0.0
        self.tokens: set[str | None] | None = None
        self.denies_role = False
        self.refuses_all: tuple[str, str] | None = None
        self.seen: list[str] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                owner.answer(self, body)

            def date_time_string(self, timestamp: float | None = None) -> str:
                return formatdate(owner.now(), usegmt=True)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def now(self) -> float:
        return time.time() + self.ahead_s

    def answer(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        target = request.headers.get("x-amz-target")
        action = target.partition(".")[2] if target else body.decode().partition("Action=")[2].partition("&")[0]
        self.seen.append(action)
        refusal = self.refusal(request, action)
        if target:
            status, text = 200, json.dumps({"MessageId": "1", "QueueUrl": QUEUE_URL})
            if refusal:
                status, text = 403, json.dumps({"__type": f"com.amazon#{refusal[0]}", "message": refusal[1]})
            kind = "application/x-amz-json-1.0"
        else:
            status, text, kind = 200, XML[action], "text/xml"
            if refusal:
                status = 403
                text = (
                    f"<ErrorResponse><Error><Type>Sender</Type><Code>{refusal[0]}</Code>"
                    f"<Message>{refusal[1]}</Message></Error></ErrorResponse>"
                )
        data = text.encode()
        request.send_response(status)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    def refusal(self, request: BaseHTTPRequestHandler, action: str) -> tuple[str, str] | None:
        if self.refuses_all:
            return self.refuses_all
        stamp = datetime.strptime(request.headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc)
        if abs(stamp.timestamp() - self.now()) > 300:
            code = "InvalidSignatureException" if request.headers.get("x-amz-target") else "SignatureDoesNotMatch"
            return code, "Signature expired: 20261127T000000Z is now earlier than 20261127T010000Z"
        if action == "AssumeRole":
            text = f"User: u is not authorized to perform: sts:AssumeRole on resource: {ROLE}"
            return ("AccessDenied", text) if self.denies_role else None
        if self.tokens is not None and request.headers.get("x-amz-security-token") not in self.tokens:
            return "ExpiredToken", "The security token included in the request is expired"
        return None


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    monkeypatch.setattr(credentials_module, "_PAUSE_S", 0.0)
    monkeypatch.setattr(retry_module, "backoff_s", lambda *_, **__: 0.0)
    found = Aws()
    yield found
    found.server.shutdown()
    found.server.server_close()


def make_clients(aws: Aws, url: str = "hake://k:s@", **options: Any) -> Clients:
    options = {"endpoint_url": aws.url, "region": "us-east-1", "read_timeout": 5.0, **options}
    return Clients(load(split_url(url), options, {}))


def call(clients: Clients, service: str, operation: str, params: dict[str, Any]) -> Any:
    return getattr(clients, service)(operation, **params)


class Source:
    """What botocore's refreshable credentials ask for keys: fails as often as it is told to, then gives new ones."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, life_s: float) -> None:
        self.failures: list[Exception] = []
        self.asked = 0
        self.token = "first"
        self.life_s = life_s
        keys = RefreshableCredentials.create_from_metadata(self.keys(life_s), self.refresh, "stub")
        monkeypatch.setattr(CredentialResolver, "load_credentials", lambda _: keys)

    def keys(self, life_s: float) -> dict[str, Any]:
        ends_at = datetime.now(timezone.utc) + timedelta(seconds=life_s)
        return {"access_key": "k", "secret_key": "s", "token": self.token, "expiry_time": ends_at.isoformat()}

    def refresh(self) -> dict[str, Any]:
        self.asked += 1
        if self.failures:
            raise self.failures.pop(0)
        self.token = "second"
        return self.keys(3600)


def client_error(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "as STS says it"}}, "AssumeRole")


FAILURES: list[Callable[[], Exception]] = [
    lambda: client_error("AccessDenied"),
    lambda: client_error("ExpiredTokenException"),
    lambda: client_error("InvalidClientTokenId"),
    lambda: client_error("InvalidIdentityToken"),
    lambda: CredentialRetrievalError(provider="p", error_msg="x"),
    lambda: MetadataRetrievalError(error_msg="x"),
    lambda: RuntimeError("Credentials were refreshed, but the refreshed credentials are still expired."),
    lambda: ValueError("not JSON"),
    lambda: OSError("no route"),
]


@each_way
@pytest.mark.parametrize("failure", FAILURES)
def test_keys_that_hold_are_used_while_renewing_them_fails(
    aws: Aws,
    monkeypatch: pytest.MonkeyPatch,
    failure: Callable[[], Exception],
    service: str,
    operation: str,
    params: dict[str, Any],
) -> None:
    source = Source(monkeypatch, life_s=120)  # botocore has to renew them from ten minutes before their end
    aws.tokens = {"first", "second"}
    clients = make_clients(aws, "hake://")
    source.failures = [failure(), failure()]
    for _ in range(3):
        call(clients, service, operation, params)
    assert source.asked == 3
    assert source.token == "second"


@each_way
@pytest.mark.parametrize("failure", FAILURES)
def test_keys_that_run_out_while_renewing_them_fails_mean_that_aws_is_away(
    aws: Aws,
    monkeypatch: pytest.MonkeyPatch,
    failure: Callable[[], Exception],
    service: str,
    operation: str,
    params: dict[str, Any],
) -> None:
    source = Source(monkeypatch, life_s=-1)
    aws.tokens = {"second"}
    clients = make_clients(aws, "hake://", max_attempts=2)
    source.failures = [failure(), failure()]
    with pytest.raises(BrokerUnavailable):
        call(clients, service, operation, params)
    call(clients, service, operation, params)
    assert source.asked == 3


def test_threads_do_not_each_wait_for_a_source_that_fails(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials_module, "_PAUSE_S", 3600.0)
    source = Source(monkeypatch, life_s=-1)
    aws.tokens = {"second"}
    clients = make_clients(aws, "hake://", max_attempts=1)
    source.failures = [OSError("x")]
    for _ in range(5):
        with pytest.raises(BrokerUnavailable):
            clients.sqs("send_message", QueueUrl=QUEUE_URL, MessageBody="x")
    assert source.asked == 1


def test_keys_that_hold_for_minutes_are_used_by_others_while_one_thread_renews(
    aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source(monkeypatch, life_s=120)
    clients = make_clients(aws, "hake://")
    clients.sqs("send_message", QueueUrl=QUEUE_URL, MessageBody="x")
    source = Source(monkeypatch, life_s=120)
    clients = make_clients(aws, "hake://")
    is_asked, may_answer = threading.Event(), threading.Event()
    keys = CredentialResolver.load_credentials(None)

    def slow() -> dict[str, Any]:
        is_asked.set()
        assert may_answer.wait(10)
        return source.refresh()

    keys._refresh_using = slow
    thread = threading.Thread(target=clients.sqs, args=("send_message",), kwargs=CALLS[0][2])
    thread.start()
    assert is_asked.wait(10)
    clients.sqs("send_message", QueueUrl=QUEUE_URL, MessageBody="x")
    clients.sns("publish", TopicArn=TOPIC, Message="x")
    may_answer.set()
    thread.join(10)
    assert source.token == "second"


@pytest.mark.parametrize(
    "failure", [CredentialRetrievalError(provider="container-role", error_msg="x"), RuntimeError("x"), OSError("x")]
)
def test_a_source_that_does_not_answer_at_the_start_is_away(
    aws: Aws, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def load(_: CredentialResolver) -> None:
        raise failure

    monkeypatch.setattr(CredentialResolver, "load_credentials", load)
    clients = make_clients(aws, "hake://")
    for service, operation, params in CALLS:
        with pytest.raises(BrokerUnavailable, match="credentials could not be renewed"):
            call(clients, service, operation, params)
    with pytest.raises(BrokerUnavailable):
        clients.check()


def test_no_credentials_at_the_start_are_an_error_of_the_configuration(
    aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CredentialResolver, "load_credentials", lambda _: None)
    with pytest.raises(
        ConfigurationError, match=r"No AWS credentials\. .*write key and secret before the @ of the URL"
    ):
        make_clients(aws, "hake://").check()


@each_way
def test_a_role_that_is_denied_is_named(aws: Aws, service: str, operation: str, params: dict[str, Any]) -> None:
    aws.denies_role = True
    clients = make_clients(aws, role_arn=ROLE)
    with pytest.raises(AccessDenied, match="sts:AssumeRole") as caught:
        call(clients, service, operation, params)
    assert (caught.value.action, caught.value.resource) == ("sts:AssumeRole", ROLE)
    with pytest.raises(AccessDenied):
        clients.check()
    aws.denies_role = False
    call(clients, service, operation, params)
    assert "AssumeRole" in aws.seen


@each_way
def test_keys_that_worked_and_are_refused_now_mean_that_aws_is_away(
    aws: Aws, service: str, operation: str, params: dict[str, Any]
) -> None:
    clients = make_clients(aws)
    aws.refuses_all = ("InvalidClientTokenId", "The security token included in the request is invalid")
    with pytest.raises(ConfigurationError):
        call(clients, service, operation, params)
    aws.refuses_all = None
    call(clients, service, operation, params)
    aws.refuses_all = ("InvalidClientTokenId", "The security token included in the request is invalid")
    with pytest.raises(BrokerUnavailable, match="worked before"):
        call(clients, service, operation, params)


# --- the clock


@each_way
@pytest.mark.parametrize("ahead_s", [-7_200, 7_200])
@pytest.mark.parametrize("role_arn", [None, ROLE])
def test_a_request_is_signed_by_the_clock_of_aws(
    aws: Aws, ahead_s: float, role_arn: str | None, service: str, operation: str, params: dict[str, Any]
) -> None:
    aws.ahead_s = ahead_s
    clients = make_clients(aws, max_attempts=1, role_arn=role_arn)
    call(clients, service, operation, params)
    refused = len(aws.seen)
    call(clients, service, operation, params)
    assert len(aws.seen) == refused + 1
    aws.ahead_s = 0.0  # the clock was set right
    call(clients, service, operation, params)


def test_a_long_poll_is_signed_again_at_once(aws: Aws) -> None:
    aws.ahead_s = 7_200
    clients = make_clients(aws)
    clients.sqs("receive_message", QueueUrl=QUEUE_URL, WaitTimeSeconds=1)
    assert aws.seen == ["ReceiveMessage"] * 2


@each_way
@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("RequestExpired", "Request has expired."),
        ("RequestTimeTooSkewed", "The difference between the request time and the current time is too large."),
        ("InvalidSignatureException", "Signature expired: 1 is now earlier than 2"),
        ("SignatureDoesNotMatch", "Signature not yet current: 1 is still later than 2"),
    ],
)
def test_a_refused_time_means_that_aws_is_away(
    aws: Aws, code: str, text: str, service: str, operation: str, params: dict[str, Any]
) -> None:
    aws.refuses_all = (code, text)
    clients = make_clients(aws, max_attempts=2)
    with pytest.raises(BrokerUnavailable, match="time of") as caught:
        call(clients, service, operation, params)
    assert caught.value.is_clock_error
    assert len(aws.seen) == 2


def test_a_machine_whose_clock_is_ahead_takes_new_keys_for_good(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source(monkeypatch, life_s=-7_200)
    monkeypatch.setattr(source, "keys", lambda _: {**Source.keys(source, -3_600), "token": "second"})
    aws.ahead_s = -7_200
    aws.tokens = {"second"}
    clients = make_clients(aws, "hake://")
    clients.sqs("send_message", QueueUrl=QUEUE_URL, MessageBody="x")
    asked = source.asked
    clients.sns("publish", TopicArn=TOPIC, Message="x")
    assert source.asked <= asked + 1


@pytest.mark.parametrize("date", ["", "nonsense", "Mon, 01 Jan 0001 00:00:00 -0000", "Fri, 31 Dec 9999 23:59:59 -2359"])
def test_a_date_that_means_nothing_changes_nothing(date: str) -> None:
    clock = AwsClock()
    clock.learn(date)
    assert abs(clock.offset_s) < 1e12
    assert clock.stamp()
