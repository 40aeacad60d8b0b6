"""Broker URL, options and environment to settings: forms, precedence, faults, secrets."""

import copy
import json
import logging
import os
import pickle
import re
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kombu import Connection

from kombu_hake.aws import Clients
from kombu_hake.config import settings as settings_module
from kombu_hake.config.options import KOMBU_KEYS, OPTIONS
from kombu_hake.config.settings import Settings, UrlParts, join_url, load, mask_url, masked, revealed, split_url
from kombu_hake.exceptions import ConfigurationError
from kombu_hake.topology import Timings

SECRET = "wJalr/XUtnFEMI+K7MDENG=bPx"
TOKEN = "FwoGZXIvYXdzEBYaD"
KEY = "AKIAIOSFODNN7EXAMPLE"


def loaded(
    url: str = "hake://", options: dict[str, Any] | None = None, environ: Mapping[str, str] | None = None
) -> Settings:
    return load(split_url(url), options or {}, environ or {})


def faults_of(
    url: str = "hake://", options: dict[str, Any] | None = None, environ: dict[str, str] | None = None
) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        loaded(url, options, environ)
    return list(caught.value.faults)


# --- forms of the URL


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("hake://", (None, None, None, None, "")),
        ("hake:///", (None, None, None, None, "")),
        ("hake:///prod", (None, None, None, None, "prod")),
        ("hake://localhost", (None, None, "localhost", None, "")),
        ("hake://localhost:4566/prod/", (None, None, "localhost", 4566, "prod")),
        ("hake://[::1]:4566/prod", (None, None, "[::1]", 4566, "prod")),
        ("hake://[::1]", (None, None, "[::1]", None, "")),
        ("hake://k:s@[2001:db8::1]:99", ("k", "s", "[2001:db8::1]", 99, "")),
        (f"hake://{KEY}:{SECRET}@", (KEY, SECRET, None, None, "")),
        (f"hake://{KEY}:{SECRET}@host:1/ns", (KEY, SECRET, "host", 1, "ns")),
        ("hake://k:a%2Fb%2Bc%40d%3Fe@/ns", ("k", "a/b+c@d?e", None, None, "ns")),
        ("hake://k:a@b@host", ("k", "a@b", "host", None, "")),
        ("hake://k:a:b@host", ("k", "a:b", "host", None, "")),
        ("hake://k:a#b@host", ("k", "a#b", "host", None, "")),
        ("HAKE://host", (None, None, "host", None, "")),
    ],
)
def test_forms_of_the_url(url: str, parts: tuple[Any, ...]) -> None:
    assert split_url(url) == UrlParts(*parts, {})


def test_the_query_is_unquoted() -> None:
    query = split_url("hake://?region=eu-west-1&queue_name_prefix=a%2Fb&profile=").query
    assert query == {"region": "eu-west-1", "queue_name_prefix": "a/b", "profile": ""}


@given(
    st.none() | st.text(min_size=1, max_size=20),
    st.sampled_from([None, "host", "[::1]", "127.0.0.1"]),
    st.none() | st.integers(1, 65535),
    st.sampled_from(["", "prod", "a-b_c"]),
    st.dictionaries(st.sampled_from(["region", "profile", "x"]), st.text(max_size=10), max_size=2),
)
def test_a_url_can_be_put_together_again(
    secret: str | None, host: str | None, port: int | None, namespace: str, query: dict[str, str]
) -> None:
    key = None if secret is None else "AK/IA+:@?"
    parts = UrlParts(key, secret, host, port if host else None, namespace, query)
    assert split_url(join_url(parts)) == parts


@pytest.mark.parametrize("url", ["", "hake", "hake:/x", "//host", "1hake://"])
def test_what_is_no_url_says_how_to_write_one(url: str) -> None:
    with pytest.raises(ConfigurationError, match="Write hake://"):
        split_url(url)


@pytest.mark.parametrize("port", ["0", "65536", "-1", "x", "²", "1" * 5000, "1.5", " 1"])
def test_a_port_that_is_none_is_refused(port: str) -> None:
    with pytest.raises(ConfigurationError, match="from 1 to 65535"):
        split_url(f"hake://host:{port}/")


