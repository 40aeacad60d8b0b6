"""Tasks of ``django.tasks``, as an app's ``tasks.py`` has them. Import it when Django is set up."""

from typing import Any

from celery.exceptions import Ignore
from django.tasks import TaskContext, task

calls: list[Any] = []


class OutOfStock(Exception):
    pass


@task
def add(a: int, b: int = 0) -> int:
    calls.append((a, b))
    return a + b


@task
async def slowly(text: str) -> dict[str, Any]:
    return {"text": (text,)}


@task
def fail(text: str) -> None:
    raise OutOfStock(text)


@task
def ignore() -> None:
    raise Ignore


@task
def answer_a_set() -> set[int]:
    return {1}


@task(takes_context=True)
def attempt(context: TaskContext, fails: bool = False) -> dict[str, Any]:
    result = context.task_result
    found = {"attempt": context.attempt, "id": result.id, "status": result.status, "queue": result.task.queue_name}
    calls.append(found)
    if fails:
        raise OutOfStock
    return found


@task(priority=50, queue_name="emails")
def urgent() -> None: ...


@task(backend="any")
def anywhere() -> None: ...


@task(backend="here")
def at_once() -> None: ...
