"""A durable queue of a fanout exchange and remote control, with short limits of temporary queues."""

from celery import Celery
from kombu import Exchange, Queue

from apps.notes import BROKER

app = Celery("watched", broker=BROKER)
app.conf.task_queues = [Queue("email", Exchange("orders", "fanout"))]
app.conf.task_ignore_result = True
