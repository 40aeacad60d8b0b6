"""Exports without AWS: names, escapes, limits, IAM policies, and that cfn-lint finds nothing."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from celery import Celery
from celery.bin.base import CLIContext
from cfnlint.api import ManualArgs, lint
from click.testing import CliRunner, Result
from fakes import FakeClients, connected
from hypothesis import given
from hypothesis import strategies as st
from kombu import Exchange, Queue
from support.everything import define

from kombu_hake import Topic, admin
from kombu_hake.admin.declared import declared
from kombu_hake.admin.export.alarms import alarms
from kombu_hake.admin.export.cloudformation import MAX_RESOURCES, cloudformation
from kombu_hake.admin.export.existing import Existing, Found, completed
from kombu_hake.admin.export.names import logical_id, terraform_name, terraform_pair
from kombu_hake.admin.export.rights import GRANTS, POLICY_MAX_CHARS, ROLES, Resources, key_statement, policies
from kombu_hake.admin.export.terraform import terraform
from kombu_hake.amqp import lifecycle_rules, parse_store
from kombu_hake.amqp.naming import parse_arn
from kombu_hake.cli.main import hake
from kombu_hake.exceptions import ConfigurationError
from kombu_hake.topology import Blueprint

URL = "hake:///shop?region=eu-west-1&account_id=123456789012"
SQS, SNS = "arn:aws:sqs:eu-west-1:123456789012:", "arn:aws:sns:eu-west-1:123456789012:"
PHYSICAL = st.from_regex(r"[A-Za-z0-9_-]{1,12}(\.fifo)?", fullmatch=True)


def make_app(url: str = URL, **conf: Any) -> Celery:
    app = Celery("shop", broker=url, set_as_current=False)
    app.conf.update(conf)
    return define(app)


def planned(app: Celery) -> Blueprint:
    with admin.connect(app, offline=True) as broker:
        return declared(app).blueprint(broker._clients.settings, broker._topology.home)


# --- names


@given(PHYSICAL, PHYSICAL)
def test_names_in_terraform_are_legal_and_differ(one: str, other: str) -> None:
    assert re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*", terraform_name(one))
    assert (terraform_name(one) == terraform_name(other)) == (one == other)


@given(st.tuples(PHYSICAL, PHYSICAL), st.tuples(PHYSICAL, PHYSICAL))
def test_names_of_pairs_differ(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*", terraform_pair(*one))
    assert (terraform_pair(*one) == terraform_pair(*other)) == (one == other)
    assert (logical_id("Subscription", *one) == logical_id("Subscription", *other)) == (one == other)


@given(st.text(max_size=300))
def test_logical_ids_are_letters_and_digits(name: str) -> None:
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9]{0,254}", logical_id("Queue", name))


def test_names_are_read_easily() -> None:
    assert terraform_name("live__email") == "live__email"
    assert terraform_name("jobs.fifo") == "_fifo_jobs"
    assert terraform_name("1st") == "_1st"
    assert logical_id("Queue", "live__email-dead").startswith("QueueLiveEmailDead")


# --- Terraform


def test_nothing_that_others_wrote_is_evaluated() -> None:
    evil = '${file("/etc/passwd")} %{if true}x%{endif} $${a}'
    found = planned(make_app())
    queue = found.queue("email")
    shown = {
        "Policy": json.dumps({"Statement": [{"Sid": evil}]}),
        "RedrivePolicy": f'{{"deadLetterTargetArn": "{{{evil}"',
    }
    existing = Existing({queue.arn: Found("https://sqs/q", shown, {evil: evil, "aws:cloudformation:stack-id": "x"})})
    document = terraform(completed(found, existing), existing)
    written = document["resource"]["aws_sqs_queue"]["shop__email"]
    assert evil not in json.dumps(document)
    assert written["tags"]['$${file("/etc/passwd")} %%{if true}x%%{endif} $$${a}'].startswith("$${file")
    assert "aws:cloudformation:stack-id" not in written["tags"]
    texts = [value for value in _texts(document) if not re.fullmatch(r"\$\{aws_sqs_queue\.[\w-]+\.url\}", value)]
    assert not [text for text in texts if re.search(r"(?<!\$)\$\{|(?<!%)%\{", text)]


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for pair in value.items() for each in pair for text in _texts(each)]
    return [text for each in value for text in _texts(each)] if isinstance(value, list) else []


def test_what_is_created_elsewhere_is_not_exported() -> None:
    options = {"predefined_queues": {"email": f"{SQS}theirs"}, "predefined_exchanges": {"work": f"{SNS}work"}}
    document = terraform(planned(make_app(broker_transport_options=options)), Existing())
    assert not [name for name in document["resource"]["aws_sqs_queue"] if name in ("theirs", "shop__email")]
    assert "work" not in document["resource"]["aws_sns_topic"]
    endpoints = {one["endpoint"] for one in document["resource"]["aws_sns_topic_subscription"].values()}
    assert f"{SQS}theirs" in endpoints  # binding it to a topic of ours is ours


def test_a_key_of_ones_own_and_the_one_of_sqs_are_not_both_asked_for() -> None:
    options = {"queue_attributes": {"KmsMasterKeyId": "alias/shop", "SqsManagedSseEnabled": "true"}}
    document = terraform(planned(make_app(broker_transport_options=options)), Existing())
    for queue in document["resource"]["aws_sqs_queue"].values():
        assert queue["kms_master_key_id"] == "alias/shop"
        assert "sqs_managed_sse_enabled" not in queue


def test_a_raised_topic_is_raised_by_a_stack_and_needs_apply_after_terraform() -> None:
    found = planned(make_app())
    large = tuple(
        replace(topic, attributes={**topic.attributes, "MaximumMessageSize": "1048576"}) for topic in found.topics
    )
    raised = replace(found, topics=large)
    topic = terraform(raised, Existing())["resource"]["aws_sns_topic"]["shop__orders"]
    assert topic["//"] == "The AWS provider cannot set MaximumMessageSize to 1048576; hake apply can."
    assert findings(cloudformation(raised)) == []
    assert "//" not in terraform(found, Existing())["resource"]["aws_sns_topic"]["shop__orders"]


# --- CloudFormation


def findings(template: Mapping[str, Any]) -> list[str]:
    return [str(one) for one in lint(json.dumps(template), config=ManualArgs(regions=["eu-west-1"]))]


def test_cfn_lint_finds_nothing() -> None:
    found = planned(make_app(broker_transport_options={"queue_attributes": {"KmsMasterKeyId": "alias/shop"}}))
    assert findings(cloudformation(found)) == []
    assert findings(alarms(found)) == []


def test_cfn_lint_finds_what_is_wrong() -> None:
    assert findings(json.loads(json.dumps(cloudformation(planned(make_app()))).replace("QueueName", "Name")))


def test_a_template_that_is_too_large_is_an_error_that_names_the_remedy() -> None:
    found = planned(make_app())
    queue = found.queue("bare")
    many = tuple(replace(queue, arn=f"{SQS}q{n}", physical=f"q{n}") for n in range(MAX_RESOURCES + 1))
    with pytest.raises(ConfigurationError, match=r"501 resources.*export terraform"):
        cloudformation(replace(found, queues=many, topics=(), subscriptions=()))
    heavy = replace(queue, tags={"big": "x" * 1_000_000})
    with pytest.raises(ConfigurationError, match="export terraform"):
        cloudformation(replace(found, queues=(heavy,), topics=(), subscriptions=()))


def test_a_document_that_is_none_is_named() -> None:
    found = planned(make_app())
    odd = replace(found.queue("email"), redrive="[1]")
    with pytest.raises(ConfigurationError, match="RedrivePolicy of queue 'shop__email' is not a JSON object"):
        cloudformation(replace(found, queues=(odd,), topics=(), subscriptions=()))


@pytest.mark.parametrize("target", [["x"], {"Ref": "x"}, 5, "x", None, f"{SQS}shop__elsewhere"])
def test_a_dead_letter_queue_that_is_none_is_left_to_the_tools(target: object) -> None:
    found = planned(make_app())
    odd = replace(found.queue("email"), redrive=json.dumps({"deadLetterTargetArn": target}))
    odd_plan = replace(found, queues=(odd,), topics=(), subscriptions=())
    [queue] = [one for one in cloudformation(odd_plan)["Resources"].values() if one["Type"] == "AWS::SQS::Queue"]
    assert "DependsOn" not in queue
    assert queue["Properties"]["RedrivePolicy"] == {"deadLetterTargetArn": target}
    assert "depends_on" not in terraform(odd_plan, Existing())["resource"]["aws_sqs_queue"]["shop__email"]


def test_numbers_that_are_none_are_left_to_the_tools() -> None:
    found = planned(make_app())
    odd = [replace(queue, attributes={**queue.attributes, "VisibilityTimeout": "soon"}) for queue in found.queues]
    found = replace(found, queues=tuple(odd))
    assert (
        terraform(found, Existing())["resource"]["aws_sqs_queue"]["shop__email"]["visibility_timeout_seconds"] == "soon"
    )
    assert '"VisibilityTimeout": "soon"' in json.dumps(cloudformation(found))


def test_each_queue_and_topic_has_its_alarms() -> None:
    found = alarms(planned(make_app()))
    names = {one["Properties"]["AlarmName"] for one in found["Resources"].values()}
    assert len(names) == len(found["Resources"])
    assert {name.removeprefix("shop__email-") for name in names if name.startswith("shop__email-")} == {
        "ready", "age", "in-flight", "dead-dead-letters", "undelivered-undelivered"
    }  # fmt: skip
    assert {name for name in names if name.startswith("shop__orders-")} == {
        "shop__orders-failed", "shop__orders-redriven", "shop__orders-lost"
    }  # fmt: skip


# --- IAM


def statements(role: str, resources: Resources) -> list[dict[str, Any]]:
    return [one for document in policies(role, resources) for one in document["Statement"]]  # type: ignore[arg-type]


def test_a_policy_that_would_be_too_long_is_split() -> None:
    queues = tuple(f"{SQS}shop__queue-with-a-long-name-{number:03}" for number in range(300))
    documents = policies("consumer", Resources(queues=queues, dead_queues=("d",)))
    assert len(documents) > 2
    for document in documents:
        assert len(json.dumps(document, separators=(",", ":"))) <= POLICY_MAX_CHARS
    allowed: dict[str, set[str]] = {}
    for statement in (one for document in documents for one in document["Statement"]):
        listed = statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
        for arn in listed:
            allowed.setdefault(arn, set()).update(statement["Action"])
    assert set(allowed) == {*queues, "d"}
    assert all(allowed[queue] == allowed[queues[0]] for queue in queues)


def test_a_role_without_resources_has_no_policy() -> None:
    assert [policies(role, Resources()) for role in ROLES] == [[]] * len(ROLES)


def test_every_role_has_grants_for_known_kinds_of_resources() -> None:
    kinds = set(Resources.__dataclass_fields__)
    assert {kind for grant in GRANTS for kind in grant.kinds} == kinds
    assert {role for grant in GRANTS for role in grant.roles} == set(ROLES)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("alias/aws/sqs", None),
        ("arn:aws:kms:eu-west-1:1:alias/aws/sqs", None),
        ("arn:aws:kms:eu-west-1:1:key/k", {"Resource": "arn:aws:kms:eu-west-1:1:key/k"}),
        (
            "1234abcd-12ab-34cd-56ef-1234567890ab",
            {"Resource": "arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"},
        ),
        (
            "alias/shop",
            {
                "Resource": "arn:aws:kms:eu-west-1:123456789012:key/*",
                "Condition": {"ForAnyValue:StringEquals": {"kms:ResourceAliases": "alias/shop"}},
            },
        ),
    ],
)  # fmt: skip
def test_keys(key: str, expected: dict[str, Any] | None) -> None:
    assert key_statement(key, parse_arn(f"{SQS}q")) == expected


def test_the_keys_of_queues_are_allowed_to_those_who_send_and_receive() -> None:
    options = {"queue_attributes": {"KmsMasterKeyId": "alias/shop", "jobs*": {"KmsMasterKeyId": "alias/aws/sqs"}}}
    app = make_app(broker_transport_options=options)
    with admin.connect(app, offline=True) as broker:
        for role, expected in (("producer", 1), ("consumer", 1), ("declarer", 0), ("operator", 1)):
            [document] = broker.export_iam(role)  # type: ignore[arg-type]
            found = [one for one in document["Statement"] if "kms:Decrypt" in one["Action"]]
            assert len(found) == expected


def test_only_topics_for_large_messages_may_be_raised() -> None:
    app = Celery("shop", broker=URL, set_as_current=False)
    Topic("large", app=app, max_size=1_048_576).on("a", group="g", name="a")(print)
    Topic("small", app=app).on("b", group="g", name="b")(print)
    with admin.connect(app, offline=True) as broker:
        [document] = broker.export_iam("declarer")
    [allowed] = [one["Resource"] for one in document["Statement"] if "sns:SetTopicAttributes" in one["Action"]]
    assert allowed == f"{SNS}shop__large"


def test_a_producer_may_publish_to_topics_without_handlers() -> None:
    app = Celery("shop", broker=URL, set_as_current=False)
    topics = [Topic("large", app=app, max_size=1_048_576, large_messages="s3://shop-films"), Topic("small", app=app)]
    with admin.connect(app, offline=True) as broker:
        [producer], [declarer] = broker.export_iam("producer"), broker.export_iam("declarer")
        exported = broker.export_cloudformation()["Resources"]
    arns = [f"{SNS}shop__{topic.name}" for topic in topics]
    allowed = {action: one["Resource"] for one in producer["Statement"] for action in _list(one["Action"])}
    assert allowed["sns:Publish"] == arns
    assert allowed["s3:PutObject"] == "arn:aws:s3:::shop-films/*"
    raised = {action: one["Resource"] for one in declarer["Statement"] for action in _list(one["Action"])}
    assert raised["sns:CreateTopic"] == arns
    assert raised["sns:SetTopicAttributes"] == arns[0]
    # The app whose queues are bound to them exports the topics.
    assert "AWS::SNS::Topic" not in {resource["Type"] for resource in exported.values()}


def _list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def test_queues_that_others_create_are_consumed_too() -> None:
    app = Celery("shop", broker=URL, set_as_current=False)
    app.conf.task_queues = [Queue("theirs", no_declare=True), Queue(f"bcast.{UUID(int=1)}", auto_delete=True)]
    app.conf.worker_enable_remote_control = False
    with admin.connect(app, offline=True) as broker:
        [document] = broker.export_iam("consumer")
    assert [one["Resource"] for one in document["Statement"]] == [f"{SQS}shop__theirs"]


def test_temporary_queues_are_allowed_by_patterns_only_where_they_are_used() -> None:
    def resources(**conf: Any) -> str:
        with admin.connect(make_app(**conf), offline=True) as broker:
            return json.dumps([broker.export_iam(role) for role in ROLES])

    assert "?" in resources()
    assert "?" not in resources(worker_enable_remote_control=False)
    assert "?" not in resources(broker_transport_options={"topology": "assume"})
    assert "?" in resources(worker_enable_remote_control=False, result_backend="rpc://")


# --- commands


def run(app: Celery, *arguments: str) -> Result:
    context = CLIContext(app, no_color=True, workdir=None)
    return CliRunner().invoke(hake, ["export", *arguments], obj=context)


def test_terraform_goes_to_standard_output_and_notes_to_standard_error() -> None:
    done = run(make_app(), "terraform", "--no-import")
    assert done.exit_code == 0, done.output
    assert "shop__email" in json.loads(done.stdout)["resource"]["aws_sqs_queue"]
    assert re.fullmatch(r"\d+ resources.\n", done.stderr)


@pytest.mark.parametrize("command", ["cloudformation", "alarms"])
def test_templates_are_written_to_a_file(command: str, tmp_path: Path) -> None:
    done = run(make_app(), command, "-o", str(tmp_path / "template.json"))
    assert (done.exit_code, done.stdout) == (0, "")
    assert json.loads((tmp_path / "template.json").read_text())["Resources"]


def test_iam_prints_all_roles_or_one_policy() -> None:
    assert set(json.loads(run(make_app(), "iam").stdout)) == set(ROLES)
    assert json.loads(run(make_app(), "iam", "--role", "producer").stdout)["Version"] == "2012-10-17"


def test_iam_says_when_a_role_takes_several_policies() -> None:
    app = Celery("shop", broker=URL, set_as_current=False)
    app.conf.task_queues = [Queue(f"q{number:02}-{'x' * 60}", Exchange("e", "topic"), "k") for number in range(70)]
    done = run(app, "iam", "--role", "producer")
    assert isinstance(json.loads(done.stdout), list)
    assert re.search(r"The rights of a producer take \d managed policies: attach all of them.", done.stderr)


def test_a_template_that_has_to_be_uploaded_is_announced() -> None:
    app = Celery("shop", broker=URL, set_as_current=False)
    app.conf.task_queues = [Queue(f"q{number}", Exchange("e", "topic"), "k") for number in range(60)]
    assert "has to be uploaded to S3 first" in run(app, "cloudformation").stderr


def test_without_an_account_it_says_what_to_set() -> None:
    done = run(
        make_app("hake://localhost:1/shop?region=eu-west-1&connect_timeout=0.1&max_attempts=1"), "cloudformation"
    )
    assert done.exit_code == 1
    assert "account_id" in done.stderr


# --- large messages


def large_app() -> Celery:
    app = Celery("shop", broker=URL, set_as_current=False)
    app.conf.broker_transport_options = {"large_messages": "s3://shop.payloads/live"}

    @Topic("films", app=app, large_messages="s3://shop-films").on("#", group="archive")
    def keep(**film: Any) -> None:
        """A handler."""

    return app


def test_terraform_has_the_lifecycle_rules_of_the_buckets_of_large_messages() -> None:
    with admin.connect(large_app(), offline=True) as broker:
        document = broker.export_terraform(imports=False)
    found = document["resource"]["aws_s3_bucket_lifecycle_configuration"]
    assert {resource["bucket"] for resource in found.values()} == {"shop.payloads", "shop-films"}
    prefixes = [rule["filter"]["prefix"] for resource in found.values() for rule in resource["rule"]]
    assert prefixes == ["live/q/", "live/t/", "q/", "t/"]
    assert all(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*", name) for name in found)
    with admin.connect(make_app(), offline=True) as broker:
        assert "aws_s3_bucket_lifecycle_configuration" not in broker.export_terraform(imports=False)["resource"]


def test_the_rules_are_those_of_the_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "large-messages.md").read_text()
    [written] = [block for block in re.findall(r"```json\n(.*?)```", page, re.DOTALL) if '"Rules"' in block]
    assert json.loads(written) == {"Rules": lifecycle_rules(parse_store("s3://shop-payloads/prod"))}


def test_policies_cover_the_objects_of_large_messages() -> None:
    with admin.connect(large_app(), offline=True) as broker:
        consumer, producer = (broker.export_iam(role) for role in ("consumer", "producer"))
    objects = ["arn:aws:s3:::shop.payloads/live/*", "arn:aws:s3:::shop-films/*"]
    of_consumer = {tuple(s["Action"]): s["Resource"] for p in consumer for s in p["Statement"] if "s3:" in str(s)}
    put = ("s3:PutObject", "s3:AbortMultipartUpload")
    assert of_consumer[(*put, "s3:GetObject", "s3:DeleteObject")] == objects
    of_producer = {tuple(s["Action"]): s["Resource"] for p in producer for s in p["Statement"] if "s3:" in str(s)}
    assert of_producer == {put: objects}
    with admin.connect(large_app(), offline=True) as broker:
        [operator] = broker.export_iam("operator")
    of_operator = {str(s["Action"]): s["Resource"] for s in operator["Statement"] if "s3:" in str(s)}
    buckets = ["arn:aws:s3:::shop.payloads", "arn:aws:s3:::shop-films"]
    looked = ["s3:ListBucket", "s3:GetLifecycleConfiguration"]
    assert of_operator == {str(looked): buckets, "s3:DeleteObject": objects}


def test_an_import_reads_each_thing_once() -> None:
    fake = FakeClients()
    app = Celery("shop", broker="hake://localhost:1/ns?region=eu-west-1", set_as_current=False)
    app.conf.task_queues = [Queue(name, Exchange("news", "fanout")) for name in ("one", "two")]
    with connected(fake), admin.connect(app) as broker:
        broker.apply()
        fake.calls.clear()
        assert len(broker.export_terraform()["import"]) == 7
    reads = [json.dumps(call) for call in fake.calls]
    assert len(reads) == len(set(reads))
