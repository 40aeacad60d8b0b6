"""What goes wrong at the start is one clear error, soon, that names the option or action and says what to do."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from urllib.parse import quote

import kombu.exceptions
import pytest
from kombu import Connection, Producer
from support.emulators import HOST, Emulator
from support.rights import as_user

from kombu_hake.exceptions import AccessDenied, BrokerUnavailable, ConfigurationError

CONNECT_TIMEOUT_S = 2
#: For a busy machine, which takes seconds to load botocore; its own time-outs are a minute.
SLACK_S = 10
SECRET = "s3cr3t/+key"


@pytest.fixture(autouse=True)
def _no_region_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)


def failure(url: str, expected: type[Exception], **options: object) -> str:
    """The text of the one error that connecting raises, which comes in time and shows no secret."""
    started = time.monotonic()
    with (
        Connection(url, connect_timeout=CONNECT_TIMEOUT_S, transport_options=options) as connection,
        pytest.raises(expected) as caught,
    ):
        # One attempt: kombu's connect() makes two of them, with two seconds in between, whatever the transport.
        connection.transport.establish_connection()
    assert time.monotonic() - started < CONNECT_TIMEOUT_S + SLACK_S
    text = str(caught.value)
    assert SECRET not in text
    return text


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("hake://key:secret@127.0.0.1:port/?region=us-east-1", ["port", "1 to 65535"]),
        ("hake://key:secret@127.0.0.1:99999/?region=us-east-1", ["99999", "1 to 65535"]),
        ("hake://key@127.0.0.1:4100/?region=us-east-1", ["access key", "secret"]),
        (f"hake://key:{SECRET}@127.0.0.1:4100/bad__space?region=us-east-1", ["namespace", "bad__space"]),
        ("hake://?region=us-east-1&vizibility_timeout=30", ["vizibility_timeout", "'visibility_timeout'"]),
        ("hake://?region=us-east-1&no_such_thing=1", ["no_such_thing", "table of options"]),
        ("hake://?region=us-east-1&visibility_timeout=never", ["visibility_timeout", "never", "43200"]),
        ("hake://?region=us-east-1&unroutable=shout", ["unroutable", "shout", "warn, raise, ignore"]),
        ("hake://?region=us-east-1&profile=no-such-profile", ["profile", "no-such-profile"]),
    ],
)
def test_fault_in_the_url_is_named(url: str, words: list[str]) -> None:
    text = failure(url, ConfigurationError)
    for word in words:
        assert word in text


def test_fault_in_the_transport_options_is_named() -> None:
    text = failure("hake://?region=us-east-1", ConfigurationError, visibility_timout=30)
    assert "visibility_timout" in text
    assert "'visibility_timeout'" in text


def test_all_faults_are_in_one_error() -> None:
    text = failure("hake://?vizibility_timeout=30&unroutable=shout&max_pollers=0", ConfigurationError)
    for word in ("vizibility_timeout", "unroutable", "max_pollers"):
        assert word in text


def test_missing_region_says_where_to_set_it() -> None:
    text = failure(f"hake://key:{SECRET}@", ConfigurationError)
    assert "region" in text
    assert "AWS_REGION" in text


def test_missing_credentials_say_where_to_set_them() -> None:
    text = failure("hake://?region=us-east-1", ConfigurationError)
    assert "credentials" in text
    assert "AWS_ACCESS_KEY_ID" in text


def test_missing_region_and_credentials_are_one_error() -> None:
    text = failure("hake://", ConfigurationError)
    assert "region" in text
    assert "credentials" in text


# --- endpoints that do not answer ----------------------------------------------------------------------------------


@contextmanager
def closed_port() -> Iterator[int]:
    """Refuses connections."""
    with socket.socket() as bound:
        bound.bind((HOST, 0))
        yield bound.getsockname()[1]


@contextmanager
def silent_port() -> Iterator[int]:
    """The kernel completes the connection, and nobody ever reads."""
    with socket.create_server((HOST, 0)) as server:
        yield server.getsockname()[1]


@contextmanager
def black_hole() -> Iterator[int]:
    """Connections are not even completed: the backlog is full, so the kernel drops what comes."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server((HOST, 0), backlog=0))
        port = server.getsockname()[1]
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex((HOST, port))
        yield port


