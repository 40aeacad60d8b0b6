"""JSON nested thousands of levels deep, wherever text from AWS is parsed: like any other that can't be read."""

import pytest

from kombu_hake.amqp.documents import same_json
from kombu_hake.amqp.policy import PolicyUnreadable, allows, queue_policy
from kombu_hake.amqp.routing import without_priorities

ARN, TOPIC = "arn:aws:sqs:eu-west-1:111122223333:q", "arn:aws:sns:eu-west-1:111122223333:t"

deep_texts = pytest.mark.parametrize("text", ["[" * 100_000 + "]" * 100_000, '{"a":' * 100_000 + "1" + "}" * 100_000])


@deep_texts
def test_a_filter_policy_that_is_too_deep_is_left_alone(text: str) -> None:
    assert without_priorities(text) == (text, False)
    assert not same_json(text, "{}")


@deep_texts
def test_a_queue_policy_that_is_too_deep_is_not_overwritten(text: str) -> None:
    with pytest.raises(PolicyUnreadable):
        queue_policy(text, ARN, [TOPIC])
    assert not allows(text, ARN, TOPIC)
