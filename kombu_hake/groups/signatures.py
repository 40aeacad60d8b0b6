"""Types of handlers and of the options of an event, for type checkers. Nothing here is called.

At run time a handler is an ordinary Celery task; :class:`Handler` describes it to type checkers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Concatenate, ParamSpec, Protocol, TypedDict, TypeVar, overload
from uuid import UUID

from celery.result import AsyncResult

__all__ = ["SEND_OPTIONS", "BoundDecorator", "Decorator", "Handler", "SendOptions"]

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class SendOptions(TypedDict, total=False):
    """Options of ``apply_async`` that an event can have. All others belong to the handlers, not to an event."""

    countdown: float
    eta: datetime
    expires: float | datetime
    priority: int
    headers: Mapping[str, Any]
    serializer: str
    compression: str
    retry: bool
    retry_policy: Mapping[str, Any]
    producer: Any
    connection: Any
    tenant: str | int | UUID | None
    message_attributes: Mapping[str, Any]
    MessageGroupId: str
    MessageDeduplicationId: str


#: Their names.
SEND_OPTIONS = frozenset(SendOptions.__annotations__)


class Handler(Protocol[P, R_co]):
    """A handler: a Celery task that keeps the parameters and the result of its function."""

    name: str

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Run it in this process, like the function."""

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult:
        """Send a message for this handler alone to the queue of its group."""

    def __getattr__(self, name: str) -> Any:
        """Everything else that Celery's tasks have."""


class Decorator(Protocol):
    """``Topic.on``: what it returns."""

    @overload
    def __call__(self, handler: type[Any], /) -> Any: ...
    @overload
    def __call__(self, handler: Callable[P, R], /) -> Handler[P, R]: ...


class BoundDecorator(Protocol):
    """``Topic.on(…, bind=True)``: the first parameter is the task, and callers do not give it.

    mypy's ``--strict`` requires this parameter to be positional-only if the function takes any keyword arguments:
    ``def note(self, /, order_id: int, **more: Any)``.
    """

    def __call__(self, handler: Callable[Concatenate[Any, P], R], /) -> Handler[P, R]: ...
