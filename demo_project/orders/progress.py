"""Notes in the database how far each group is with each order, for the page. Handlers need not know of it."""

from typing import Any

from celery import Task
from celery.signals import worker_ready
from django.db import close_old_connections
from django.db.models import F

from orders.models import Group, Step


class GroupTask(Task):
    """Base of the handlers."""

    # A process of the worker that was killed is no reason to give up an order: it goes back to the group's queue.
    reject_on_worker_lost = True

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        begun = {"state": Step.State.RUNNING, "worker": self.request.hostname, "error": ""}
        Step.objects.update_or_create(
            order_id=kwargs["order_id"],
            group=self.request.hake_event["group"],
            defaults=begun | {"tries": F("tries") + 1},
            create_defaults=begun,
        )

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        self._note(kwargs, Step.State.DONE, finished=F("finished") + 1)

    def on_retry(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        self._note(kwargs, Step.State.RETRYING, error=str(exc)[:200])

    def on_failure(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        self._note(kwargs, Step.State.FAILED, error=str(exc)[:200])

    def _note(self, kwargs: Any, state: Step.State, **changes: Any) -> None:
        step = Step.objects.filter(order_id=kwargs["order_id"], group=self.request.hake_event["group"])
        step.update(state=state, **changes)


@worker_ready.connect
def group_joined(sender: Any, **_kwargs: Any) -> None:
    """The group's queue exists and is subscribed from now on."""
    for name in sender.app.amqp.queues.consume_from:
        Group.objects.get_or_create(name=name)
    close_old_connections()
