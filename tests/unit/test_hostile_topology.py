"""Whatever tags, policies and filters AWS shows, they raise nothing unexpected, and freeze nothing."""

import fnmatch
import json
from typing import Any

import pytest
from fakes import REGION, FakeClients, connected, make_settings
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kombu import Exchange, Queue
from support.hostile_topology import CASES, QUEUE, TOPICS, Case, examples, within
from support.shops import made_app

from kombu_hake.admin import connect
from kombu_hake.amqp import globs
from kombu_hake.amqp.bindings import Binding
from kombu_hake.amqp.documents import matches_wildcard, read_object, readable_dead_queue
from kombu_hake.amqp.policy import PolicyUnreadable, allows, queue_policy
from kombu_hake.amqp.routing import compile_filter, matches
from kombu_hake.exceptions import TopologyError, TopologyIncomplete
from kombu_hake.topology.spec import QueueSpec
from kombu_hake.topology.topology import Topology

KEY = Binding("orders", "direct", "a" * 250)
STARS = "*a" * 120 + "b"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_nothing_hostile_raises_or_takes_long(case: Case) -> None:
    @settings(max_examples=examples(60))
    @given(case.strategy)
    def run(found: Any) -> None:
        case.check(found)

    run()


# --- wildcards of policies


@given(st.text("ab*?\n", max_size=12), st.text("ab?\n[", max_size=12))
@example("*?", "")
@example("a*a", "a")
@example("*a?b*", "aab")
def test_a_pattern_matches_as_a_shell_pattern_without_brackets(pattern: str, text: str) -> None:
    assert matches_wildcard(pattern, text, question_mark=True) == fnmatch.fnmatchcase(text, pattern)
    escaped = pattern.replace("?", "[?]")
    assert matches_wildcard(pattern, text) == fnmatch.fnmatchcase(text, escaped)


# --- queue policies


@pytest.mark.parametrize(
    "text",
    ["[" * 8_000, '{"Statement":' * 2_000, '{"Statement":[' + "[" * 200 + "]" * 200 + "]}", '{"a":"' + "x" * 10**6],
)
def test_a_policy_that_is_nested_or_huge_is_left_alone(text: str) -> None:
    with within():
        assert not allows(text, QUEUE, TOPICS[0])
        with pytest.raises(PolicyUnreadable, match="left unchanged"):
            queue_policy(text, QUEUE, TOPICS)


def test_a_policy_with_many_stars_is_judged_at_once() -> None:
    resources = [STARS, "*a?" * 1_000, "*" * 3_000 + "b"]
    statement = {"Effect": "Allow", "Principal": "*", "Action": "*", "Resource": resources}
    with within():
        assert not allows(json.dumps({"Statement": [statement] * 3}), QUEUE, TOPICS[0])


# --- documents


@pytest.mark.parametrize(
    "text", ["[1]", "5", "null", '"a"', "{", "[" * 10**5, '{"a": NaN}', '{"a": ' + "9" * 5_000 + "}"]
)
def test_what_is_no_object_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_object(text)


def test_brackets_in_strings_do_not_count() -> None:
    assert read_object(json.dumps({"a": "[" * 100, 'b"\\': "}" * 100})) == {"a": "[" * 100, 'b"\\': "}" * 100}


# --- what a process makes of them


@pytest.mark.parametrize(
    "text", ["[]", "{", "5", '{"deadLetterTargetArn": 5}', '{"deadLetterTargetArn": "\x1b"}', "[" * 9_000]
)
def test_verify_reports_a_redrive_policy_that_cannot_be_read(text: str) -> None:
    fake = FakeClients()
    fake.sqs("create_queue", QueueName="email")
    fake.queues.queue("email").attributes["RedrivePolicy"] = text
    with connected(fake, topology="verify") as connection:
        channel = connection.default_channel
        Queue("email", Exchange(""))(channel).declare()
        with pytest.raises(TopologyIncomplete) as caught:
            channel.topology.verify()
    [fault] = caught.value.faults
    assert "redrive policy that names no dead-letter queue" in fault
    assert fault.isprintable()
    assert len(fault) < 1_000


