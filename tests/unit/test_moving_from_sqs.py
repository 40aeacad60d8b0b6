"""Settings as kombu's and Celery's pages have them for ``sqs://``, with the scheme changed."""

import json
import logging
import pickle
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from celery import Celery
from fakes import ACCOUNT, FakeClients, connected, eventually
from kombu import Connection, Producer, Queue
from kombu.asynchronous import Hub

from kombu_hake import exceptions as exceptions_module
from kombu_hake.aws.clients import Clients
from kombu_hake.config import settings as settings_module
from kombu_hake.config.options import OPTIONS
from kombu_hake.config.settings import Settings
from kombu_hake.exceptions import ConfigurationError, HakeError
from kombu_hake.publish import dispatch as dispatch_module

SECRET = "TestPassword+wJalr/XUtnFEMI"
URL_1 = f"https://sqs.us-east-1.amazonaws.com/{ACCOUNT}/aaa"
URL_2 = f"https://sqs.eu-west-1.amazonaws.com/{ACCOUNT}/bbb.fifo"

#: kombu/transport/SQS/__init__.py, "Predefined Queues", and the options that its channels read.
LONG_FORM: dict[str, Any] = {
    "predefined_queues": {
        "queue-1": {
            "url": URL_1,
            "access_key_id": "a",
            "secret_access_key": SECRET + "1",
            "backoff_policy": {1: 10, 2: 20, 3: 40, 4: 80, 5: 320, 6: 640},
            "backoff_tasks": ["svc.tasks.tasks.task1"],
        },
        "queue-2.fifo": {
            "url": URL_2,
            "access_key_id": "c",
            "secret_access_key": SECRET + "2",
            "session_token": SECRET + "3",
            "region": "eu-west-1",
        },
    },
    "predefined_exchanges": {
        "exchange-1": {
            "arn": f"arn:aws:sns:us-east-1:{ACCOUNT}:exchange-1",
            "access_key_id": "e",
            "secret_access_key": SECRET + "4",
        },
    },
    "region": "us-east-1",
    "visibility_timeout": 3600,
    "wait_time_seconds": 10,
    "polling_interval": 0.3,
    "queue_name_prefix": "celery-",
    "supports_fanout": True,
    "is_secure": True,
    "client-config": {"connect_timeout": 5, "region_name": "us-east-1"},
    "sqs-creation-attributes": {"KmsMasterKeyId": "alias/aws/sqs"},
    "queue_tags": {"Environment": "production"},
    "fetch_message_attributes": ["All"],
    "sqs_base64_encoding": False,
    "sts_token_timeout": 900,
    "sts_token_buffer_time": 60,
}


def settings_of(options: dict[str, Any], url: str = "hake://") -> Settings:
    found: Settings = Connection(url, transport_options=options).transport.load_settings()
    return found


@pytest.fixture(autouse=True)
def _nothing_was_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings_module, "_warned", set())
    monkeypatch.setattr(dispatch_module, "_warned", set(), raising=False)
    for variable in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(variable, raising=False)


# --- settings


def test_the_long_form_is_understood(caplog: pytest.LogCaptureFixture) -> None:
    found = settings_of(LONG_FORM, "hake://aws_key:aws%2Fsecret@")
    assert (found.access_key_id, found.secret_access_key) == ("aws_key", "aws/secret")
    assert found.predefined_queues == {"queue-1": URL_1, "queue-2.fifo": URL_2}
    assert found.access[URL_1].region == "us-east-1"
    second = found.access[URL_2]
    assert (second.access_key_id, second.secret_access_key) == ("c", SECRET + "2")
    assert (second.session_token, second.region) == (SECRET + "3", "eu-west-1")
    assert found.access[found.predefined_exchanges["exchange-1"]].access_key_id == "e"
    assert found.client_config == {"connect_timeout": 5}
    assert found.region == "us-east-1"
    settings_of(LONG_FORM)
    warned = [record.getMessage() for record in caplog.records]
    assert len(warned) == 4  # once each, however many connections there are
    for name in ("polling_interval", "fetch_message_attributes", "sqs_base64_encoding", "sts_token_buffer_time"):
        assert sum(f"option {name} " in line for line in warned) == 1