@given(st.text(max_size=40))
@example("k:a?b@host")
def test_any_url_is_understood_or_refused_clearly(rest: str) -> None:
    try:
        parts = split_url("hake://" + rest)
    except ConfigurationError:
        return
    assert parts.port is None or 0 < parts.port < 65536


# --- endpoint


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("hake://", None),
        ("hake:///prod", None),
        ("hake://localhost:4566", "http://localhost:4566"),
        ("hake://sqs.localhost:4566", "http://sqs.localhost:4566"),
        ("hake://127.0.0.1", "http://127.0.0.1"),
        ("hake://[::1]:9", "http://[::1]:9"),
        ("hake://emulator.internal:4566", "https://emulator.internal:4566"),
        ("hake://10.0.0.7", "https://10.0.0.7"),
        ("hake://[2001:db8::1]", "https://[2001:db8::1]"),
        ("hake://emulator:4566?is_secure=false", "http://emulator:4566"),
        ("hake://localhost:4566?is_secure=yes", "https://localhost:4566"),
        ("hake://?endpoint_url=http://emulator:4566/", "http://emulator:4566"),
    ],
)
def test_plain_http_only_where_asked_for_or_for_loopback(url: str, endpoint: str | None) -> None:
    assert loaded(url).endpoint_url == endpoint


@pytest.mark.parametrize(
    ("url", "is_local"),
    [
        ("hake://", False),
        ("hake://localhost:1", True),
        ("hake://[::1]:1", True),
        ("hake://127.9.9.9", True),
        ("hake://localhost.example.com", False),
        ("hake://10.0.0.7", False),
    ],
)
def test_an_endpoint_on_this_machine_is_known_as_one(url: str, is_local: bool) -> None:
    assert loaded(url).is_local == is_local


LOCAL, AWAY = "http://127.0.0.1:4100", "http://10.0.0.7:4100"


