"""Logical to physical names: legal, one-to-one, and unchanged where that is possible."""

import re
import string
from fnmatch import fnmatchcase
from itertools import product
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kombu.pidbox import Mailbox
from kombu.transport.SQS import Channel as SqsChannel

from kombu_hake.amqp.naming import (
    Arn,
    Namer,
    has_uuid,
    is_command_queue,
    is_event_queue,
    is_mailbox,
    is_reply_exchange,
    is_reply_queue,
    parse_arn,
    queue_account,
    queue_name,
    reply_queue,
    valid_namespace,
)
from kombu_hake.amqp.priorities import level_name
from kombu_hake.exceptions import InvalidName

QUEUE_MAX, TOPIC_MAX = 80, 256
NAMESPACES = ("", "a", "ab", "a_b", "prod", "x" * 32)
ODD_NAMES = (
    "celery@host.celery.pidbox",
    "a.b",
    "a-b",
    "a_b",
    "a__b",
    "_a",
    "a_",
    "__",
    "été",
    "ete",
    "t",
    "n" * 300,
    "n" * 301,
    "orders.fifo",
    "orders",
    "a.b.fifo",
    ".fifo",
    "a.fifo.fifo",
    "x" * 76 + ".fifo",
    "reply.celery.pidbox",
    "celeryev.5bd2f5a0-8a7e-4bd2-9b3f-f0f1e6ee9d2b",
    "amq.gen-x",
    "Ä\N{COMBINING DIAERESIS}",
    "\ud800",
    " ",
    "\n",
)


def two_hundred_names() -> list[str]:
    words = ["orders", "a", "été", "celery@host", "A"]
    joined = [
        sep.join(pair)
        for sep in (".", "-", "_", "__", "/", " ", ":", "\N{MIDDLE DOT}")
        for pair in product(words, repeat=2)
    ]
    return list(dict.fromkeys([*ODD_NAMES, *joined]))[:200]


def is_legal(name: str, most: int) -> bool:
    return re.fullmatch(r"[A-Za-z0-9_-]+", name.removesuffix(".fifo")) is not None and len(name) <= most


#: Mostly names that try to collide: of few characters, and of pieces that the mapping itself writes.
pieces = st.sampled_from(["a", "b", "_", "__", "-", ".", "_x", "0123456789abcdefghij", "é", ".fifo", "ab", "prod"])
names = st.one_of(
    st.lists(pieces, min_size=1, max_size=8).map("".join),
    st.text(min_size=1, max_size=300),
    st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=90),
    st.sampled_from(ODD_NAMES),
)
namespaces = st.one_of(
    st.sampled_from(NAMESPACES), st.lists(pieces, max_size=4).map("".join).filter(valid_namespace), st.just("")
)


def test_two_hundred_names_map_to_two_hundred_legal_names() -> None:
    given_names = two_hundred_names()
    assert len(given_names) == 200
    for namespace in NAMESPACES:
        namer = Namer(namespace)
        assert len({namer.queue(name) for name in given_names}) == 200
        assert len({namer.topic(name) for name in given_names}) == 200


@given(names, namespaces)
def test_every_name_maps_to_a_legal_one(name: str, namespace: str) -> None:
    namer = Namer(namespace)
    assert is_legal(namer.queue(name), QUEUE_MAX)
    assert is_legal(namer.topic(name), TOPIC_MAX)
    assert namer.queue(name).endswith(".fifo") == name.endswith(".fifo") == namer.topic(name).endswith(".fifo")


@pytest.mark.parametrize("namespace", NAMESPACES)
@pytest.mark.parametrize("suffix", ["", ".fifo"])
def test_names_about_as_long_as_there_is_room_stay_legal_and_different(namespace: str, suffix: str) -> None:
    made = Namer(namespace)
    given_names = ["n" * length + suffix for length in range(30, 300)]
    for physical, most in ((made.queue, QUEUE_MAX), (made.topic, TOPIC_MAX)):
        assert all(is_legal(physical(name), most) for name in given_names)
        assert len({physical(name) for name in given_names}) == len(given_names)


@given(names, names, namespaces, namespaces)
@example("b", "a__b", "a", "")
@example("_b", "b", "a", "a_")
def test_no_two_names_share_a_physical_name(one: str, other: str, space: str, other_space: str) -> None:
    if not valid_namespace(other_space):
        return
    is_same = (one, space) == (other, other_space)
    assert (Namer(space).queue(one) == Namer(other_space).queue(other)) == is_same
    assert (Namer(space).topic(one) == Namer(other_space).topic(other)) == is_same


