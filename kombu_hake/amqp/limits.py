"""AWS quotas and AMQP bounds, as constants with the unit in the name. SNS and SQS are kept apart: they differ.

Sources, as tags in the comments:

- ``API-SQS``, ``API-SNS``: the API reference of the operation named (the text shipped in botocore's service models).
- ``DG-SQS``, ``DG-SNS``: the Developer Guides, by page title.
- ``GR``: AWS General Reference, "endpoints and quotas" of the service.
- ``observed``: no official page gives the figure, the service behaves so.
"""

from __future__ import annotations

from typing import Final

# --- both services ---------------------------------------------------------------------------------------------

MAX_BATCH_ENTRIES: Final = 10  # API-SQS SendMessageBatch, DeleteMessageBatch; API-SNS PublishBatch
ATTRIBUTE_NAME_MAX_CHARS: Final = 256  # API-SQS, API-SNS MessageAttributeValue
FIFO_SUFFIX: Final = ".fifo"  # API-SQS CreateQueue, API-SNS CreateTopic; counts in the length of the name

# A raw delivery of a message with more attributes than this is dropped without any error (DG-SNS
# "message attributes"). One is left free, because clients that offload a body to S3 add one.
RAW_DELIVERY_MAX_ATTRIBUTES: Final = 10

# --- SQS: names, sizes, times ----------------------------------------------------------------------------------

SQS_MAX_QUEUE_NAME_CHARS: Final = 80  # API-SQS CreateQueue
SQS_MAX_MESSAGE_BYTES: Final = 1_048_576  # API-SQS CreateQueue MaximumMessageSize; body and attributes
SQS_OLD_MAX_MESSAGE_BYTES: Final = 262_144  # of queues that were created before August 2025, by default
SQS_MAX_BATCH_BYTES: Final = 1_048_576  # API-SQS SendMessageBatch: all entries together
SQS_MAX_WAIT_S: Final = 20  # API-SQS ReceiveMessage WaitTimeSeconds
SQS_MAX_DELAY_S: Final = 900  # API-SQS SendMessage DelaySeconds; standard queues only
SQS_MAX_VISIBILITY_S: Final = 43_200  # API-SQS ChangeMessageVisibility; in total, since the receive
SQS_DEFAULT_RETENTION_S: Final = 345_600  # API-SQS CreateQueue: four days
SQS_MIN_RETENTION_S: Final = 60  # API-SQS SetQueueAttributes MessageRetentionPeriod
SQS_MAX_RETENTION_S: Final = 1_209_600  # API-SQS SetQueueAttributes: fourteen days
SQS_MAX_IN_FLIGHT: Final = 120_000  # DG-SQS "message quotas"; received or hidden, per queue
SQS_QUEUE_READY_S: Final = 1  # API-SQS CreateQueue: wait at least this long before using a new queue
SQS_QUEUE_RECREATE_S: Final = 60  # API-SQS CreateQueue: QueueDeletedRecently
SQS_ATTRIBUTES_SETTLE_S: Final = 60  # API-SQS SetQueueAttributes: a change, Policy included, may take this long
SQS_LIST_PAGE: Final = 1_000  # API-SQS ListQueues MaxResults

# --- SQS: tags -------------------------------------------------------------------------------------------------

SQS_MAX_TAGS: Final = 50  # API-SQS TagQueue: recommended maximum per queue
TAG_KEY_MAX_CHARS: Final = 128  # API-SQS TagQueue, DG-SQS "cost allocation tags"
TAG_VALUE_MAX_CHARS: Final = 256  # same

# --- SQS: queue access policy ----------------------------------------------------------------------------------

SQS_MAX_RECEIVE_COUNT: Final = 1_000  # API-SQS SetQueueAttributes, RedrivePolicy: maxReceiveCount
SQS_MAX_REDRIVE_SOURCES: Final = 10  # same, RedriveAllowPolicy: sourceQueueArns
SQS_POLICY_MAX_BYTES: Final = 8_192  # DG-SQS "policy quotas"
SQS_POLICY_MAX_STATEMENTS: Final = 20  # same