@pytest.mark.parametrize(
    ("url", "environ", "is_local"),
    [
        ("hake://", {"AWS_ENDPOINT_URL": LOCAL}, True),
        ("hake://", {"AWS_ENDPOINT_URL_SQS": LOCAL, "AWS_ENDPOINT_URL_SNS": LOCAL}, True),
        ("hake://", {"AWS_ENDPOINT_URL": LOCAL, "AWS_ENDPOINT_URL_SNS": AWAY}, False),
        ("hake://", {"AWS_ENDPOINT_URL_SQS": LOCAL}, False),
        ("hake://", {"AWS_ENDPOINT_URL": LOCAL, "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "TRUE"}, False),
        ("hake://", {"AWS_ENDPOINT_URL": AWAY}, False),
        ("hake://", {"AWS_ENDPOINT_URL": "http://[::1"}, False),
        ("hake://10.0.0.7:4100", {"AWS_ENDPOINT_URL": LOCAL}, False),
        ("hake://127.0.0.1:4100", {"AWS_ENDPOINT_URL": AWAY}, True),
        (f"hake://?sqs_endpoint_url={LOCAL}", {}, False),
        (f"hake://127.0.0.1:4100/?sqs_endpoint_url={AWAY}", {}, False),
        (f"hake://?sqs_endpoint_url={LOCAL}&sns_endpoint_url={LOCAL}", {"AWS_ENDPOINT_URL": AWAY}, True),
    ],
)
def test_an_endpoint_counts_the_same_wherever_it_is_named(url: str, environ: dict[str, str], is_local: bool) -> None:
    found = loaded(url, environ=environ)
    assert found.is_local == is_local
    assert (Timings.of(found).attributes_s == 0) == is_local


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"AWS_ENDPOINT_URL": LOCAL},
        {"AWS_ENDPOINT_URL": LOCAL, "AWS_ENDPOINT_URL_SNS": AWAY},
        {"AWS_ENDPOINT_URL_SQS": LOCAL, "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"},
        {"AWS_ENDPOINT_URL_SQS": LOCAL, "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "1"},
    ],
)
@pytest.mark.parametrize("url", ["hake://?region=eu-west-1", "hake://127.0.0.2:1/?region=eu-west-1"])
def test_an_endpoint_is_the_one_that_boto3_calls(
    url: str, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    settings = loaded(url, environ=os.environ)
    called = Clients(settings).endpoints()
    for service in ("sqs", "sns"):
        assert called[service] == settings.endpoint_of(service) or (
            settings.endpoint_of(service) is None and "amazonaws.com" in called[service]
        )


NOT_LOCAL = [
    "127.0.0.1@evil.com",
    "localhost@evil.com",
    "evil.com#.localhost",
    "evil.com?.localhost",
    "evil.com\\.localhost",
    "evil.com/.localhost",
    "evil.com;.localhost",
    "evil.com%23.localhost",
    "evil.com%2f.localhost",
    "evil.com .localhost",
    "evil.com\t.localhost",
    "evil.com\n.localhost",
    "localhost.evil.com",
    "xlocalhost",
    "localhost.",
    "127.1",
    "127.0.0.1.evil.com",
    "2130706433",
    "0x7f.0.0.1",
    "0177.0.0.1",
    "[::2]",
    "[::1]evil.com",
    "[::1%evil.com]x",
    "[2001:db8::1]",
    "[::1].evil.com",
    "\uff4cocalhost",
    "evil\u2024localhost",
]


@pytest.mark.parametrize("host", NOT_LOCAL)
def test_nothing_but_this_machine_counts_as_loopback(host: str) -> None:
    for url, options in ((f"hake://{host}", {}), ("hake://", {"endpoint_url": f"http://{host}"})):
        try:
            found = loaded(url, options)
        except ConfigurationError:
            continue
        assert not found.is_local
        if not options:
            assert (found.endpoint_url or "https:").startswith("https:")


@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{SECRET}@localhost:4566",
        f"https://{SECRET}@emulator",
        f"http://user:{SECRET}@host:port",
        f"http://localhost?token={SECRET}",
    ],
)
@pytest.mark.parametrize("name", ["endpoint_url", "sqs_endpoint_url", "sns_endpoint_url"])
def test_an_endpoint_takes_no_credentials_and_shows_none(name: str, url: str) -> None:
    if "?" in url:
        faults_of(options={name: url})
        return
    assert SECRET not in "".join(faults_of(options={name: url}))
    assert SECRET not in "".join(faults_of(f"hake://?{name}={url}"))
    assert SECRET not in mask_url(f"hake://?{name}={url}")
    assert SECRET not in mask_url(f"hake://?region=r&{name}={url.replace(':', '%3A').replace('@', '%40')}")


def test_masked_text_travels_with_what_it_hides() -> None:
    options = {"client_config": {"proxies": {"https": f"http://user:{SECRET}@proxy:3128"}}, "a": ["x", 1]}
    shown = masked(options)
    assert SECRET not in repr(shown) + json.dumps(shown)
    for copied in (shown, copy.deepcopy(shown), pickle.loads(pickle.dumps(shown))):
        assert revealed(copied) == options
    assert masked(shown) == shown


# --- precedence


def test_options_come_before_query_before_environment_before_default() -> None:
    environ = {"AWS_REGION": "from-environment"}
    assert loaded().region is None
    assert loaded(environ=environ).region == "from-environment"
    assert loaded("hake://?region=from-url", environ=environ).region == "from-url"
    assert loaded("hake://?region=from-url", {"region": "from-options"}, environ).region == "from-options"


def test_aws_region_comes_before_aws_default_region() -> None:
    assert loaded(environ={"AWS_DEFAULT_REGION": "a"}).region == "a"
    assert loaded(environ={"AWS_DEFAULT_REGION": "a", "AWS_REGION": "b"}).region == "b"
    assert loaded(environ={"AWS_DEFAULT_REGION": "a", "AWS_REGION": ""}).region == "a"


def test_an_option_comes_before_the_same_in_the_url() -> None:
    assert loaded("hake:///from-path").namer.namespace == "from-path"
    assert loaded("hake:///from-path?namespace=from-query").namer.namespace == "from-query"
    assert loaded("hake:///from-path", {"namespace": "from-option"}).namer.namespace == "from-option"


