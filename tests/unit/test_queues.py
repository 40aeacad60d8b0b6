"""Queues: found or made with few calls, never changed, purged and deleted as AMQP users expect."""

import json
import logging
import threading

import pytest
from fakes import ACCOUNT, REGION, FakeClients, eventually, make_settings

from kombu_hake.exceptions import (
    AccessDenied,
    BrokerUnavailable,
    ConfigurationError,
    QueueDeletedRecently,
    QueueNotFound,
)
from kombu_hake.topology import queues as queues_module
from kombu_hake.topology.queues import Queues
from kombu_hake.topology.spec import QueueSpec, own_tags


@pytest.fixture
def queues(fake: FakeClients) -> Queues:
    return Queues(fake, make_settings())


def test_a_missing_queue_is_created_with_what_a_worker_needs(fake: FakeClients, queues: Queues) -> None:
    assert queues.declare(QueueSpec("q"))
    made = fake.queues.queue("q")
    assert made.attributes["VisibilityTimeout"] == "1800"
    assert made.attributes["ReceiveMessageWaitTimeSeconds"] == "20"
    assert made.attributes["MessageRetentionPeriod"] == "1209600"
    assert "FifoQueue" not in made.attributes
    assert queues.url("q") == made.url
    assert queues.arn(queues.url("q")) == made.arn


def test_a_queue_says_who_made_it_and_for_which_namespace(fake: FakeClients) -> None:
    Queues(fake, make_settings("hake://localhost:1/prod", queue_tags={"team": "shop"})).declare(QueueSpec("q"))
    tags = fake.queues.queue("prod__q").tags
    assert tags["hake:namespace"] == "prod"
    assert tags["hake:made-by"].startswith("kombu_hake ")
    assert tags["team"] == "shop"
    assert own_tags(make_settings())["hake:namespace"] == "-"


def test_a_fifo_queue_is_made_as_one(fake: FakeClients, queues: Queues) -> None:
    queues.declare(QueueSpec("orders.fifo"))
    assert fake.queues.queue("orders.fifo").attributes["FifoQueue"] == "true"


@pytest.mark.parametrize("spec", [QueueSpec("q"), QueueSpec("q", exclusive=True), QueueSpec("q", auto_delete=True)])
def test_no_message_is_lost_because_its_consumer_is_slow(fake: FakeClients, queues: Queues, spec: QueueSpec) -> None:
    # Or because it waits for its ETA, hidden: that counts as age.
    queues.declare(spec)
    # A temporary queue has one second less: the proof that it was created as temporary.
    expected_s = 14 * 24 * 3600 - (1 if spec.kind else 0)
    assert fake.queues.queue("q").attributes["MessageRetentionPeriod"] == str(expected_s)


def test_attributes_of_the_user_come_first(fake: FakeClients) -> None:
    Queues(fake, make_settings(queue_attributes={"VisibilityTimeout": 7})).declare(QueueSpec("q"))
    assert fake.queues.queue("q").attributes["VisibilityTimeout"] == "7"


def test_what_an_operator_tuned_stays_as_it_is(fake: FakeClients, queues: Queues) -> None:
    queues.declare(QueueSpec("q"))
    tuned = {"VisibilityTimeout": "999", "RedrivePolicy": "{}"}
    fake.queues.queue("q").attributes.update(tuned)
    before = dict(fake.queues.queue("q").attributes)
    for again in (queues, Queues(fake, make_settings(visibility_timeout=5, queue_attributes={"DelaySeconds": 3}))):
        assert not again.declare(QueueSpec("q"))
    assert fake.queues.queue("q").attributes == before


def test_declaring_an_existing_queue_is_one_call(fake: FakeClients, queues: Queues) -> None:
    queues.declare(QueueSpec("q"))
    fake.calls.clear()
    Queues(fake, make_settings()).declare(QueueSpec("q"))
    assert fake.counts() == {"get_queue_url": 1}


def test_the_url_is_asked_for_once(fake: FakeClients, queues: Queues) -> None:
    queues.declare(QueueSpec("q"))
    fake.calls.clear()
    other = Queues(fake, make_settings())
    assert {other.url("q") for _ in range(5)} == {fake.queues.queue("q").url}
    assert fake.counts() == {"get_queue_url": 1}


def test_threads_that_declare_the_same_queue_make_one_request(fake: FakeClients, queues: Queues) -> None:
    inside = threading.Event()
    others_wait = threading.Event()

    def first_call() -> None:
        inside.set()
        assert others_wait.wait(10.0)

    fake.before("get_queue_url", first_call)
    threads = [threading.Thread(target=queues.url, args=("q",)) for _ in range(8)]
    fake.sqs("create_queue", QueueName="q")
    for thread in threads:
        thread.start()
    assert inside.wait(10.0)
    eventually(lambda: len(queues._flights._flights["q"][1]) == 8)
    others_wait.set()
    for thread in threads:
        thread.join()
    assert fake.count("get_queue_url") == 1


