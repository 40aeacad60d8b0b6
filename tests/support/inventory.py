"""What AWS really has, read with boto3, as plain values that tests compare."""

import json
from typing import Any

__all__ = ["inventory", "meaning", "topic_arns"]

#: Attributes that are documents.
DOCUMENTS = ("Policy", "RedrivePolicy", "RedriveAllowPolicy", "FilterPolicy")


def inventory(sqs: Any, sns: Any, prefix: str) -> dict[str, Any]:
    """Queues, topics and subscriptions whose names begin with *prefix*, by name; documents parsed."""
    queues = {}
    for url in sqs.list_queues(QueueNamePrefix=prefix).get("QueueUrls", []):
        attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        tags = sqs.list_queue_tags(QueueUrl=url).get("Tags", {})
        queues[url.rpartition("/")[2]] = {"attributes": meaning(attributes), "tags": tags}
    topics, subscriptions = {}, {}
    for arn in topic_arns(sns):
        name = arn.rpartition(":")[2]
        if not name.startswith(prefix):
            continue
        tags = sns.list_tags_for_resource(ResourceArn=arn).get("Tags", [])
        topics[name] = {"tags": {tag["Key"]: tag["Value"] for tag in tags}}
        for one in sns.list_subscriptions_by_topic(TopicArn=arn)["Subscriptions"]:
            shown = sns.get_subscription_attributes(SubscriptionArn=one["SubscriptionArn"])["Attributes"]
            subscriptions[name, one["Endpoint"].rpartition(":")[2]] = meaning(shown)
    return {"queues": queues, "topics": topics, "subscriptions": subscriptions}


def topic_arns(sns: Any) -> list[str]:
    """ARNs of all topics of the account, which are many on an emulator that all tests share."""
    found: list[str] = []
    token: dict[str, str] = {}
    while True:
        answer = sns.list_topics(**token)
        found += [item["TopicArn"] for item in answer["Topics"]]
        if not answer.get("NextToken"):
            return found
        token = {"NextToken": answer["NextToken"]}


def meaning(attributes: dict[str, str]) -> dict[str, Any]:
    """Attributes with their documents parsed; empty ones left out."""
    found: dict[str, Any] = {}
    for key, value in attributes.items():
        if value in ("", "{}"):
            continue
        found[key] = json.loads(value) if key in DOCUMENTS else value
    return found
