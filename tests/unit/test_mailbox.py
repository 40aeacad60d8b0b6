"""Names of kombu's mailboxes."""

import pytest
from kombu.pidbox import Mailbox

from kombu_hake.mailbox import is_mailbox, is_reply_exchange, is_reply_queue, reply_queue


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