@pytest.mark.parametrize("endpoint", [closed_port, silent_port, black_hole])
def test_endpoint_that_does_not_answer_is_named(endpoint: Callable[[], "contextmanager[int]"]) -> None:
    with endpoint() as port:
        text = failure(f"hake://key:{SECRET}@{HOST}:{port}/?region=us-east-1", BrokerUnavailable)
        assert f"{HOST}:{port}" in text


def test_kombu_users_catch_it_as_an_operational_error() -> None:
    with closed_port() as port:
        failure(f"hake://key:{SECRET}@{HOST}:{port}/?region=us-east-1", kombu.exceptions.OperationalError)


def test_ensure_connection_tries_again_as_often_as_it_is_told() -> None:
    with closed_port() as port, Connection(f"hake://k:s@{HOST}:{port}/?region=us-east-1") as connection:
        seen: list[Exception] = []
        with pytest.raises(kombu.exceptions.OperationalError):
            connection.ensure_connection(
                errback=lambda error, _: seen.append(error), max_retries=2, interval_start=0.01, interval_step=0
            )
        assert len(seen) == 2


def test_publish_to_a_dead_endpoint_raises_in_time() -> None:
    with closed_port() as port, Connection(f"hake://k:s@{HOST}:{port}/?region=us-east-1", connect_timeout=2) as dead:
        started = time.monotonic()
        with pytest.raises(kombu.exceptions.OperationalError):
            Producer(dead).publish(1, routing_key="work", retry=True, retry_policy={"max_retries": 1})
        assert time.monotonic() - started < 5 + SLACK_S


# --- what AWS refuses -----------------------------------------------------------------------------------------------


@pytest.mark.ministack
def test_wrong_secret_is_told_apart_from_missing_rights(ministack: Emulator) -> None:
    user = replace(as_user(ministack, ["sqs:*"]), secret=SECRET)
    started = time.monotonic()
    with Connection(user.url("errors")) as connection, pytest.raises(ConfigurationError) as caught:
        connection.default_channel.queue_declare("work")
    assert time.monotonic() - started < SLACK_S
    assert "credentials" in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.ministack
def test_denied_action_is_named_and_not_tried_again(ministack: Emulator) -> None:
    user = as_user(ministack, ["sns:Publish"])
    started = time.monotonic()
    with Connection(user.url("errors")) as connection, pytest.raises(AccessDenied) as caught:
        connection.default_channel.queue_declare("work")
    assert time.monotonic() - started < SLACK_S
    assert caught.value.action in ("sqs:GetQueueUrl", "sqs:CreateQueue")
    assert caught.value.action in str(caught.value)


def test_secret_is_in_no_description_of_the_connection(moto: Emulator) -> None:
    """Celery shows ``info()`` without its password to whoever asks ``inspect stats``."""
    url = replace(moto, secret=SECRET).url("errors", session_token="t0ken")
    with Connection(url) as connection:
        connection.connect()
        info = {name: value for name, value in connection.info().items() if name != "password"}
        shown = f"{connection!r} {connection.as_uri()} {connection.transport.settings!r} {info}"
        assert quote(SECRET, safe="") in connection.as_uri(include_password=True)
    assert SECRET not in shown
    assert quote(SECRET) not in shown
    assert quote(SECRET, safe="") not in shown
    assert "t0ken" not in shown


def test_clone_has_the_credentials_all_the_same(moto: Emulator) -> None:
    with Connection(moto.url("errors")) as connection, connection.clone() as clone:
        connection.connect()
        clone.connect()
        assert clone.transport.settings == connection.transport.settings