def test_a_queue_that_another_process_makes_in_the_same_moment_is_taken(fake: FakeClients, queues: Queues) -> None:
    fake.before("create_queue", lambda: fake.queues.create_queue("q", {"VisibilityTimeout": "1"}) and None)
    queues.declare(QueueSpec("q"))
    assert queues.url("q") == fake.queues.queue("q").url
    assert fake.queues.queue("q").attributes["VisibilityTimeout"] == "1"


def test_a_queue_that_is_deleted_the_moment_it_was_made_does_not_fail_its_declare(
    fake: FakeClients, queues: Queues
) -> None:
    fake.fail("tag_queue", QueueNotFound("deleted by somebody"))
    assert queues.declare(QueueSpec("q"))


def test_without_the_right_to_tag_a_queue_is_made_untagged(fake: FakeClients, queues: Queues) -> None:
    fake.deny("sqs:TagQueue")
    queues.declare(QueueSpec("q"))
    assert fake.queues.queue("q").tags == {}


def test_without_the_right_to_create_an_existing_queue_is_fine_and_a_missing_one_is_not(
    fake: FakeClients, queues: Queues
) -> None:
    fake.sqs("create_queue", QueueName="there")
    fake.deny("sqs:CreateQueue")
    queues.declare(QueueSpec("there"))
    with pytest.raises(AccessDenied) as caught:
        queues.declare(QueueSpec("missing"))
    assert caught.value.action == "sqs:CreateQueue"


