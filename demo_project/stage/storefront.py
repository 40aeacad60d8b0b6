"""Settings of the process that places orders: it knows the exchange by its name, and no group, queue or binding."""

from shop.settings import *  # noqa: F403

CELERY_TASK_QUEUES = None
del ORDERS, GROUPS  # noqa: F821