#: Redrive policies, and what is read of each: ``""`` for nothing.
REDRIVES = {
    "not JSON": ("{", ""),
    "a list": ('["arn:aws:sqs:eu-west-1:123456789012:ns__email-dead"]', ""),
    "a text": ('"arn:aws:sqs:eu-west-1:123456789012:ns__email-dead"', ""),
    "nested too deep": ("[" * 9_000, ""),
    "no target": ('{"maxReceiveCount": 3}', ""),
    "a target that is no text": ('{"deadLetterTargetArn": ["arn:aws:sqs:eu-west-1:123456789012:ns__email-dead"]}', ""),
    "a target that is an object": ('{"deadLetterTargetArn": {"Ref": "x"}}', ""),
    "a target that is no ARN": ('{"deadLetterTargetArn": "ns__email-dead"}', ""),
    "a target that is no queue": ('{"deadLetterTargetArn": "arn:aws:sns:eu-west-1:123456789012:ns__email-dead"}', ""),
    "an escape sequence": ('{"deadLetterTargetArn": "arn:aws:\\u001b[31m:::"}', ""),
    "another account": (
        '{"deadLetterTargetArn": "arn:aws:sqs:eu-west-1:999999999999:ns__email-dead", "maxReceiveCount": 3}',
        "arn:aws:sqs:eu-west-1:999999999999:ns__email-dead",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REDRIVES)
def test_a_hostile_redrive_policy_is_read_the_same_by_all_commands(name: str) -> None:
    text, target = REDRIVES[name]
    assert readable_dead_queue(text) == target
    fake, app = FakeClients(), made_app(f"hake://localhost:1/ns?region={REGION}", "attributes and tags")
    with connected(fake), connect(app) as broker:
        broker.apply()
        fake.queues.queue("ns__email").attributes["RedrivePolicy"] = text
        [email] = [queue for queue in broker.queues() if queue.name == "email"]
        assert email.unreadable == ["dead"]
        with pytest.raises(TopologyError):
            list(broker.dead_letters("email"))
        assert [(one.what, one.name) for one in broker.plan().changes] == [("attribute", "ns__email")]
        codes = {finding.code for finding in broker.check().findings}
        assert "dead-queue-missing" in codes or target
        blueprint = dict(broker.export_terraform()["resource"]["aws_sqs_queue"])
        assert blueprint["ns__email"].get("depends_on", []) == []
        assert broker.apply().remaining.changes == ()
        assert broker.export_terraform()["resource"]["aws_sqs_queue"]["ns__email"]["depends_on"]


@pytest.mark.parametrize(
    "text", ["[]", "{", "5", '{"redrivePermission": "byQueue", "sourceQueueArns": "abc"}', "[" * 9_000]
)
def test_a_redrive_allow_policy_that_cannot_be_read_is_left_alone(text: str) -> None:
    fake = FakeClients()
    fake.sqs("create_queue", QueueName="q-dead")
    fake.queues.queue("q-dead").attributes["RedriveAllowPolicy"] = text
    Topology(fake, make_settings()).declare_queue(QueueSpec("q", arguments={"x-dead-letter-queue": True}))
    assert fake.queues.queue("q-dead").attributes["RedriveAllowPolicy"] == text
    assert "RedrivePolicy" in fake.queues.queue("q").attributes


@pytest.mark.parametrize("text", ["[]", "{", '{"maxReceiveCount": 3}', '{"deadLetterTargetArn": 5}', "[" * 9_000])
def test_no_message_is_deleted_for_want_of_a_redrive_policy_that_can_be_read(
    text: str, caplog: pytest.LogCaptureFixture
) -> None:
    fake = FakeClients()
    with connected(fake) as connection:
        channel = connection.default_channel
        Queue("q", Exchange(""))(channel).declare()
        fake.queues.queue("q").attributes["RedrivePolicy"] = text
        fake.queues._redrive = lambda queue, now: None  # type: ignore[method-assign]  # AWS reads its own policy
        channel.basic_publish(channel.prepare_message("hello"), exchange="", routing_key="q")
        message = channel.basic_get("q")
        assert message is not None
        message.reject()
        channel.close()
    assert len(fake.queues.queue("q").messages) == 1
    assert "could not be dead-lettered" in caplog.text


@pytest.mark.parametrize("forged", ["nonsense", "", "\x1b[2J", "x" * 256])
def test_a_forged_type_of_an_exchange_is_ignored(forged: str) -> None:
    fake = FakeClients()
    fake.sns("create_topic", Name="orders", Tags=[{"Key": "hake:exchange-type", "Value": forged}])
    assert Topology(fake, make_settings()).bound_type("orders") == "direct"


# --- patterns of AMQP


@pytest.mark.parametrize(
    "pattern", ["#." + ".".join(["a"] * 100) + ".b", "#.a" * 60 + ".b", "#.*" * 100 + ".b", "a.#." * 3_000 + "b"]
)
@pytest.mark.parametrize("words", [127, 999, 120_000])
def test_a_pattern_of_many_words_is_matched_at_once(pattern: str, words: int) -> None:
    with within():
        assert matches(Binding("orders", "topic", pattern), ".".join(["a"] * words)) is (words > 1_000)


@pytest.mark.parametrize("pattern", ["a.#." * 3_000 + "b", ".".join(["a", "*"] * 3_000), "#.a" * 4_000 + ".b"])
@pytest.mark.parametrize("wildcards", [True, False])
def test_a_pattern_of_many_words_is_compiled_at_once(pattern: str, wildcards: bool) -> None:
    with within():
        compile_filter([Binding("orders", "topic", pattern)] * 3, wildcards=wildcards)


@given(st.text("ab*", max_size=14), st.booleans())
def test_a_glob_is_brought_within_the_limits_as_step_by_step(glob: str, wildcards: bool) -> None:
    expected = glob
    while expected.count("*") > 3 or (not wildcards and globs._points(expected)):
        expected = globs._wider(expected)
    assert globs._within(glob, wildcards) == expected