def test_a_name_that_was_deleted_a_moment_ago_is_waited_for(
    fake: FakeClients, queues: Queues, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(queues_module.time, "sleep", fake.clock.advance)
    monkeypatch.setattr(queues_module.time, "monotonic", fake.clock)
    queues.declare(QueueSpec("q"))
    queues.delete("q")
    queues.declare(QueueSpec("q"))
    assert "q" in fake.queues.by_name
    assert caplog.text.count("Cannot create queue") == 1


def test_a_name_that_stays_refused_is_an_error_after_a_minute(
    fake: FakeClients, queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues_module.time, "sleep", fake.clock.advance)
    monkeypatch.setattr(queues_module.time, "monotonic", fake.clock)
    fake.fail("create_queue", *[QueueDeletedRecently("x")] * 999)
    start = fake.clock()
    with pytest.raises(QueueDeletedRecently):
        queues.declare(QueueSpec("q"))
    assert 60 <= fake.clock() - start <= 90


@pytest.mark.parametrize("patience_s", [0, 60])
def test_a_throttled_create_is_tried_again_and_a_dead_network_is_not(
    fake: FakeClients, queues: Queues, monkeypatch: pytest.MonkeyPatch, patience_s: float
) -> None:
    monkeypatch.setattr(queues_module.time, "sleep", fake.clock.advance)
    fake.fail("create_queue", *[BrokerUnavailable("x", is_throttle=True)] * 3)
    queues.declare(QueueSpec("q"), patience_s=patience_s)
    fake.fail("create_queue", BrokerUnavailable("x"))
    with pytest.raises(BrokerUnavailable):
        queues.declare(QueueSpec("other"))


def test_queue_is_created_without_what_aws_does_not_take_at_creation(fake: FakeClients, queues: Queues) -> None:
    target = f"arn:aws:sqs:{REGION}:{ACCOUNT}:not-there-yet"
    policy = json.dumps({"deadLetterTargetArn": target, "maxReceiveCount": 3})
    queues.create(QueueSpec("q"), attributes={"RedrivePolicy": policy})
    assert "RedrivePolicy" not in fake.queues.queue("q").attributes
    assert queues.created_with("q", "RedrivePolicy") is None
    assert not queues.has_redrive_policy(queues.url("q"))


def test_a_missing_queue_says_where_it_was_looked_for(queues: Queues) -> None:
    with pytest.raises(QueueNotFound, match=r"no queue 'été' \(in SQS 't_x"):
        queues.url("été")


def test_counts_are_ready_in_flight_and_delayed(fake: FakeClients, queues: Queues) -> None:
    queues.declare(QueueSpec("q"))
    url = queues.url("q")
    for delay in (0, 0, 0, 60):
        fake.sqs("send_message", QueueUrl=url, MessageBody="x", DelaySeconds=delay)
    fake.sqs("receive_message", QueueUrl=url)
    assert queues.counts("q") == (2, 1, 1)


def test_a_purge_says_how_many_there_were_and_a_second_one_drains(fake: FakeClients, queues: Queues) -> None:
    queues.declare(QueueSpec("q"))
    url = queues.url("q")
    for count in (3, 25):
        for _ in range(count):
            fake.sqs("send_message", QueueUrl=url, MessageBody="x")
        assert queues.purge("q") == count
        assert not fake.queues.queue("q").messages
    assert fake.count("purge_queue") == 2


def test_deleting_a_queue_that_is_gone_is_fine(fake: FakeClients, queues: Queues) -> None:
    queues.declare(QueueSpec("q"))
    fake.sqs("delete_queue", QueueUrl=queues.url("q"))
    queues.delete("q")
    queues.delete("never")
    with pytest.raises(QueueNotFound):
        queues.url("q")


def test_priority_levels_are_queues_of_their_own_behind_one_name(fake: FakeClients, queues: Queues) -> None:
    spec = QueueSpec("q", arguments={"x-max-priority": 9})
    for name in ["q", *[name for name in _levels_of(queues, spec) if name != "q"]]:
        queues.declare(spec if name == "q" else QueueSpec(name))
        fake.sqs("send_message", QueueUrl=queues.url(name), MessageBody="x")
    assert len(fake.queues.by_name) == len(queues.levels("q")) == 4
    assert queues.counts("q") == (4, 0, 0)
    assert queues.purge("q") == 4


def _levels_of(queues: Queues, spec: QueueSpec) -> list[str]:
    queues.declare(spec)
    return queues.levels(spec.name)


@pytest.mark.parametrize(("option", "attribute"), [(1, "1800"), (120, "1800"), (1800, "1800"), (7200, "7200")])
def test_sqs_workers_may_share_a_queue_that_was_made_here(fake: FakeClients, option: int, attribute: str) -> None:
    # They name no visibility timeout when they receive, and a task may take as long as that of the queue.
    Queues(fake, make_settings(visibility_timeout=option)).declare(QueueSpec("q"))
    assert fake.queues.queue("q").attributes["VisibilityTimeout"] == attribute


def test_no_receive_relies_on_the_visibility_timeout_of_the_queue(fake: FakeClients) -> None:
    queues = Queues(fake, make_settings(topology="assume", account_id=ACCOUNT, visibility_timeout=77))
    fake.queues.create_queue("q", {})
    fake.sqs("send_message", QueueUrl=fake.queues.queue("q").url, MessageBody="a")
    assert queues.purge("q") == 1
    received = [params for operation, params in fake.calls if operation == "receive_message"]
    assert {params["VisibilityTimeout"] for params in received} == {77}


# --- predefined


def test_a_predefined_queue_is_never_made_and_needs_no_call(fake: FakeClients) -> None:
    url = f"https://sqs.eu-west-1.amazonaws.com/{ACCOUNT}/theirs"
    queues = Queues(fake, make_settings("hake://", predefined_queues={"q": url}))
    queues.declare(QueueSpec("q"))
    assert queues.url("q") == url
    queues.forget("q")
    assert queues.url("q") == url
    assert not fake.calls


def test_a_predefined_queue_of_another_region_is_a_fault(fake: FakeClients) -> None:
    queues = Queues(
        fake, make_settings("hake://", predefined_queues={"q": f"https://sqs.us-east-1.amazonaws.com/{ACCOUNT}/q"})
    )
    with pytest.raises(ConfigurationError, match="us-east-1"):
        queues.url("q")


def test_urls_of_ever_new_reply_queues_are_not_all_kept(
    fake: FakeClients, queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues_module, "_MAX_FOREIGN_URLS", 5)
    queues.declare(QueueSpec("mine"))
    for number in range(20):
        fake.sqs("create_queue", QueueName=f"reply-{number}")
        queues.url(f"reply-{number}")
    assert len(queues._urls) <= 6
    fake.calls.clear()
    queues.url("mine")
    assert not fake.calls


def test_creation_is_logged(queues: Queues, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    queues.declare(QueueSpec("a.b"))
    assert "Created queue a.b (a_b_x" in caplog.text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("q", {"KmsMasterKeyId": "alias/tasks", "MessageRetentionPeriod": "1209600"}),
        ("mail-out", {"KmsMasterKeyId": "alias/mail", "MessageRetentionPeriod": "86400", "DelaySeconds": "1"}),
        ("orders.fifo", {"KmsMasterKeyId": "alias/tasks", "ContentBasedDeduplication": "true", "FifoQueue": "true"}),
    ],
)
def test_attributes_may_be_given_for_some_queues(fake: FakeClients, name: str, expected: dict[str, str]) -> None:
    given = {
        "KmsMasterKeyId": "alias/tasks",
        "FifoThroughputLimit": "perQueue",
        "mail-*": {"MessageRetentionPeriod": 86400, "DelaySeconds": 1},
        "*-out": {"KmsMasterKeyId": "alias/mail", "ContentBasedDeduplication": True},
        "*.fifo": {"ContentBasedDeduplication": True},
    }
    Queues(fake, make_settings(queue_attributes=given)).declare(QueueSpec(name))
    found = fake.queues.queue(name).attributes
    assert expected.items() <= found.items()
    is_fifo = name.endswith(".fifo")
    assert ("ContentBasedDeduplication" in found) == ("FifoThroughputLimit" in found) == is_fifo


def test_queue_that_stays_never_has_the_retention_of_a_temporary_one(fake: FakeClients) -> None:
    queues = Queues(fake, make_settings(queue_attributes={"*": {"MessageRetentionPeriod": "1209599"}}))
    queues.declare(QueueSpec("q"))
    queues.declare(QueueSpec("gone", auto_delete=True))
    found = [fake.queues.queue(name).attributes["MessageRetentionPeriod"] for name in ("q", "gone")]
    assert found == ["1209600", "1209599"]