# --- SNS: names, sizes -----------------------------------------------------------------------------------------

SNS_MAX_TOPIC_NAME_CHARS: Final = 256  # API-SNS CreateTopic
SNS_MAX_MESSAGE_BYTES: Final = 262_144  # API-SNS Publish; unless the topic's MaximumMessageSize was raised
SNS_MAX_BATCH_BYTES: Final = 262_144  # API-SNS PublishBatch: all entries together; the topic's MaximumMessageSize
SNS_MAX_RAISED_BYTES: Final = 1_048_576  # DG-SNS "large message payloads": the most that MaximumMessageSize may be
SNS_MAX_FILTERS: Final = 200  # DG-SNS "filter policy constraints": filter policies of a topic, by default
SNS_RAISED_MAX_SUBSCRIPTIONS: Final = 100  # same: of a topic that takes more than 262,144 bytes

# --- SNS: rates ----------------------------------------------------------------------------------------------

# GR: messages a second of standard topics, per account and region; soft. Batches do not raise it.
SNS_MESSAGES_PER_S: Final = {
    "us-east-1": 30_000,
    **dict.fromkeys(("us-west-2", "eu-west-1"), 9_000),
    **dict.fromkeys(("us-east-2", "us-west-1", "ap-south-1", "ap-northeast-1", "ap-northeast-2"), 1_500),
    **dict.fromkeys(("ap-southeast-1", "ap-southeast-2", "eu-central-1"), 1_500),
}
SNS_MESSAGES_PER_S_ELSEWHERE: Final = 300  # GR

# --- SNS: filter policies --------------------------------------------------------------------------------------

SNS_FILTER_SETTLE_S: Final = 900  # DG-SNS "subscription filter policies": a change may take fifteen minutes
SNS_FILTER_MAX_KEYS: Final = 5  # DG-SNS "filter policy constraints"; distinct attribute names
SNS_FILTER_MAX_COMBINATIONS: Final = 150  # same: product over the keys of the number of values
SNS_FILTER_MAX_BYTES: Final = 262_144  # same: 256 KB
SNS_WILDCARDS_PER_PATTERN: Final = 3  # same: "*" in one wildcard pattern
SNS_WILDCARD_MAX_POINTS: Final = 100  # same: one point for one "*", else three per "*"; times patterns, all fields

# --- AMQP 0-9-1 ------------------------------------------------------------------------------------------------

MATCHED_KEY_MAX_CHARS: Final = 10_000  # ours: matching a routing key of a megabyte with a pattern takes seconds

# --- what a received message may cost a process -------------------------------------------------------------------

# SQS bounds what is sent, not what it unpacks to: 837 bytes of bzip2 can hold gigabytes. JSON and pickles of tasks
# shrink to a fifth or a tenth, so sixteen times the largest message is enough for every real one.
MAX_INFLATED_BYTES: Final = 16 * SQS_MAX_MESSAGE_BYTES
# Building JSON values takes 0.1 to 0.4 microseconds and about 60 bytes each: five million empty lists fit into the size
# above, and took 2.5 seconds and 360 MiB. This many commas and opening brackets take well below one second.
MAX_INFLATED_VALUES: Final = 1_500_000
# An xz header may ask for a window of 4 GiB; the highest preset of the lzma module needs 65 MiB to decompress.
MAX_INFLATING_MEMORY_BYTES: Final = 96 * 1024 * 1024
# The largest payload in S3, written or read. A worker holds it several times over while it decodes it.
MAX_PAYLOAD_BYTES: Final = 256 * 1024 * 1024
# Celery's prefork pool pickles the decoded body, and the pickle module fails between 420 and 490 levels, depending on
# how deep the calling stack is.
MAX_NESTING: Final = 300
