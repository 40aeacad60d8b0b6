"""Notes in the database how far each group is with each order, for the page; by Celery's signals, so handlers know
nothing of it."""

from typing import Any

from celery.signals import task_failure, task_prerun, task_retry, task_success, worker_ready
from django.db import close_old_connections
from django.db.models import F

from show.models import Group, Step


@task_prerun.connect
def begun(task: Any, kwargs: Any, **_more: Any) -> None:
    if (group := _group(task)) is None:
        return
    now = {"state": Step.State.RUNNING, "worker": task.request.hostname, "error": ""}
    Step.objects.update_or_create(
        order_id=kwargs["order_id"],
        group=group,
        defaults=now | {"tries": F("tries") + 1},
        create_defaults=now,
    )


@task_success.connect
def done(sender: Any, **_more: Any) -> None:
    _note(sender, Step.State.DONE, finished=F("finished") + 1)


@task_retry.connect
def retried(sender: Any, reason: Any, **_more: Any) -> None:
    # The reason is Celery's Retry around the exception.
    _note(sender, Step.State.RETRYING, error=str(getattr(reason, "exc", None) or reason)[:200])


@task_failure.connect
def failed(sender: Any, exception: Any, **_more: Any) -> None:
    _note(sender, Step.State.FAILED, error=str(exception)[:200])


@worker_ready.connect
def group_joined(sender: Any, **_more: Any) -> None:
    """The group's queue exists and is subscribed from now on."""
    for name in sender.app.amqp.queues.consume_from:
        Group.objects.get_or_create(name=name)
    close_old_connections()


def _group(task: Any) -> str | None:
    """The group that a task is a handler of; None for any other task."""
    event = getattr(task.request, "hake_event", None)
    return event["group"] if event else None


def _note(task: Any, state: Step.State, **changes: Any) -> None:
    if (group := _group(task)) is not None:
        step = Step.objects.filter(order_id=task.request.kwargs["order_id"], group=group)
        step.update(state=state, **changes)