def test_celery_takes_the_documented_settings() -> None:
    app = Celery(set_as_current=False)
    app.conf.update(
        broker_url="hake://{}:{}@".format("ABCDEFGHIJKLMNOPQRST", "ZYXK7NiynG%2FTogH8Nj%2BP9nlE73sq3"),
        broker_transport_options={"region": "eu-west-1", "visibility_timeout": 3600, "predefined_queues": {}},
    )
    with app.connection_for_write() as connection:
        found = connection.transport.load_settings()
    assert found.secret_access_key == "ZYXK7NiynG/TogH8Nj+P9nlE73sq3"
    assert (found.region, found.visibility_timeout) == ("eu-west-1", 3600)


@pytest.mark.parametrize(
    ("options", "environment", "region"),
    [
        ({"client-config": {"region_name": "us-west-2"}}, None, "us-west-2"),
        ({"client-config": {"region_name": "us-west-2"}, "region": "eu-west-1"}, None, "eu-west-1"),
        ({"client-config": {"region_name": "us-west-2"}}, "eu-north-1", "eu-north-1"),
        ({"region": None}, "eu-north-1", "eu-north-1"),
    ],
)
def test_the_region_is_that_of_sqs(
    options: dict[str, Any], environment: str | None, region: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if environment:
        monkeypatch.setenv("AWS_DEFAULT_REGION", environment)
    found = settings_of(options)
    assert found.region == region
    assert not found.client_config


def test_kombus_own_connection_for_its_tests_is_understood() -> None:
    connection = Connection(
        "hake://localhost:4100",
        userid="TestUsername",
        password="TestPassword",
        transport_options={
            "supports_fanout": True,
            "is_secure": False,
            "client-config": {"region_name": "us-east-1"},
            "queue_name_prefix": "p_",
            "wait_time_seconds": 0,
        },
    )
    connection.transport_options["hub"] = Hub()
    found = connection.transport.load_settings()
    assert (found.access_key_id, found.secret_access_key) == ("TestUsername", "TestPassword")
    assert (found.endpoint_url, found.region) == ("http://localhost:4100", "us-east-1")


@pytest.mark.parametrize("value", [None, ""])
def test_an_empty_visibility_timeout_is_the_default(value: Any) -> None:
    assert settings_of({"visibility_timeout": value}).visibility_timeout == 120


def test_with_a_role_the_keys_of_queues_are_not_used(caplog: pytest.LogCaptureFixture) -> None:
    found = settings_of({**LONG_FORM, "sts_role_arn": f"arn:aws:iam::{ACCOUNT}:role/STSTest"})
    assert {access.access_key_id for access in found.access.values()} == {None}
    assert found.access[URL_2].region == "eu-west-1"
    assert sum("access_key_id" in record.getMessage() for record in caplog.records) == 1


def test_a_session_token_alone_belongs_to_the_keys_of_the_url() -> None:
    queue = {"url": URL_1, "session_token": "token"}
    access = settings_of({"predefined_queues": {"q": queue}}, "hake://key:secret@").access[URL_1]
    assert (access.access_key_id, access.secret_access_key, access.session_token) == ("key", "secret", "token")


def test_settings_that_differ_in_a_secret_of_a_queue_do_not_share_clients() -> None:
    def key(secret: str) -> str:
        queue = {"url": URL_1, "access_key_id": "a", "secret_access_key": secret}
        return settings_of({"predefined_queues": {"q": queue}}).key()

    assert key("one") == key("one")
    assert key("one") != key("two")


# --- a client for the keys of each queue


class Sqs(BaseHTTPRequestHandler):
    """Answers any call, and notes who signed it."""

    seen: list[tuple[str, str]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        scope = self.headers["Authorization"].partition("Credential=")[2].split("/")
        self.seen.append((f"{scope[0]} {scope[2]} {scope[3]}", self.headers.get("X-Amz-Security-Token", "")))
        if "Action=Publish" in body:
            answer = (
                "<PublishResponse xmlns='http://sns.amazonaws.com/doc/2010-03-31/'><PublishResult>"
                "<MessageId>1</MessageId></PublishResult></PublishResponse>"
            )
        else:
            answer = json.dumps(
                {
                    "MessageId": "1",
                    "Attributes": {},
                    "QueueUrl": f"http://127.0.0.1/1/{json.loads(body).get('QueueName')}",
                    "MD5OfMessageBody": "x",
                }
            )
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer.encode())

    def log_message(self, *args: Any) -> None:
        """Nothing is printed."""


@pytest.fixture
def aws() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    seen: list[tuple[str, str]] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Sqs,), {"seen": seen}))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"127.0.0.1:{server.server_port}", seen
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("operation", ["send_message", "get_queue_attributes"])
def test_each_queue_is_used_with_its_own_keys_and_region(
    operation: str, aws: tuple[str, list[tuple[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kombu_hake.aws.wire.checked", lambda service, operation, params, answer: answer)
    monkeypatch.setattr("kombu_hake.aws.clients.checked", lambda service, operation, params, answer: answer)
    host, seen = aws
    clients = Clients(settings_of({**LONG_FORM, "is_secure": False, "client-config": {}}, f"hake://main:secret@{host}"))
    params = {"MessageBody": "x"} if operation == "send_message" else {"AttributeNames": ["QueueArn"]}
    for url in (URL_1, URL_2, f"http://{host}/{ACCOUNT}/other"):
        clients.sqs(operation, QueueUrl=url, **params)
    clients.sns("publish", TopicArn=f"arn:aws:sns:us-east-1:{ACCOUNT}:exchange-1", Message="x")
    clients.sns("publish", TopicArn=f"arn:aws:sns:us-east-1:{ACCOUNT}:other", Message="x")
    assert {id(other._clock) for other in clients._others.values()} == {id(clients._clock)}
    assert seen == [
        ("a us-east-1 sqs", ""),
        ("c eu-west-1 sqs", SECRET + "3"),
        ("main us-east-1 sqs", ""),
        ("e us-east-1 sns", ""),
        ("main us-east-1 sns", ""),
    ]


def test_keys_that_are_given_with_the_queues_alone_are_enough(
    aws: tuple[str, list[tuple[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    host, seen = aws
    Clients(settings_of({**LONG_FORM, "is_secure": False}, f"hake://{host}")).check()
    assert {signer for signer, _ in seen} == {"a us-east-1 sqs"}


# --- predefined queues

#: An entry of ``predefined_queues``, the Celery queue that ``sqs://`` finds there, and the options that make it so.
NAMED_AS_IN_SQS = [
    ("live-email", "email", {"queue_name_prefix": "live-"}),
    ("live-email.fifo", "email.fifo", {"queue_name_prefix": "live-"}),
    ("orders-email", "orders.email", {"name_style": "kombu"}),
    ("live-orders-email", "orders.email", {"name_style": "kombu", "queue_name_prefix": "live-"}),
]


@pytest.mark.parametrize(("entry", "queue", "options"), NAMED_AS_IN_SQS)
def test_a_predefined_queue_is_found_by_the_name_that_sqs_gives_it(
    entry: str, queue: str, options: dict[str, Any]
) -> None:
    fake = FakeClients()
    is_fifo = entry.endswith(".fifo")
    team = "team.fifo" if is_fifo else "team"
    fake.queues.create_queue(team, {"FifoQueue": "true"} if is_fifo else {})
    url = fake.queues.queue(team).url
    with connected(fake, predefined_queues={entry: {"url": url}}, **options) as connection:
        Producer(connection).publish("x", routing_key=queue, declare=[Queue(queue)])
    assert [params["QueueUrl"] for operation, params in fake.calls if operation == "send_message"] == [url]
    assert "create_queue" not in [operation for operation, _ in fake.calls]


@pytest.mark.parametrize(("entry", "queue", "options"), NAMED_AS_IN_SQS)
def test_a_backoff_policy_is_found_by_the_name_that_sqs_gives_its_queue(
    entry: str, queue: str, options: dict[str, Any]
) -> None:
    url = URL_2 if entry.endswith(".fifo") else URL_1
    policy = {"url": url, "backoff_policy": {1: 10}, "backoff_tasks": ["t"]}
    assert settings_of({"predefined_queues": {entry: policy}, **options}).backoff_s(queue, "t", 1) == 10


def test_the_name_of_a_predefined_queue_comes_before_its_name_in_sqs() -> None:
    queues = {"email": URL_1, "live-email": f"https://sqs.us-east-1.amazonaws.com/{ACCOUNT}/other"}
    found = settings_of({"predefined_queues": queues, "queue_name_prefix": "live-"})
    assert found.predefined_queue("email") == URL_1
    assert found.predefined_queue("news") is None


def test_a_queue_with_a_name_of_sqs_has_priorities() -> None:
    fake = FakeClients()
    with connected(fake, name_style="kombu") as connection:
        jobs = Queue("jobs.eu", max_priority=9)
        Producer(connection).publish("x", routing_key="jobs.eu", declare=[jobs], priority=9)
        message = jobs(connection.default_channel).get()
        assert message.payload == "x"
        message.ack()
    assert len(fake.queues.by_name) == 4
    assert "jobs-eu" in fake.queues.by_name


# --- messages


def published(fake: FakeClients, queue: str = "q", **properties: Any) -> dict[str, Any]:
    with connected(fake) as connection:
        Producer(connection).publish("x", routing_key=queue, declare=[Queue(queue)], **properties)
    [sent] = [params for operation, params in fake.calls if operation == "send_message"]
    return sent


@pytest.mark.parametrize(
    ("properties", "delay"),
    [
        ({"delay_seconds": 30}, 30),
        ({"DelaySeconds": 30}, 30),
        ({"delay_seconds": "30"}, 30),
        ({"delay_seconds": None, "DelaySeconds": 30}, 30),
        ({"delay_seconds": 30, "DelaySeconds": None}, 30),
        ({"delay_seconds": 0}, 0),  # overrides the delay of a queue that has one
        ({"DelaySeconds": "0"}, 0),
        ({}, None),
    ],
)
def test_a_delay_has_both_spellings(
    properties: dict[str, Any], delay: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    assert published(FakeClients(), **properties).get("DelaySeconds") == delay
    assert not caplog.records


@pytest.mark.parametrize(
    ("queue", "value", "delay"), [("q", 100_000, 900), ("q", "soon", None), ("q", -5, None), ("q.fifo", 10, None)]
)
def test_a_delay_that_sqs_refuses_is_warned_of_once(
    queue: str, value: Any, delay: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        assert published(FakeClients(), queue, delay_seconds=value).get("DelaySeconds") == delay
    [record] = caplog.records
    assert record.levelno == logging.WARNING


class Signal:
    """What a handler of before_task_publish gets as ``signal``; JSON cannot write it."""


def test_a_property_that_cannot_be_written_is_dropped_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        sent = published(FakeClients(), signal=Signal(), sender="shop.tasks.pay", reply_to="r", retry_policy={"a": 1})
        properties = json.loads(sent["MessageBody"])["properties"]
        assert "signal" not in properties
        assert (properties["sender"], properties["reply_to"]) == ("shop.tasks.pay", "r")
    [record] = caplog.records
    assert "signal" in record.getMessage()
    assert record.levelno == logging.WARNING


def test_a_property_of_a_size_without_end_is_dropped() -> None:
    endless: dict[str, Any] = {}
    endless["self"] = endless
    assert "extra" not in json.loads(published(FakeClients(), extra=endless)["MessageBody"])["properties"]


@pytest.mark.parametrize("name", ["correlation_id", "MessageGroupId"])
def test_a_property_with_a_meaning_that_cannot_be_written_is_an_error(name: str) -> None:
    with pytest.raises(TypeError):
        published(FakeClients(), **{name: Signal()})


# --- backoff


@pytest.mark.parametrize(("task", "receives", "wait_s"), [("t", 1, 10), ("t", 2, 20), ("t", 3, 77), ("other", 1, None)])
def test_a_backoff_policy_says_when_a_rejected_task_comes_again(task: str, receives: int, wait_s: int | None) -> None:
    queue = {"url": URL_1, "backoff_policy": {1: 10, "2": 20}, "backoff_tasks": ["t"]}
    found = settings_of({"predefined_queues": {"q": queue}, "visibility_timeout": 77})
    assert found.backoff_s("q", task, receives) == wait_s
    assert found.backoff_s("other", task, receives) is None


@pytest.mark.parametrize(("task", "is_kept"), [("t", True), ("other", False)])
def test_a_rejected_task_with_a_backoff_policy_stays_in_its_queue(task: str, is_kept: bool) -> None:
    fake = FakeClients()
    fake.queues.create_queue("q", {})
    stored = fake.queues.queue("q")
    queue = {"url": stored.url, "backoff_policy": {1: 10}, "backoff_tasks": ["t"]}
    with connected(fake, predefined_queues={"q": queue}) as connection:
        received: list[Any] = []
        channel = connection.channel()
        channel.basic_consume("q", callback=received.append)
        Producer(connection).publish("x", routing_key="q", headers={"task": task, "id": "1"})
        connection.drain_events(timeout=10)
        received[0].reject(requeue=False)
        if is_kept:
            eventually(lambda: ("change_message_visibility_batch", 10) in [
                (operation, params["Entries"][0].get("VisibilityTimeout"))
                for operation, params in fake.calls
                if operation == "change_message_visibility_batch"
            ])  # fmt: skip
            assert len(stored.messages) == 1
        else:
            eventually(lambda: not stored.messages)


# --- no secret is shown

PLACES: list[dict[str, Any]] = [
    {"predefined_queues": {"q": {"secret_access_key": SECRET}}},
    {"predefined_queues": {"q": {"url": "u", "access_key_id": "a", "secret_access_key": SECRET, "typo": 1}}},
    {"predefined_queues": {"q": {"url": "u", "secret_access_key": SECRET}}},
    {"predefined_queues": {"q": {"url": "u", "session_token": [SECRET]}}},
    {"predefined_queues": {"q": {"url": f"https://key:{SECRET}@localhost/q"}}},
    {"predefined_queues": {"q": f"https://key:{SECRET}@localhost/q"}},
    {"predefined_queues": [{"url": "u", "secret_access_key": SECRET}]},
    {"predefined_queues": json.dumps({"q": {"secret_access_key": SECRET}})},
    {"predefined_exchanges": {"x": {"arn": "a", "secret_access_key": SECRET}}},
    {"predefined_exchanges": {"x": {"arn": "a", "access_key_id": "a", "secret_access_key": SECRET, "typo": 1}}},
    {"client_config": {"proxies": {"https": f"http://user:{SECRET}@proxy:3128"}, 1: 2}},
    {"client-config": {"proxies": {"https": f"http://user:{SECRET}@proxy:3128"}, "region_name": 7}},
    {"session_token": SECRET, "region": 7},
    {"secret_access_key": SECRET},
    {"aws_secret_access_key": SECRET},
    {"endpoint_url": f"http://user:{SECRET}@localhost"},
    {"queue_attributes": [{"url": f"http://user:{SECRET}@localhost"}]},
]


def shown_by(connection: Connection) -> str:
    """All that is printed, logged or sent of a connection."""
    told = {name: value for name, value in connection.info().items() if name != "password"}
    return "\n".join([repr(connection), connection.as_uri(), repr(told), json.dumps(told, default=str), str(told)])


def assert_hidden(text: str) -> None:
    for part in (SECRET, "TestPassword", "wJalr", "XUtnFEMI"):
        assert part not in text


@pytest.mark.parametrize("options", PLACES, ids="-".join)
def test_a_wrong_configuration_shows_no_secret(options: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConfigurationError) as caught:
        settings_of(options)
    assert_hidden(str(caught.value) + repr(caught.value) + repr(caught.value.faults) + caplog.text)
    assert_hidden(repr(pickle.loads(pickle.dumps(caught.value)).__dict__))
    assert SECRET.encode() not in pickle.dumps(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        f"hake://?secret_access_key={SECRET}",
        f"hake://?aws_secret_access_key={SECRET}",
        f"hake://?predefined_queues={json.dumps({'q': {'url': 'u', 'secret_access_key': SECRET}})}",
        f"hake://?client-config={json.dumps({'proxies': {'https': f'http://user:{SECRET}@proxy'}})}",
        f"hake://key:{SECRET}@localhost:port",
        f"hake://key:{SECRET}@?regoin=r",
    ],
)
def test_a_wrong_url_shows_no_secret(url: str, caplog: pytest.LogCaptureFixture) -> None:
    connection = Connection(url)
    assert_hidden(shown_by(connection))
    with pytest.raises(ConfigurationError) as caught:
        connection.transport.load_settings()
    assert_hidden(str(caught.value) + repr(caught.value.faults) + caplog.text)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("wrap", [lambda url: url, lambda url: [url], lambda url: {"x": url}, lambda url: {"x": [url]}])
def test_no_option_shows_a_url_with_credentials(name: str, wrap: Any, caplog: pytest.LogCaptureFixture) -> None:
    options = {name: wrap(f"https://key:{SECRET}@localhost:1/x")}
    connection = Connection("hake://", transport_options=options)
    assert_hidden(shown_by(connection))
    try:
        assert_hidden(repr(connection.transport.load_settings()) if name not in _NAMES_AND_PLAIN_TEXT else "")
    except ConfigurationError as exc:
        assert_hidden(str(exc) + repr(exc) + caplog.text)


#: Texts that name something, and so are shown.
_NAMES_AND_PLAIN_TEXT = {"region", "profile", "role_arn", "queue_name_prefix", "dead_letter_queue", "queue_tags"} | {
    *("queue_attributes", "best_effort_exchanges"),
}


@pytest.mark.parametrize("url", ["hake://", f"hake://key:{SECRET}@localhost:1", f"hake://?session_token={SECRET}"])
def test_a_right_configuration_shows_no_secret(url: str, caplog: pytest.LogCaptureFixture) -> None:
    proxies = {"proxies": {"https": f"http://user:{SECRET}@proxy:3128"}}
    options = {**LONG_FORM, "client-config": proxies, "session_token": SECRET}
    connection = Connection(f"{url};{url}?region=r" if "?" not in url else url, transport_options=options)
    assert_hidden(shown_by(connection))
    assert_hidden(shown_by(connection.clone()))
    try:
        found = connection.transport.load_settings()
    except ConfigurationError as exc:
        assert_hidden(str(exc))
    else:
        assert_hidden(repr(found) + repr(found.access))
        assert found.access[URL_1].secret_access_key == SECRET + "1"
        assert found.client_config == proxies
    assert_hidden(caplog.text)
    copy = pickle.loads(pickle.dumps(connection))
    assert_hidden(shown_by(copy))


ERRORS = [
    found for found in vars(exceptions_module).values() if isinstance(found, type) and issubclass(found, HakeError)
]


@pytest.mark.parametrize("error", ERRORS)
def test_no_error_shows_the_credentials_of_a_url_in_its_text(error: type[HakeError]) -> None:
    made = error(f"The endpoint 'https://key:{SECRET}@localhost:1/x' does not answer.")
    for one in (made, pickle.loads(pickle.dumps(made))):
        assert_hidden(str(one) + repr(one) + repr(one.args))
    assert SECRET.encode() not in pickle.dumps(made)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"no_such": 1}, "no_such"),
        ({"retries": 5}, "items"),
        ({"retries": {"max_attempts": "x"}}, "not supported"),
        ({"s3": {"addressing_style": "sideways"}}, "sideways"),
    ],
)
def test_a_client_config_that_botocore_refuses_is_a_fault_of_the_option(config: dict[str, Any], words: str) -> None:
    found = settings_of({"region": "eu-west-1", "client-config": config}, "hake://k:s@127.0.0.1:1")
    with pytest.raises(ConfigurationError, match=f"^Option client_config: .*{words}.* See botocore.config.Config"):
        Clients(found).check()


@pytest.mark.parametrize("config", [{"connect_timeout": "soon"}, {"signature_version": "v0"}])
def test_a_client_config_that_shows_in_use_is_no_outage(config: dict[str, Any]) -> None:
    found = settings_of({"region": "eu-west-1", "client-config": config}, "hake://k:s@127.0.0.1:1")
    with pytest.raises(ConfigurationError, match="client_config"):
        Clients(found).check()


def test_a_long_prefix_that_leaves_room_for_short_names_connects(aws: tuple[str, list[tuple[str, str]]]) -> None:
    options = {"region": "eu-west-1", "queue_name_prefix": "p" * 75, "name_style": "kombu"}
    Clients(settings_of(options, f"hake://k:s@{aws[0]}")).check()
    assert len(aws[1]) == 1
