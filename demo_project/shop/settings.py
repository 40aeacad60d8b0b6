"""Settings of the demo shop. What concerns messages is the last section."""

import os
from pathlib import Path

from kombu import Exchange, Queue

BASE_DIR = Path(__file__).resolve().parent.parent

SECRET_KEY = "for the demo only"
DEBUG = True
ALLOWED_HOSTS = ["localhost", "127.0.0.1"]
INSTALLED_APPS = ["orders"]
TIME_ZONE = "UTC"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("SHOP_DATABASE", BASE_DIR / "shop.sqlite3"),
        # Several worker processes write: readers must not block them, and each waits for its turn.
        "OPTIONS": {
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
            "transaction_mode": "IMMEDIATE",
            "timeout": 30,
        },
    }
}

# Messages. An order is published once, to the exchange; every group has a durable queue of its own, gets its copy of
# the order, and its workers share that queue: `celery -A shop worker -Q email`.
ORDERS = Exchange("orders", type="fanout")
GROUPS = ["email", "inventory", "analytics"]

CELERY_BROKER_URL = os.environ.get("HAKE_BROKER_URL", "hake://")
CELERY_TASK_QUEUES = [Queue(group, ORDERS) for group in GROUPS]
# All that a publisher needs to know. (Celery ignores an exchange that comes without a routing key.)
CELERY_TASK_ROUTES = {"orders.tasks.handle_order": {"exchange": "orders", "routing_key": "order.placed"}}
CELERY_TASK_IGNORE_RESULT = True
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