def test_attributes_of_queues_are_written_as_aws_reads_them() -> None:
    redrive = {"deadLetterTargetArn": "arn:aws:sqs:r:1:dead", "maxReceiveCount": 5}
    found = loaded(
        options={"queue_attributes": {"SqsManagedSseEnabled": True, "DelaySeconds": 5, "RedrivePolicy": redrive}}
    )
    assert found.queue_attributes == {
        "SqsManagedSseEnabled": "true",
        "DelaySeconds": "5",
        "RedrivePolicy": '{"deadLetterTargetArn": "arn:aws:sqs:r:1:dead", "maxReceiveCount": 5}',
    }


def test_options_in_the_url_are_read_as_their_type() -> None:
    found = loaded("hake://?visibility_timeout=60&read_timeout=2.5&is_secure=false&best_effort_exchanges=a,%20b.*,")
    assert (found.visibility_timeout, found.read_timeout) == (60, 2.5)
    assert found.best_effort_exchanges == ("a", "b.*")
    assert isinstance(found.visibility_timeout, int)


def test_zero_is_a_value() -> None:
    found = loaded(options={"wait_time_seconds": 0, "check_bindings": 0, "janitor_interval": 0})
    assert (found.wait_time_seconds, found.check_bindings, found.janitor_interval) == (0, 0, 0)


def test_the_connect_timeout_is_kombus_unless_an_option_says_otherwise() -> None:
    assert load(split_url("hake://"), {}, {}).connect_timeout == 5.0
    assert load(split_url("hake://"), {}, {}, connect_timeout=2).connect_timeout == 2.0
    assert load(split_url("hake://?connect_timeout=3"), {}, {}, connect_timeout=2).connect_timeout == 3.0


def test_defaults_of_the_dataclass_are_those_of_the_table() -> None:
    assert loaded() == Settings()


# --- moving from sqs://


def test_names_of_kombus_sqs_transport_are_understood() -> None:
    found = loaded(
        options={
            "sts_role_arn": "arn:aws:iam::111122223333:role/r",
            "sts_token_timeout": 900,
            "client-config": {"tcp_keepalive": True},
            "sqs-creation-attributes": {"KmsMasterKeyId": "alias/aws/sqs", "DelaySeconds": 5},
            "predefined_queues": {"q": {"url": "https://sqs/1/q"}, "f.fifo": {"url": "https://sqs/1/f.fifo"}},
            "predefined_exchanges": {"x": {"arn": "arn:aws:sns:eu-west-1:111122223333:x"}},
            "queue_name_prefix": "shop-",
            "queue_tags": {"team": "a"},
            "supports_fanout": True,
        }
    )
    assert found.role_arn == "arn:aws:iam::111122223333:role/r"
    assert found.role_duration == 900
    assert found.client_config == {"tcp_keepalive": True}
    assert found.queue_attributes == {"KmsMasterKeyId": "alias/aws/sqs", "DelaySeconds": "5"}
    assert found.predefined_queues == {"q": "https://sqs/1/q", "f.fifo": "https://sqs/1/f.fifo"}
    assert found.predefined_exchanges == {"x": "arn:aws:sns:eu-west-1:111122223333:x"}
    assert found.namer.prefix == "shop-"


@pytest.fixture
def _nothing_warned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings_module, "_warned", set())


@pytest.mark.usefixtures("_nothing_warned")
def test_an_option_without_meaning_here_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            loaded(options={"polling_interval": 1, "sqs_base64_encoding": False, "supports_fanout": False})
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "polling_interval" in caplog.text
    assert "sqs_base64_encoding" in caplog.text


@pytest.mark.parametrize(
    ("name", "value", "alias"),
    [
        ("role_arn", "arn:aws:iam::111122223333:role/r", "sts_role_arn"),
        ("queue_attributes", {"DelaySeconds": 5}, "sqs-creation-attributes"),
        ("client_config", {"tcp_keepalive": True}, "client-config"),
    ],
)
def test_an_option_by_both_of_its_names_is_a_fault(name: str, value: Any, alias: str) -> None:
    assert faults_of(options={name: value, alias: value}) == [
        f"Transport option {alias!r} is the same as {name!r}: give one of them."
    ]


