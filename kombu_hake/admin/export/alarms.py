"""CloudWatch alarms for the queues and topics of a blueprint, as a CloudFormation template. Pure.

Thresholds are parameters of the stack. The age of the oldest message leaves out messages that were received three times
or more, so there is an alarm on the number of ready messages too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from kombu_hake._version import __version__
from kombu_hake.admin.export.cloudformation import template
from kombu_hake.admin.export.names import logical_id
from kombu_hake.amqp import SQS_MAX_IN_FLIGHT
from kombu_hake.topology import Blueprint

__all__ = ["ALARMS", "Alarm", "alarms"]

_SQS, _SNS = "AWS/SQS", "AWS/SNS"
_VISIBLE = "ApproximateNumberOfMessagesVisible"
#: Alarm names may have 255 characters, and names of topics 256.
_NAME_CHARS = 255


class Alarm(NamedTuple):
    """An alarm that each queue of some roles, or each topic, gets.

    Attributes:
        roles: Of :class:`~kombu_hake.topology.SqsQueue`; empty for topics.
        suffix: Of the alarm's name, after that of the queue or topic.
        parameter: The parameter that the metric must not exceed, or a fixed number.
        minutes: For how many minutes in a row.
    """

    roles: tuple[str, ...]
    suffix: str
    metric: str
    statistic: str
    parameter: str | int
    minutes: int
    meaning: str


#: Name, default, unit and meaning of each threshold.
_PARAMETERS = {
    "MaxReady": (1_000, "Ready messages of a queue, for ten minutes in a row."),
    "MaxAgeSeconds": (3_600, "Age of a queue's oldest message, running and delayed tasks included."),
    "MaxInFlight": (SQS_MAX_IN_FLIGHT * 5 // 6, "Messages in flight; at 120,000 consumers silently receive nothing."),
}
_QUEUES = ("queue", "level")
ALARMS: tuple[Alarm, ...] = (
    Alarm(_QUEUES, "ready", _VISIBLE, "Minimum", "MaxReady", 10, "Tasks wait: too few workers, or none."),
    Alarm(_QUEUES, "age", "ApproximateAgeOfOldestMessage", "Maximum", "MaxAgeSeconds", 5,
          "A message is older than it may be: too few workers, or a task that hangs."),
    Alarm(_QUEUES, "in-flight", "ApproximateNumberOfMessagesNotVisible", "Maximum", "MaxInFlight", 1,
          "Near the number of messages in flight at which consumers silently receive nothing."),
    Alarm(("dead",), "dead-letters", _VISIBLE, "Maximum", 0, 1,
          "There are dead letters: celery hake dlq list."),
    Alarm(("undelivered",), "undelivered", _VISIBLE, "Maximum", 0, 1,
          "SNS could not deliver: celery hake dlq list QUEUE --undelivered."),
    Alarm((), "failed", "NumberOfNotificationsFailed", "Sum", 0, 1,
          "SNS cannot deliver: a queue is gone, or its policy or key does not admit the topic."),
    Alarm((), "redriven", "NumberOfNotificationsRedrivenToDlq", "Sum", 0, 1,
          "SNS could not deliver, and moved messages to the undelivered queue of a subscription."),
    Alarm((), "lost", "NumberOfNotificationsFailedToRedriveToDlq", "Sum", 0, 1,
          "SNS could neither deliver nor keep messages: they are lost."),
)  # fmt: skip


def alarms(blueprint: Blueprint) -> dict[str, Any]:
    """The template, ready for ``json.dumps``. Predefined queues and topics get alarms too.

    Raises:
        ConfigurationError: it exceeds what CloudFormation takes.
    """
    parameters: dict[str, Any] = {
        "NotificationTopicArn": {
            "Type": "String",
            "Default": "",
            "Description": "SNS topic that is told of each alarm; empty for none.",
        }
    }
    for name, (default, meaning) in _PARAMETERS.items():
        parameters[name] = {"Type": "Number", "Default": default, "MinValue": 0, "Description": meaning}
    return template(
        f"Alarms, made by kombu_hake {__version__}: celery hake export alarms",
        dict(_resources(blueprint)),
        Parameters=parameters,
        Conditions={"IsNotified": {"Fn::Not": [{"Fn::Equals": [{"Ref": "NotificationTopicArn"}, ""]}]}},
    )


def _resources(blueprint: Blueprint) -> Iterator[tuple[str, dict[str, Any]]]:
    for alarm in ALARMS:
        if alarm.roles:
            named = [queue.physical for queue in blueprint.queues if queue.role in alarm.roles]
        else:
            named = [topic.physical for topic in blueprint.topics if topic.is_bound]
        for name in named:
            yield logical_id("Alarm", name, alarm.suffix), _alarm(alarm, name)


def _alarm(alarm: Alarm, name: str) -> dict[str, Any]:
    to = {"Fn::If": ["IsNotified", [{"Ref": "NotificationTopicArn"}], {"Ref": "AWS::NoValue"}]}
    return {
        "Type": "AWS::CloudWatch::Alarm",
        "Properties": {
            "AlarmName": f"{name[: _NAME_CHARS - len(alarm.suffix) - 1]}-{alarm.suffix}",
            "AlarmDescription": alarm.meaning,
            "Namespace": _SQS if alarm.roles else _SNS,
            "MetricName": alarm.metric,
            "Dimensions": [{"Name": "QueueName" if alarm.roles else "TopicName", "Value": name}],
            "Statistic": alarm.statistic,
            "Period": 60,
            "EvaluationPeriods": alarm.minutes,
            "Threshold": {"Ref": alarm.parameter} if isinstance(alarm.parameter, str) else alarm.parameter,
            "ComparisonOperator": "GreaterThanThreshold",
            # An idle queue has no metrics after six hours, and an idle topic none at all.
            "TreatMissingData": "notBreaching",
            "AlarmActions": to,
            "OKActions": to,
        },
    }
