"""IAM users of an emulator that enforces rights (ministack with ``AUTH=true``)."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any
from uuid import uuid4

from support.emulators import Emulator

#: What each role needs and no more; the README's section on IAM says the same.
PRODUCER = ("sns:Publish", "sqs:SendMessage", "sqs:GetQueueUrl")
CONSUMER = (
    "sqs:GetQueueUrl", "sqs:GetQueueAttributes", "sqs:ReceiveMessage", "sqs:DeleteMessage",
    "sqs:ChangeMessageVisibility", "sqs:SendMessage",
)  # fmt: skip
DECLARER = (
    "sns:CreateTopic", "sns:Subscribe", "sns:GetTopicAttributes", "sns:GetSubscriptionAttributes",
    "sns:SetSubscriptionAttributes", "sns:TagResource", "sqs:CreateQueue", "sqs:GetQueueUrl",
    "sqs:GetQueueAttributes", "sqs:SetQueueAttributes", "sqs:TagQueue", "sqs:ListQueueTags",
)  # fmt: skip


#: ministack does not see which topic it is about.
_UNNAMED = "sns:ListTagsForResource"


def as_policies(aws: Emulator, documents: Iterable[Mapping[str, Any]], without: str = "") -> Emulator:
    """The emulator as a new IAM user with these policies sees it.

    Args:
        without: An action that is taken out of them.
    """
    name = f"user-{uuid4().hex[:8]}"
    iam = aws.client("iam")
    iam.create_user(UserName=name)
    for number, document in enumerate(documents):
        statements = []
        if without != _UNNAMED and f'"{_UNNAMED}"' in json.dumps(document):
            statements.append({"Effect": "Allow", "Action": _UNNAMED, "Resource": "*"})
        for statement in document["Statement"]:
            listed = [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]
            actions = [action for action in listed if action != without]
            if actions:
                statements.append({**statement, "Action": _with_batches(actions)})
        policy = json.dumps({**document, "Statement": statements})
        iam.put_user_policy(UserName=name, PolicyName=f"policy-{number}", PolicyDocument=policy)
    keys = iam.create_access_key(UserName=name)["AccessKey"]
    return replace(aws, key=keys["AccessKeyId"], secret=keys["SecretAccessKey"])


def as_user(aws: Emulator, allow: Iterable[str], *, deny: dict[str, list[str]] | None = None) -> Emulator:
    """The emulator as a new IAM user sees it.

    Args:
        allow: Actions, on any resource.
        deny: Action to the ARNs (patterns) on which it is denied nevertheless.
    """
    name = f"user-{uuid4().hex[:8]}"
    statements: list[dict[str, object]] = [{"Effect": "Allow", "Action": _with_batches(allow), "Resource": "*"}]
    for action, resources in (deny or {}).items():
        statements.append({"Effect": "Deny", "Action": _with_batches([action]), "Resource": resources})
    iam = aws.client("iam")
    iam.create_user(UserName=name)
    policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
    iam.put_user_policy(UserName=name, PolicyName="rights", PolicyDocument=policy)
    keys = iam.create_access_key(UserName=name)["AccessKey"]
    return replace(aws, key=keys["AccessKeyId"], secret=keys["SecretAccessKey"])


def _with_batches(actions: Iterable[str]) -> list[str]:
    """AWS allows SendMessageBatch by sqs:SendMessage and so on; ministack takes them for actions of their own."""
    return sorted({name for action in actions for name in (action, action + "Batch")})
