"""Names of metrics and attributes, and their values: those of the semantic conventions, else ``hake.…``."""

from __future__ import annotations

from opentelemetry.semconv._incubating.attributes import messaging_attributes as messaging
from opentelemetry.semconv._incubating.metrics import messaging_metrics
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE

SYSTEM = messaging.MESSAGING_SYSTEM
SQS = messaging.MessagingSystemValues.AWS_SQS.value
SNS = messaging.MessagingSystemValues.AWS_SNS.value
DESTINATION = messaging.MESSAGING_DESTINATION_NAME
#: Of the exchange that a received message was published to.
PUBLISHED_TO = messaging.MESSAGING_DESTINATION_PUBLISH_NAME
GROUP = messaging.MESSAGING_CONSUMER_GROUP_NAME
MESSAGE_ID = messaging.MESSAGING_MESSAGE_ID
BATCH_COUNT = messaging.MESSAGING_BATCH_MESSAGE_COUNT
OPERATION = messaging.MESSAGING_OPERATION_NAME
OPERATION_TYPE = messaging.MESSAGING_OPERATION_TYPE
CREATE = messaging.MessagingOperationTypeValues.CREATE.value
SEND = messaging.MessagingOperationTypeValues.SEND.value
RECEIVE = messaging.MessagingOperationTypeValues.RECEIVE.value
PROCESS = messaging.MessagingOperationTypeValues.PROCESS.value
SETTLE = messaging.MessagingOperationTypeValues.SETTLE.value
ERROR = ERROR_TYPE
TASK = "celery.task_name"  # as opentelemetry-instrumentation-celery has it
RECEIVE_COUNT = "hake.receive_count"
OUTCOME = "hake.outcome"
REASON = "hake.reason"
ACTION = "hake.action"
STATUS = "hake.status"

SENT = messaging_metrics.MESSAGING_CLIENT_SENT_MESSAGES
CONSUMED = messaging_metrics.MESSAGING_CLIENT_CONSUMED_MESSAGES
OPERATION_DURATION = messaging_metrics.MESSAGING_CLIENT_OPERATION_DURATION
PROCESS_DURATION = messaging_metrics.MESSAGING_PROCESS_DURATION
SETTLED = "hake.settled.messages"
DWELL = "hake.dwell.duration"
BATCH = "hake.batch.messages"
POLL_AGE = "hake.poll.age"
RENEWED = "hake.leases.renewed"
LOST = "hake.leases.lost"
DEAD = "hake.dead_letters"
REQUESTS = "hake.requests"