def test_the_options_may_override_the_url_by_the_other_name() -> None:
    found = loaded("hake://?role_duration=900", {"sts_token_timeout": 1_000})
    assert found.role_duration == 1_000


# --- kombu's own keys


def test_keys_that_kombu_writes_into_the_options_are_accepted_and_decide_nothing() -> None:
    plain = loaded(options={"region": "r"})
    retried = loaded(options={"region": "r", **dict.fromkeys(KOMBU_KEYS, 1)})
    assert retried == plain
    assert retried.key() == plain.key()


def test_options_as_kombu_leaves_them_after_a_publish_with_retries() -> None:
    written: dict[str, Any] = {}
    with Connection("memory://", transport_options=written) as connection:
        producer = connection.Producer()
        producer.publish({}, retry=True, retry_policy={"max_retries": 1, "interval_start": 0, "errback": None})
        assert loaded(options={**connection.transport_options, **connection.clone().transport_options}) == loaded()


# --- faults


def test_all_faults_are_in_one_error() -> None:
    found = faults_of(
        f"hake://{KEY}@localhost/a__b?visibility_timeout=x&profile=p&endpoint_url=ftp://x&session_token={TOKEN}",
        {"regoin": "r", "unroutable": "maybe", "max_pollers": 0},
    )
    assert len(found) == 8
    text = "\n".join(found)
    for part in ("a__b", "visibility_timeout", "endpoint_url", "'regoin'", "unroutable", "max_pollers", "secret key"):
        assert part in text


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("regoin", "region"),
        ("visibility-timeout", "visibility_timeout"),
        ("Region", "region"),
        ("sts_role_arm", "sts_role_arn"),
        ("predefined_queue", "predefined_queues"),
        ("wait_time_second", "wait_time_seconds"),
        ("sqs-base64-encoding", "sqs_base64_encoding"),
    ],
)
def test_a_misspelt_option_gets_the_nearest_name(written: str, meant: str) -> None:
    assert faults_of(options={written: "x"}) == [f"Transport option {written!r} is unknown; did you mean {meant!r}?"]
    assert f"did you mean {meant!r}?" in faults_of(f"hake://?{written}=x")[0]


