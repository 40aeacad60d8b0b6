"""What happens to an order. One task, run once by every group."""

import os

from celery import Task, shared_task
from celery.utils.log import get_task_logger

from orders.models import Execution, Order

log = get_task_logger(__name__)

WORK = {
    "email": "confirmation sent",
    "inventory": "stock reserved",
    "analytics": "revenue counted",
}


@shared_task(bind=True)
def handle_order(self: Task, order_id: int) -> None:
    """Do this group's part of the work for one order.

    Args:
        order_id: Primary key of an :class:`~orders.models.Order`.
    """
    order = Order.objects.get(pk=order_id)
    group = consumed_queue(self)
    log.info("%s: %s", order, WORK[group])
    Execution.objects.create(order=order, group=group, worker_pid=os.getpid())


def consumed_queue(task: Task) -> str:
    """The one queue that this worker consumes (``-Q``), which is the name of its group.

    Raises:
        RuntimeError: The worker consumes several queues, so the message could be from any of them.
    """
    queues = list(task.app.amqp.queues.consume_from)
    if len(queues) != 1:
        raise RuntimeError(f"start one worker per group (celery -A shop worker -Q GROUP); this one consumes {queues}")
    return queues[0]
