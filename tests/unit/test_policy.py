"""The queue's access policy: golden cases, limits, and what counts as allowed."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kombu_hake.amqp import limits
from kombu_hake.amqp.policy import (
    PolicyTooLarge,
    PolicyUnreadable,
    allows,
    judged_policy,
    namespace_policy,
    queue_policy,
)

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.json"))
QUEUE = "arn:aws:sqs:eu-west-1:111122223333:orders-email"
TOPIC = "arn:aws:sns:eu-west-1:111122223333:orders"
OTHER = "arn:aws:sns:eu-west-1:111122223333:payments"


def policy(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def statement(**changes: Any) -> dict[str, Any]:
    """A statement that allows TOPIC, with some of its members changed, or removed where None."""
    whole = {
        "Effect": "Allow",
        "Principal": {"Service": "sns.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": QUEUE,
        "Condition": {"ArnEquals": {"aws:SourceArn": TOPIC}},
        **changes,
    }
    return {name: value for name, value in whole.items() if value is not None}


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_golden(path: Path) -> None:
    case = json.loads(path.read_text())
    existing = case["existing"] and json.dumps(case["existing"])
    written = queue_policy(existing, case["queue_arn"], case["topic_arns"])
    assert (json.loads(written) if written else written) == case["expected"], case["about"]
    if written:
        assert len(written.encode()) <= limits.SQS_POLICY_MAX_BYTES
        assert queue_policy(written, case["queue_arn"], case["topic_arns"]) is None, "written twice"


@pytest.mark.parametrize(
    "existing",
    [
        "not json",
        "[]",
        "null",
        '"text"',
        "{}",
        '{"Statement": "all"}',
        '{"Statement": ["all"]}',
        '{"Statement": null}',
        '{"Statement": [], "Statement": []}',
        '{"Statement": [{"Sid": "a", "Sid": "b"}]}',
    ],
)
def test_a_policy_that_cannot_be_read_is_not_written_over(existing: str) -> None:
    for topics in ([TOPIC], []):
        with pytest.raises(PolicyUnreadable, match="left unchanged"):
            queue_policy(existing, QUEUE, topics)
    with pytest.raises(PolicyUnreadable):
        namespace_policy(existing, QUEUE, TOPIC)
    assert not allows(existing, QUEUE, TOPIC)


def test_no_room_among_the_statements_of_others() -> None:
    full = policy(*({**statement(Principal={"AWS": "111122223333"}), "Sid": f"s{i}"} for i in range(20)))
    long = policy(statement(Principal={"AWS": "111122223333"}, Resource=[f"{QUEUE}{i}" for i in range(160)]))
    for existing in (full, long):
        with pytest.raises(PolicyTooLarge, match="Merge or remove"):
            queue_policy(existing, QUEUE, [TOPIC])
        with pytest.raises(PolicyTooLarge):
            namespace_policy(existing, QUEUE, TOPIC)


def test_a_full_policy_still_lets_our_statement_be_changed_and_removed() -> None:
    others = [{**statement(Principal={"AWS": "111122223333"}), "Sid": f"s{i}"} for i in range(19)]
    written = queue_policy(policy(*others), QUEUE, [TOPIC])
    assert written is not None
    assert queue_policy(written, QUEUE, [TOPIC, OTHER]) is not None
    assert json.loads(queue_policy(written, QUEUE, []) or "")["Statement"] == others


def test_removing_our_statement_never_writes_more_than_sqs_accepts() -> None:
    """AWS may return characters beyond ASCII as they are; escaped, the same policy is longer."""
    ours = json.loads(queue_policy(None, QUEUE, [TOPIC]) or "")["Statement"]
    foreign = {**statement(Principal={"AWS": "111122223333"}), "Resource": [QUEUE, "\u00e9" * 2_000]}
    existing = json.dumps({"Version": "2012-10-17", "Statement": [*ours, foreign]}, ensure_ascii=False)
    assert len(existing.encode()) < limits.SQS_POLICY_MAX_BYTES
    with pytest.raises(PolicyTooLarge, match="Merge or remove"):
        queue_policy(existing, QUEUE, [])


topic_names = st.text("abcdef-_", min_size=1, max_size=120)
homes = st.sampled_from(
    [("aws", "eu-west-1", "111122223333"), ("aws", "us-east-1", "111122223333"), ("aws", "eu-west-1", "444455556666")]
)
topic_arns = st.builds(lambda home, name: "arn:{}:sns:{}:{}:{}".format(*home, name), homes, topic_names)


@settings(max_examples=60, deadline=None)
@given(st.sets(topic_arns, min_size=1, max_size=120))
def test_every_topic_is_let_in_and_the_limits_hold(arns: set[str]) -> None:
    written = queue_policy(None, QUEUE, arns)
    assert written is not None
    assert len(written.encode()) <= limits.SQS_POLICY_MAX_BYTES
    assert [arn for arn in arns if not allows(written, QUEUE, arn)] == []
    assert not allows(written, QUEUE, "arn:aws:sns:eu-west-1:999999999999:a")
    assert not allows(written, QUEUE + "2", min(arns))
    assert queue_policy(written, QUEUE, arns) is None


def test_prefixes_are_no_wider_than_they_have_to_be() -> None:
    arns = [f"{TOPIC}-{team}-{i:03d}-{'x' * 60}" for team in ("red", "blue") for i in range(100)]
    written = queue_policy(None, QUEUE, arns) or ""
    assert allows(written, QUEUE, arns[0])
    assert not allows(written, QUEUE, f"{TOPIC}-green-001")
    assert not allows(written, QUEUE, TOPIC)


def test_regions_are_given_up_only_when_nothing_else_helps() -> None:
    arns = [f"arn:aws:sns:region-{i:03d}:111122223333:events-{'x' * 40}" for i in range(300)]
    written = queue_policy(None, QUEUE, arns) or ""
    assert json.loads(written)["Statement"][0]["Condition"] == {
        "ArnLike": {"aws:SourceArn": [f"arn:aws:sns:*:111122223333:events-{'x' * 40}*"]}
    }


def test_accounts_are_never_given_up() -> None:
    with pytest.raises(PolicyTooLarge):
        queue_policy(None, QUEUE, [f"arn:aws:sns:eu-west-1:{i:012d}:events" for i in range(300)])


def test_a_topic_arn_has_six_parts() -> None:
    with pytest.raises(ValueError, match="six parts"):
        queue_policy(None, QUEUE, ["orders" + "x" * 9000])


# --- one statement for a namespace


def test_namespace_statement_is_written_once_and_replaces_the_list_of_topics() -> None:
    foreign = {**statement(Principal={"AWS": "*"}, Action="sqs:ReceiveMessage"), "Sid": "Theirs"}
    listed = queue_policy(policy(foreign), QUEUE, [TOPIC])
    pattern = "arn:aws:sns:eu-west-1:111122223333:dev__*"
    written = namespace_policy(listed, QUEUE, pattern)
    assert written is not None
    assert [one["Sid"] for one in json.loads(written)["Statement"]] == ["Theirs", "HakeNamespace"]
    assert allows(written, QUEUE, "arn:aws:sns:eu-west-1:111122223333:dev__orders")
    assert not allows(written, QUEUE, "arn:aws:sns:eu-west-1:111122223333:prod__orders")
    assert namespace_policy(written, QUEUE, pattern) is None


def test_topics_that_the_namespace_statement_lets_in_need_no_other() -> None:
    written = namespace_policy(None, QUEUE, "arn:aws:sns:eu-west-1:111122223333:*")
    assert queue_policy(written, QUEUE, [TOPIC, OTHER]) is None


# --- what counts as allowed


@pytest.mark.parametrize(
    ("about", "changes"),
    [
        ("as written", {}),
        ("anybody", {"Principal": "*"}),
        ("any AWS principal", {"Principal": {"AWS": "*"}}),
        ("several services", {"Principal": {"Service": ["events.amazonaws.com", "sns.amazonaws.com"]}}),
        ("the service of the topic's region", {"Principal": {"Service": "sns.eu-west-1.amazonaws.com"}}),
        ("any action", {"Action": ["sqs:*"]}),
        ("another case", {"Action": "SQS:SendMessage"}),
        ("any queue", {"Resource": "*"}),
        ("queues alike", {"Resource": "arn:aws:sqs:*:111122223333:orders-*"}),
        ("no condition", {"Condition": None}),
        ("one of several", {"Condition": {"ArnEquals": {"aws:SourceArn": [OTHER, TOPIC]}}}),
        ("a pattern", {"Condition": {"ArnLike": {"AWS:SourceArn": "arn:aws:sns:*:*:ord*"}}}),
        ("the account", {"Condition": {"StringEquals": {"aws:SourceAccount": "111122223333"}}}),
        ("two keys", {"Condition": {"StringLike": {"aws:SourceAccount": "1111*", "aws:SourceArn": TOPIC}}}),
        ("two", {"Condition": {"StringLike": {"aws:SourceAccount": "1111*"}, "ArnLike": {"aws:SourceArn": TOPIC}}}),
        ("a string pattern", {"Condition": {"StringLike": {"aws:SourceArn": "arn:aws:sns:*"}}}),
        ("if it exists", {"Condition": {"ArnLikeIfExists": {"aws:SourceArn": TOPIC}}}),
        ("over TLS", {"Condition": {"Bool": {"aws:SecureTransport": True}}}),
        ("all but another", {"Condition": {"ArnNotLike": {"aws:SourceArn": OTHER}}}),
    ],
)
def test_allowed(about: str, changes: dict[str, Any]) -> None:
    assert allows(policy(statement(**changes)), QUEUE, TOPIC), about


@pytest.mark.parametrize(
    ("about", "changes"),
    [
        ("another topic", {"Condition": {"ArnEquals": {"aws:SourceArn": OTHER}}}),
        ("a pattern over colons", {"Condition": {"ArnLike": {"aws:SourceArn": "arn:*:orders"}}}),
        ("another account", {"Condition": {"StringEquals": {"aws:SourceAccount": "444455556666"}}}),
        ("one of two conditions", {"Condition": {"StringEquals": {"aws:SourceAccount": "4", "aws:SourceArn": TOPIC}}}),
        ("an unknown key", {"Condition": {"StringEquals": {"aws:PrincipalOrgID": "o-1"}}}),
        ("an unknown operator", {"Condition": {"IpAddress": {"aws:SourceArn": TOPIC}}}),
        ("a condition that is none", {"Condition": ["ArnEquals"]}),
        ("another principal", {"Principal": {"AWS": "arn:aws:iam::111122223333:root"}}),
        ("another service", {"Principal": {"Service": "s3.amazonaws.com"}}),
        ("no principal", {"Principal": None, "NotPrincipal": {"AWS": "*"}}),
        ("another action", {"Action": ["sqs:ReceiveMessage"]}),
        ("another queue", {"Resource": QUEUE + "-2"}),
        ("brackets are no pattern", {"Resource": QUEUE[:-1] + "[l]"}),
        ("a denial", {"Effect": "Deny"}),
        ("all but this", {"Condition": {"StringNotEquals": {"aws:SourceArn": [TOPIC, OTHER]}}}),
    ],
)
def test_not_allowed(about: str, changes: dict[str, Any]) -> None:
    assert not allows(policy(statement(**changes)), QUEUE, TOPIC), about


def test_a_denial_outweighs_what_allows_unless_it_is_about_something_else() -> None:
    plain = {"Effect": "Deny", "Principal": "*", "Action": "sqs:*"}
    assert not allows(policy(statement(), statement(**plain, Condition=None)), QUEUE, TOPIC)
    no_tls = {"Bool": {"aws:SecureTransport": "false"}}
    other_org = {"StringNotEquals": {"aws:PrincipalOrgID": "o-1"}, "Bool": {"aws:PrincipalIsAWSService": "false"}}
    for condition in (no_tls, other_org):
        assert allows(policy(statement(), statement(**plain, Condition=condition)), QUEUE, TOPIC)


def test_no_policy_allows_nothing() -> None:
    assert not allows("", QUEUE, TOPIC)


@pytest.mark.parametrize(
    ("changes", "allowed", "denied", "other_account", "in_doubt"),
    [
        ({"Sid": "A"}, ("A",), (), (), ()),
        ({}, ("number 2",), (), (), ()),
        ({"Sid": "A", "Effect": "Deny"}, (), ("A",), (), ()),
        ({"Sid": "A", "Condition": {"StringEquals": {"aws:SourceAccount": "999999999999"}}}, (), (), ("A",), ()),
        ({"Sid": "A", "Condition": {"ArnLike": {"aws:SourceArn": OTHER}}}, (), (), (), ()),
        (
            {"Sid": "A", "Effect": "Deny", "Condition": {"Bool": {"aws:SecureTransport": "false"}}},
            (), (), (), (),
        ),
        (
            {"Sid": "A", "Effect": "Deny", "Condition": {"StringNotEquals": {"aws:PrincipalOrgID": "o-1"}}},
            (), (), (), ("A",),
        ),
        (
            {"Sid": "A", "Effect": "Deny", "Condition": {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}},
            (), (), (), ("A",),
        ),
        ({"Sid": "A", "Effect": "Deny", "Condition": 7}, (), (), (), ("A",)),
        ({"Sid": "A", "Effect": "Deny", "Action": "sqs:Purge*", "Condition": 7}, (), (), (), ()),
    ],
)  # fmt: skip
def test_a_judgement_names_the_statements_that_count(
    changes: dict[str, Any], allowed: Any, denied: Any, other_account: Any, in_doubt: Any
) -> None:
    text = policy(statement(Resource="arn:aws:sqs:eu-west-1:111122223333:another"), statement(**changes))
    judged = judged_policy(text, QUEUE, TOPIC)
    assert judged == (allowed, denied, other_account, in_doubt, 2)
    assert allows(text, QUEUE, TOPIC) == (bool(allowed) and not denied)


def test_a_policy_that_cannot_be_read_is_not_judged() -> None:
    with pytest.raises(PolicyUnreadable):
        judged_policy('{"Statement": 7}', QUEUE, TOPIC)