@pytest.mark.parametrize("written", ["zzz", 5, None, (1, 2), "delay_seconds", "fanout_prefix"])
def test_an_option_like_no_other_points_to_the_table(written: Any) -> None:
    [fault] = faults_of(options={written: 1})
    assert repr(written) in fault
    assert "see the table of options" in fault


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"visibility_timeout": 0}, "from 1 to 43200 (seconds)"),
        ({"visibility_timeout": 43_201}, "from 1 to 43200"),
        ({"visibility_timeout": 1.5}, "a whole number"),
        ({"visibility_timeout": float("nan")}, "from 1 to 43200"),
        ({"visibility_timeout": True}, "from 1 to 43200"),
        ({"visibility_timeout": [7]}, "from 1 to 43200"),
        ({"visibility_timeout": "1e400"}, "from 1 to 43200"),
        ({"visibility_timeout": 10**400}, "from 1 to 43200"),
        ({"wait_time_seconds": 21}, "from 0 to 20"),
        ({"is_secure": "maybe"}, "true or false"),
        ({"unroutable": "drop"}, "warn, raise, ignore"),
        ({"name_style": ["hake"]}, "hake, kombu"),
        ({"region": ""}, "a non-empty text"),
        ({"region": 7}, "a non-empty text"),
        ({"region": "a b"}, "a region of AWS, such as eu-west-1"),
        ({"region": "-west"}, "a region of AWS"),
        ({"region": "us-east-1;namespace=x"}, "a region of AWS"),
        ({"role_arn": "worker"}, "the ARN of a role, such as arn:aws:iam::123456789012:role/worker"),
        ({"role_arn": "arn:aws:sqs:us-east-1:123456789012:q"}, "the ARN of a role"),
        ({"sts_token_timeout": 100}, "from 900 to 43200"),
        ({"queue_attributes": {"visibility_timeout": 60}}, "'visibility_timeout' is not an attribute"),
        ({"queue_attributes": {"RedrivePolcy": {"maxReceiveCount": 3}}}, "'maxReceiveCount' is not an attribute"),
        ({"queue_attributes": {"VisibilityTimeout": "soon"}}, "VisibilityTimeout is a whole number from 0 to 43200"),
        ({"queue_attributes": {"mail-*": {"DelaySeconds": 901}}}, "DelaySeconds is a whole number from 0 to 900"),
        ({"sqs-creation-attributes": {"MessageRetentionPeriod": None}}, "a whole number from 60 to 1209600"),
        ({"queue_attributes": {"KmsMasterKeyId": None}}, "KmsMasterKeyId is text, a number, a truth value or a dict"),
        ({"queue_attributes": {"RedrivePolicy": "dead"}}, "RedrivePolicy is a dict, or the text of a JSON object"),
        ({"queue_tags": {"team": None}}, "team is text, a number"),
        ({"queue_tags": {"hake:made-by": "me"}}, "keys that start with aws: or hake: are reserved"),
        ({"queue_tags": {"aws:x": "y"}}, "are reserved"),
        ({"queue_tags": {"k" * 129: "v"}}, "keys of 1 to 128 characters"),
        ({"queue_tags": {"k": "v" * 257}}, "values of up to 256"),
        ({"dead_letter_queue": "  "}, "true, or the name of a queue"),
        ({"dead_letter_queue": "{queue}-dead.fifo"}, "without .fifo, which is added"),
        ({"account_id": "123"}, "twelve digits"),
        ({"account_id": "\uff11" * 12}, "twelve digits"),
        ({"endpoint_url": "localhost:4566"}, "http://"),
        ({"endpoint_url": "http://"}, "http://"),
        ({"client_config": "x"}, "a dict"),
        ({"client_config": {1: 2}}, "text keys"),
        ({"queue_tags": ["a"]}, "a dict"),
        ({"best_effort_exchanges": 5}, "a list of name patterns"),
        ({"best_effort_exchanges": [5]}, "a list of name patterns"),
        ({"predefined_queues": {"q": {}}}, "'q' has no url"),
        ({"predefined_queues": {"q": None}}, "'q' has no url"),
        ({"predefined_queues": {"q": {"url": "u", "regoin": "r"}}}, "also has regoin"),
        ({"predefined_queues": {"q": {"url": "u", "region": 7}}}, "region of 'q' is a non-empty text"),
        ({"predefined_queues": {"q": {"url": "u", "access_key_id": "k"}}}, "both access_key_id and secret_access_key"),
        ({"predefined_queues": {"q": {"arn": "arn:aws:sqs:r:1:q", "region": "r"}}}, "'q' has a url instead"),
        ({"predefined_queues": {"q": {"url": f"https://k:{SECRET}@h/q"}}}, "without user and password"),
        ({"predefined_queues": {"q": {"url": "u", "backoff_policy": [1]}}}, "like {1: 10, 2: 20}"),
        ({"predefined_queues": {"q": {"url": "u", "backoff_policy": {"a": 1}}}}, "like {1: 10, 2: 20}"),
        ({"predefined_queues": {"q": {"url": "u", "backoff_tasks": "t"}}}, "a list of names"),
        ({"predefined_queues": {"q.fifo": {"url": "u"}}}, "end in .fifo"),
        (
            {"predefined_queues": {"q": "q"}},
            "the url of 'q' is like https://sqs.eu-west-1.amazonaws.com/123456789012/q",
        ),
        ({"predefined_queues": {"q": {"url": "ftp://host/1/q"}}}, "the url of 'q' is like"),
        ({"predefined_queues": {"q": {"url": "https://host/"}}}, "the url of 'q' is like"),
        ({"predefined_queues": {"q": {"url": " https://host/1/q"}}}, "the url of 'q' is like"),
        (
            {"predefined_queues": {"q": {"url": "https://host/1/q", "region": "x y"}}},
            "region of 'q' is a region of AWS",
        ),
        ({"predefined_exchanges": {"x": "arn:aws:sqs:r:1:q"}}, "that of 'x' is not"),
        ({"predefined_exchanges": {"x": None}}, "that of 'x' is not"),
        ({"predefined_exchanges": {"x": {"arn": "arn:aws:sns:r:1:x", "regoin": "r"}}}, "unsupported"),
    ],
)
def test_a_wrong_value_is_named_with_what_it_must_be(options: dict[str, Any], part: str) -> None:
    [fault] = faults_of(options=options)
    [name] = options
    assert fault.startswith(f"Transport option {name}: ")
    assert part in fault


