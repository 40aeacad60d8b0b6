"""What this package relies on in Celery beyond its documented interface, as one list, and the one place that installs
the hooks.

Each entry names an object of Celery, what of it is relied on, and who relies on it. ``tests/unit/test_internals.py``
checks each entry against the Celery that is installed: it fails where Celery renames or changes one, and for a Celery
that is not in :data:`TRIED`.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

from kombu_hake.worker import health, safeguard, state, stopping, task_runs
from kombu_hake.worker.rejections import reject_undecodable, reject_unknown
from kombu_hake.worker.tenants import keep_tenant_of_failed

__all__ = ["INTERNALS", "TRIED", "Internal", "install"]

#: Versions of Celery that every entry was tried on.
TRIED = ("5.4", "5.5", "5.6", "5.7")


class Internal(NamedTuple):
    """Something in Celery that has no documented contract."""

    #: ``module:attribute.attribute``.
    where: str
    #: The modules of this package that rely on it.
    used_by: tuple[str, ...]
    #: Its parameters that are relied on, in order; None where it is not called or replaced by a function of ours.
    parameters: tuple[str, ...] | None = None
    #: Text that its source must contain, where a name is set or called inside of it.
    contains: tuple[str, ...] = ()
    #: The first version that has it.
    since: str = "5.4"


_CONSUMER = "celery.worker.consumer.consumer:Consumer"
_REQUEST = "celery.worker.request:Request"
_STATE = "celery.worker.state"

INTERNALS: tuple[Internal, ...] = (
    # The worker and its consumer
    Internal("celery.apps.worker:Worker.on_consumer_ready", ("worker.internals",), ("self", "consumer"),
             ("worker_ready.send(sender=consumer)",)),
    Internal(f"{_CONSUMER}.create_task_handler", ("worker.safeguard", "groups.worker"), ("self",),
             ("self.on_unknown_task", "self.on_decode_error(message, exc)", "def on_task_received(message)")),
    Internal(f"{_CONSUMER}.on_decode_error", ("worker.rejections",), ("self", "message", "exc"), ("message.ack()",)),
    Internal(f"{_CONSUMER}.on_unknown_task", ("worker.rejections",), ("self", "body", "message", "exc")),
    Internal(f"{_CONSUMER}.on_close", ("worker.stopping",), ("self",), ("reserved_requests.clear()",)),
    Internal(f"{_CONSUMER}.__init__", ("worker.safeguard", "worker.stopping"), ("self", "on_task_request"),
             ("self.on_task_request = on_task_request", "on_close=self.on_close", "self.controller = controller",
              "self.pool = pool")),
    Internal(f"{_CONSUMER}.add_task_queue", ("worker.safeguard",), ("self", "queue"),
             ("queues.select_add(", "cset.add_queue(q)", "cset.consume()")),
    Internal(f"{_CONSUMER}.cancel_task_queue", ("worker.safeguard",), ("self", "queue")),
    Internal("celery.app.amqp:Queues.consume_from", ("worker.safeguard",)),
    Internal("celery.worker.consumer.tasks:Tasks.start", ("worker.rejections", "groups.worker"), ("self", "c"),
             ("c.task_consumer = c.app.amqp.TaskConsumer(", "on_decode_error=c.on_decode_error")),
    Internal("celery.worker.loops:asynloop", ("worker.safeguard", "worker.rejections"), ("obj",),
             ("consumer.on_message = on_task_received", "obj.on_ready()")),
    Internal("celery.bootsteps:Blueprint.__init__", ("worker.stopping",), None, ("self.on_close = on_close",)),
    Internal("celery.worker.worker:WorkController._process_task", ("worker.safeguard",), ("self", "req"),
             ("req.execute_using_pool(self.pool)", "self._quick_release()")),
    Internal("celery.worker.worker:WorkController.wait_for_soft_shutdown", ("worker.stopping",), ("self",),
             since="5.5"),
    Internal("celery.worker.components:Hub.create", ("worker.safeguard",), None, ("w.hub",)),
    Internal("celery.worker.worker:WorkController.setup_instance", ("worker.health", "worker.task_runs"), None,
             ("self.app.connection_for_read()", "signals.worker_init.send(sender=self)")),
    Internal("celery.worker.consumer.connection:Connection.start", ("worker.health",), ("self", "c"),
             ("c.connection = c.connect()",)),
    Internal("celery.concurrency.solo:TaskPool.__init__", ("worker.health",), None, ("self.on_apply = apply_target",)),
    # Requests, and the sets that they are in
    Internal(f"{_REQUEST}.execute_using_pool", ("worker.state",), ("self", "pool"),
             ("self._apply_result = maybe(ref",)),
    Internal(f"{_REQUEST}._apply_result", ("worker.state",)),
    Internal(f"{_REQUEST}.cancel", ("worker.lost_tasks",), ("self", "pool")),
    Internal(f"{_REQUEST}.message", ("worker.state", "worker.lost_tasks")),
    Internal(f"{_STATE}:requests", ("worker.state", "worker.lost_tasks")),
    Internal(f"{_STATE}:reserved_requests", ("worker.state",)),
    Internal(f"{_STATE}:active_requests", ("worker.state", "worker.health")),
    Internal(f"{_STATE}:scheduled_requests", ("worker.state",), since="5.7"),
    Internal(f"{_STATE}:should_stop", ("worker.state",)),
    Internal(f"{_STATE}:should_terminate", ("worker.state",)),
    Internal(f"{_STATE}:task_ready", ("worker.state", "worker.safeguard"), ("request",)),
    # The running task
    Internal("celery._state:_task_stack", ("worker.state",)),
    Internal("celery.app.task:Context.properties", ("worker.state", "publish.tenants")),
    Internal("celery.app.task:Context.called_directly", ("worker.state",)),
    Internal("celery.app.task:Context.is_eager", ("worker.state",)),
    Internal("celery.app.trace:build_tracer", ("worker.state", "worker.task_runs"), None,
             ("push_task(task)", "push_request(task_request)", "loader_task_init = loader.on_task_init",
              "loader_cleanup = loader.on_process_cleanup", "loader_task_init(uuid, task)", "loader_cleanup()")),
    Internal("celery.app.routes:Router.route", ("worker.tenants",), ("self", "options"),
             ("lpmerge(", "return options")),
    Internal("celery.backends.base:Backend.fallback_chord_unlock", ("publish.tenants",),
             ("self", "header_result", "body"), ("(header_result.id, body,)",)),
    # Pools
    Internal("celery.concurrency.thread:TaskPool.on_apply", ("worker.stopping",), ("self", "target"),
             ("return ApplyResult(f)",)),
    Internal("celery.concurrency.thread:ApplyResult.__init__", ("worker.state", "worker.stopping"), ("self", "future"),
             ("self.f = future",)),
    Internal("celery.concurrency.asynpool:AsynPool", ("worker.state", "worker.safeguard"), None,
             ("._write_to", "job._payload = ", "self._cache")),
    Internal("billiard.pool:ApplyResult.__init__", ("worker.safeguard",), None,
             ("self.correlation_id = correlation_id", "self._cache = cache")),
    Internal("billiard.pool:ApplyResult.discard", ("worker.safeguard",), ("self",)),
    # The app, and what groups add to it
    Internal("celery._state:connect_on_app_finalize", ("groups.setup",), ("callback",)),
    Internal("celery._state:_get_active_apps", ("groups.setup",), ()),
    Internal("celery.app.amqp:Queues.__init__", ("groups.setup",), None),
    Internal("celery.app.task:Task.start_strategy", ("groups.worker",), ("self", "app", "consumer"),
             ("self.Strategy",)),
    Internal(f"{_REQUEST}.on_failure", ("groups.failures", "worker.tenants"), ("self", "exc_info")),
    Internal(f"{_REQUEST}.on_timeout", ("worker.tenants",), ("self", "soft"), ("mark_as_failure(",)),
    Internal(f"{_REQUEST}._announce_revoked", ("worker.tenants",), ("self", "reason"), ("mark_as_revoked(",)),
)  # fmt: skip


def install() -> None:
    """Have the worker that this process is, if it is one, get its hooks when it is ready. May be repeated."""
    signals = sys.modules.get("celery.signals")
    if signals is None:
        return
    signals.worker_init.connect(_on_init, weak=False, dispatch_uid="kombu_hake.worker.internals")
    if _STATE not in sys.modules:
        return
    import kombu_hake.signals  # noqa: F401 - now: a lease that is lost may find no descriptor left for an import

    signals.worker_ready.connect(_on_ready, weak=False, dispatch_uid="kombu_hake.worker.internals")


def _on_init(sender: Any = None, **_kwargs: Any) -> None:
    """This process is a worker; *sender* is its ``WorkController``."""
    health.on_init(sender)
    task_runs.on_init(sender)


def _on_ready(sender: Any = None, **_kwargs: Any) -> None:
    """A worker starts to consume; *sender* is its ``Consumer``. Celery has delivered nothing to it yet."""
    transport = getattr(getattr(sender, "connection", None), "transport", None)
    if getattr(transport, "driver_type", None) != "hake":
        return
    state.remember(sender)
    stopping.on_ready(sender)
    reject_unknown(sender)
    safeguard.on_ready(sender)
    reject_undecodable(sender)
    health.on_ready(sender, transport)
    keep_tenant_of_failed()