@given(names, namespaces)
def test_a_physical_name_taken_as_a_logical_one_is_another_queue(name: str, namespace: str) -> None:
    physical = Namer(namespace).queue(name)
    assert physical == name or Namer().queue(physical) != physical


@pytest.mark.parametrize("name", ["celery", "orders-email", "orders_email", "A", "0", "-", "orders.fifo", "q" * 80])
def test_ordinary_names_stay_as_they_are(name: str) -> None:
    assert Namer().queue(name) == name
    assert Namer().topic(name) == name


def test_odd_names_keep_a_readable_head() -> None:
    assert re.fullmatch(r"celery_host_celery_pidbox_x[0-9a-v]{20}", Namer().queue("celery@host.celery.pidbox"))
    assert Namer().queue("n" * 300).startswith("n" * 58 + "_x")
    assert re.fullmatch(r"_x[0-9a-v]{20}", Namer().queue("..."))


def test_the_mapping_never_changes() -> None:
    # Queues that hold messages are found by these names: another hash would strand them.
    assert Namer().queue("a.b") == "a_b_xk9i5clbvfsacs23oafp7"
    assert Namer("prod").topic("a.b") == "prod__" + Namer().topic("a.b")


def test_namespace_and_prefix_come_first() -> None:
    assert Namer("prod").queue("celery") == "prod__celery"
    assert Namer("prod", prefix="shop-").queue("celery") == "prod__shop-celery"
    assert Namer("prod").topic_pattern() == "prod__*"
    assert Namer().topic_pattern() == "*"


@pytest.mark.parametrize("namespace", ["a__b", "_a", "a_", "a.b", "a/b", "é", "n" * 33, " ", "a\n"])
def test_a_namespace_that_could_be_mistaken_is_refused(namespace: str) -> None:
    assert not valid_namespace(namespace)


@pytest.mark.parametrize("name", ["", None])
def test_an_empty_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidName, match="cannot be empty"):
        Namer().queue(name)


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=60))
@example("orders.email")
@example("a@b!c.fifo")
def test_kombu_style_gives_the_names_of_kombus_sqs_transport(name: str) -> None:
    theirs = SqsChannel.entity_name(None, "shop-" + name)
    try:
        ours = Namer(prefix="shop-", style="kombu").queue(name)
    except InvalidName:
        assert not is_legal(theirs, QUEUE_MAX)
    else:
        assert ours == theirs


def test_a_kombu_style_name_that_aws_refuses_says_what_to_do() -> None:
    with pytest.raises(InvalidName, match="name_style=hake"):
        Namer(style="kombu").queue("n" * 81)


def test_arns_are_taken_apart_and_put_together() -> None:
    text = "arn:aws-cn:sns:cn-north-1:111122223333:orders"
    assert parse_arn(text) == Arn("aws-cn", "sns", "cn-north-1", "111122223333", "orders")
    assert str(parse_arn(text)) == text


@pytest.mark.parametrize(
    "text", ["", "arn", "arn:aws:sns:eu-west-1:111122223333", "arn:aws:sns:eu-west-1:111122223333:", "x:aws:sns:r:a:n"]
)
def test_what_is_no_arn_is_refused(text: str) -> None:
    with pytest.raises(InvalidName, match="is not an ARN"):
        parse_arn(text)


@pytest.mark.parametrize(
    ("url", "account"),
    [
        ("https://sqs.eu-west-1.amazonaws.com/111122223333/q", "111122223333"),
        ("http://127.0.0.1:4566/111122223333/q/", "111122223333"),
        ("http://127.0.0.1:4566/queue/q", ""),
        ("q", ""),
        ("", ""),
    ],
)
def test_the_account_is_read_from_a_queue_url_where_it_has_one(url: str, account: str) -> None:
    assert queue_account(url) == account


def test_a_priority_level_has_a_name_in_kombu_style_too() -> None:
    ours, theirs = Namer("shop", "pre-"), Namer("shop", "pre-", "kombu")
    assert theirs.queue(level_name("jobs", 1)) == ours.queue(level_name("jobs", 1))
    names = [theirs.queue(level_name(queue, level)) for queue in ("a.b", "a", "q" * 60) for level in range(4)]
    assert len(set(names)) == 12
    assert all(re.fullmatch(r"shop__pre-[A-Za-z0-9_-]+", name) and len(name) <= QUEUE_MAX for name in names)
    # One queue of sqs:// has one set of levels, by whichever of its names it is declared.
    assert theirs.queue(level_name("a.b", 1)) == theirs.queue(level_name("a-b", 1))