@pytest.mark.parametrize(
    ("url", "part"),
    [
        (f"hake://{KEY}@", "only one of access key and secret key"),
        (f"hake://:{SECRET}@", "only one of access key and secret key"),
        (f"hake://?session_token={TOKEN}", "session_token needs"),
        (f"hake://{KEY}:{SECRET}@?profile=p", "not both"),
        ("hake://localhost?endpoint_url=http://x", "not both"),
        ("hake:///a/b", "Path of the URL, the namespace: 'a/b'"),
        ("hake://eu-west-1", "an endpoint, not a region: write hake://?region=eu-west-1"),
        ("hake://?queue_name_prefix=" + "x" * 80 + "&name_style=kombu", "shorter than 80"),
        ("hake://?queue_name_prefix=%C3%A9&name_style=kombu", "shorter than 80"),
        ("hake://?region=", "Option in the URL region"),
    ],
)
def test_what_does_not_go_together_is_a_fault(url: str, part: str) -> None:
    [fault] = faults_of(url)
    assert part in fault


@pytest.mark.parametrize(
    "url",
    [
        "https://queue.amazonaws.com/123456789012/q",
        "https://sqs.cn-north-1.amazonaws.com.cn/123456789012/q",
        "https://vpce-1.sqs.eu-west-1.vpce.amazonaws.com/123456789012/q",
        "http://localhost:4566/queue/us-east-1/000000000000/q",
        "http://sqs.us-east-1.localhost.localstack.cloud:4566/000000000000/q",
        "http://localhost:9324/queue/q",
        "http://[::1]:9324/000000000000/q/",
    ],
)
def test_queue_urls_of_aws_and_of_emulators(url: str) -> None:
    assert loaded(options={"predefined_queues": {"q": {"url": url}}}).predefined_queues == {"q": url}


@pytest.mark.parametrize("host", ["qa-broker-1", "ci-localstack-1", "ci-localstack-1:4566", "eu-west-1:4566"])
def test_a_host_may_look_like_a_region(host: str) -> None:
    """Docker calls containers so."""
    assert loaded(f"hake://{host}?region=eu-west-1").endpoint_url == f"https://{host}"


@pytest.mark.parametrize(
    "region", ["us-gov-west-1", "cn-northwest-1", "ap-southeast-5", "us-isob-east-1", "il-central-1"]
)
def test_a_region_is_no_host(region: str) -> None:
    [fault] = faults_of(f"hake://{region}")
    assert f"?region={region}" in fault


def test_a_wrong_environment_variable_is_named() -> None:
    assert faults_of(environ={"AWS_REGION": "  "}) == [
        "Environment variable AWS_REGION for region: '  ' must be a non-empty text."
    ]


# --- secrets

secrets = st.text(st.characters(codec="ascii", categories=["Lu", "Ll", "Nd"]), min_size=12, max_size=40)


@pytest.mark.parametrize(
    "url",
    [
        f"hake://{KEY}:{SECRET}@",
        f"hake://{KEY}:{SECRET}@localhost:1/ns?region=r&session_token={TOKEN}",
        f"hake://{KEY}:{SECRET}@host:port",
        f"hake://{KEY}:{SECRET}@?session_token={TOKEN}&profile=p",
        f"hake://{KEY}:{SECRET}@?session%5Ftoken={TOKEN}&region=",
        f"hake://{KEY}:what?{SECRET}@host",
        f"hake://{KEY}:what?{SECRET}@host:x?session_token={TOKEN}",
        f"hake://{KEY}:{SECRET}?x=@host",
        f"hake:/{KEY}:{SECRET}@",
        f"{KEY}:{SECRET}@host",
        f"hake://{KEY}:{SECRET}@?session_token=&regoin=r",
    ],
)
def test_secrets_are_in_no_text(url: str, caplog: pytest.LogCaptureFixture) -> None:
    texts = [mask_url(url)]
    with caplog.at_level(logging.DEBUG):
        try:
            found = loaded(url)
        except ConfigurationError as exc:
            texts += [str(exc), repr(exc), *exc.faults]
        else:
            texts += [repr(found), str(found)]
    for text in [*texts, caplog.text]:
        assert SECRET not in text
        assert SECRET[:12] not in text
        assert TOKEN not in text