def test_a_kombu_style_name_that_aws_refuses_is_shown_without_its_level() -> None:
    with pytest.raises(InvalidName) as caught:
        Namer(style="kombu").queue(level_name("n" * 81, 1))
    assert "priority" not in str(caught.value)


@pytest.mark.parametrize("namer", [Namer(), Namer("shop"), Namer("a" * 32), Namer("shop", "pre-", "kombu")])
@given(st.uuids(), st.sampled_from(["{uuid}", "{uuid}.reply.celery.pidbox", "celeryev.{uuid}", "bcast.{uuid}"]))
def test_a_pattern_matches_the_names_that_differ_in_a_uuid(namer: Namer, uuid: UUID, template: str) -> None:
    pattern = namer.uuid_pattern(template)
    assert "*" not in pattern
    assert fnmatchcase(namer.queue(template.replace("{uuid}", str(uuid))), pattern)
    assert not fnmatchcase(namer.queue("email"), pattern)
    assert not fnmatchcase(Namer("other").queue(template.replace("{uuid}", str(uuid))), pattern)


@pytest.mark.parametrize("namer", [Namer(), Namer("shop"), Namer("a" * 32)])
@pytest.mark.parametrize("queue", ["w@host.celery.pidbox", "x" * 80, "q"])
def test_a_pattern_matches_incarnations(namer: Namer, queue: str) -> None:
    assert fnmatchcase(namer.incarnation(queue), namer.incarnation_pattern())
    assert not fnmatchcase(namer.queue("email-dead"), namer.incarnation_pattern())


# --- mailboxes


@pytest.mark.parametrize("namespace", ["celery", "our.shop"])
def test_names_are_those_that_kombu_gives(namespace: str) -> None:
    mailbox = Mailbox(namespace, type="fanout")
    commands, replies = mailbox.exchange.name, mailbox.reply_exchange.name
    assert is_mailbox(commands)
    assert is_mailbox(replies)
    assert is_reply_exchange(replies)
    assert not is_reply_exchange(commands)
    waiting = mailbox.get_reply_queue()
    assert reply_queue(replies, waiting.routing_key) == waiting.name
    assert is_reply_queue(waiting.name)
    assert not is_reply_queue(mailbox.get_queue("w1@host.example").name)


@pytest.mark.parametrize("name", ["celery", "celeryev", "reply.celery", "orders.pidboxes"])
def test_other_exchanges_are_none(name: str) -> None:
    assert not is_mailbox(name)
    assert not is_reply_exchange(name)


@pytest.mark.parametrize("hostname", ["celery@w1.example", "celery@w1.reply.example", "w1"])
@pytest.mark.parametrize("namespace", ["celery", "our.shop"])
def test_a_queue_of_commands_is_told_from_one_of_replies(hostname: str, namespace: str) -> None:
    mailbox = Mailbox(namespace, type="fanout")
    commands = mailbox.get_queue(hostname).name
    assert is_command_queue(commands)
    assert not is_reply_queue(commands)
    assert not is_command_queue(mailbox.get_reply_queue().name)


# --- other names


@pytest.mark.parametrize(
    "url", ["https://sqs.eu-west-1.amazonaws.com/111122223333/q", "http://127.0.0.1:4566/0/q/", "q"]
)
def test_a_queue_url_ends_in_the_name(url: str) -> None:
    assert queue_name(url) == "q"


def test_event_queues_are_told_by_their_prefix() -> None:
    assert is_event_queue("celeryev.5f0f3c55-7f4f-5d0b-9d0d-6a3b4a2c1e90")
    assert not is_event_queue("celeryevents")


@given(st.uuids(), st.sampled_from(["{}", "amq.gen-{}", "{}.reply", "results of {}"]))
def test_a_uuid_in_a_name_is_found_however_it_is_written(uuid: UUID, template: str) -> None:
    assert all(has_uuid(template.format(text)) for text in (str(uuid), uuid.hex, str(uuid).upper()))
    assert not has_uuid(template.format(uuid.hex[:31]))