def test_a_token_of_the_wrong_type_is_not_shown() -> None:
    assert TOKEN not in "".join(faults_of(f"hake://{KEY}:{SECRET}@", {"session_token": TOKEN.encode()}))


def test_what_may_be_configured_for_proxies_is_in_no_repr() -> None:
    found = loaded(options={"client_config": {"proxies": {"https": f"http://user:{SECRET}@proxy"}}})
    assert SECRET not in repr(found)


def test_an_endpoint_of_the_environment_is_in_no_repr() -> None:
    """It is not checked, so it may hold a password."""
    found = loaded(environ={"AWS_ENDPOINT_URL": f"http://user:{SECRET}@localhost:1"})
    assert SECRET not in repr(found)


@given(
    secrets, st.sampled_from(["", "host", "localhost:4566", "[::1]:1"]), st.sampled_from(["", "/ns", "/ns?region=r"])
)
def test_a_masked_url_keeps_all_but_the_secret(secret: str, host: str, rest: str) -> None:
    url = f"hake://{KEY}:{secret}@{host}{rest}"
    assert mask_url(url) == f"hake://{KEY}:**@{host}{rest}"
    assert split_url(mask_url(url))._replace(secret=secret) == split_url(url)


@pytest.mark.parametrize(
    "url", ["hake://", "hake://host:1/ns?region=r", "hake://?queue_name_prefix=a@b", "hake://[::1]/n"]
)
def test_a_url_without_secrets_is_not_masked(url: str) -> None:
    assert mask_url(url) == url


# --- sharing


def test_equal_settings_share_a_key() -> None:
    one = {"queue_tags": {"a": "1", "b": "2"}, "visibility_timeout": 60, "read_timeout": 1}
    other = {"read_timeout": 1.0, "visibility_timeout": "60", "queue_tags": {"b": "2", "a": "1"}}
    assert loaded(options=one) == loaded(options=other)
    assert loaded(options=one).key() == loaded(options=other).key()


@pytest.mark.parametrize(
    ("url", "options"),
    [
        (f"hake://{KEY}:other@", {}),
        ("hake:///other", {}),
        ("hake://", {"region": "other"}),
        ("hake://", {"visibility_timeout": 1}),
        ("hake://", {"queue_tags": {"a": "1"}}),
        ("hake://", {"client_config": {"a": "1"}}),
    ],
)
def test_different_settings_do_not_share_a_key(url: str, options: dict[str, Any]) -> None:
    assert loaded(url, options).key() != loaded(f"hake://{KEY}:{SECRET}@").key()
    assert loaded(url, options).key() != loaded().key()


def test_best_effort_exchanges_are_patterns() -> None:
    found = loaded()
    assert found.is_best_effort("celery.pidbox")
    assert found.is_best_effort("celeryev")
    assert not found.is_best_effort("celeryev.x")
    assert not found.is_best_effort("orders")


def test_settings_differ_in_what_is_best_effort() -> None:
    orders, celery = loaded(options={"best_effort_exchanges": ["order*"]}), loaded()
    for exchange, is_orders in (("orders", True), ("celeryev", False)) * 2:
        assert orders.is_best_effort(exchange) is is_orders
        assert celery.is_best_effort(exchange) is not is_orders


def test_every_option_is_a_setting_or_part_of_one() -> None:
    folded = {"namespace", "queue_name_prefix", "name_style", "is_secure"}
    assert set(OPTIONS) - folded <= set(Settings.__dataclass_fields__)
    assert all(re.search(r"\w\.$|\.$|\)$", option.summary.strip()) or option.summary for option in OPTIONS.values())
