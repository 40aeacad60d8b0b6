"""The tenant that a message is published for.

The first of these that names one:

1. The property ``tenant``, which is the argument of ``apply_async(tenant=…)``.
2. The option ``tenant_from``.
3. The tenant of the task that this thread runs, so that a workflow keeps its tenant; but not if the property is None.

The last two apply only to durable messages, such as tasks. Replies, events and commands of remote control are
transient, and have no tenant.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from kombu.utils.imports import symbol_by_name

from kombu_hake.amqp import COMPRESSION_HEADER, FIFO_SUFFIX, decoded, is_tenant, tenant_text
from kombu_hake.exceptions import ConfigurationError, PublishError
from kombu_hake.quoting import guarded

__all__ = ["NO_TENANT", "Tenants"]

logger = guarded(logging.getLogger(__name__))
#: AMQP's delivery mode of a message that need not survive.
_TRANSIENT = 1
#: The property of a message that is sent again and has no tenant: do not look for one.
NO_TENANT = False
#: Celery sends it beside the tasks of a chord, without the options of the chord.
_CHORD_UNLOCK = "celery.chord_unlock"


class Tenants:
    """Names the tenant of messages. Safe to share between threads."""

    def __init__(self, tenant_from: str | None, running: Callable[[], Mapping[str, Any] | None]) -> None:
        """
        Args:
            tenant_from: The option.
            running: Returns the properties of the message of the task that this thread runs in a worker, or None.
        """
        self._tenant_from = tenant_from
        self._running = running
        self._function: Callable[..., Any] | None = None

    def check(self) -> None:
        """Import the function of ``tenant_from``, if it names one.

        Raises:
            ConfigurationError: there is no such function.
        """
        if self._tenant_from is not None and ":" in self._tenant_from and self._function is None:
            self._function = _imported(self._tenant_from)

    def named(self, message: Mapping[str, Any], exchange: str, routing_key: str) -> Mapping[str, Any]:
        """The message with its tenant, if it has one, as the property ``tenant``.

        A ``MessageGroupId`` that the publisher gives is the tenant, unless it is the key of an order: then the message
        has a tenant beside it.

        Raises:
            PublishError: the tenant is not valid, or ``tenant_from`` failed.
        """
        properties = message["properties"]
        running = self._running()
        if running is None and self._tenant_from is None and "tenant" not in properties:
            task = (message.get("headers") or {}).get("task")
            if task != _CHORD_UNLOCK:  # nearly always: nothing names a tenant
                return message
        given = properties.get("tenant")
        if given is None:
            if properties.get("MessageGroupId") is not None and not (
                exchange.endswith(FIFO_SUFFIX) or routing_key.endswith(FIFO_SUFFIX)
            ):
                return message
            tenant = self._found(message, running, inherits="tenant" not in properties)
        elif is_tenant(given):
            return message
        else:
            tenant = None if given is NO_TENANT else _checked(given, "the argument tenant")
        if tenant is None and "tenant" not in properties:
            return message
        changed = {name: value for name, value in properties.items() if name != "tenant"}
        if tenant is not None:
            changed["tenant"] = tenant
        return {**message, "properties": changed}

    def _found(self, message: Mapping[str, Any], running: Mapping[str, Any] | None, *, inherits: bool) -> str | None:
        headers = message.get("headers") or {}
        if "task" not in headers and message["properties"].get("delivery_mode") == _TRANSIENT:
            return None
        if headers.get("task") == _CHORD_UNLOCK:
            options = _options_of_chord(message)
            if options.get("tenant") is not None:
                return _checked(options["tenant"], "the tenant of the chord")
            inherits = inherits and "tenant" not in options
        if self._tenant_from is not None:
            asked = self._asked(self._tenant_from, message, headers, is_in_task=running is not None)
            if asked is not None:
                return asked
        tenant = running.get("tenant") if inherits and running is not None else None
        return tenant if is_tenant(tenant) else None

    def _asked(
        self, tenant_from: str, message: Mapping[str, Any], headers: Mapping[str, Any], *, is_in_task: bool
    ) -> str | None:
        """The tenant by the option; None if it names none."""
        if ":" in tenant_from:
            return self._called(tenant_from, message, headers)
        given = headers.get(tenant_from)
        if given is None:
            return None
        try:
            return _checked(given, f"the header {tenant_from!r} (option tenant_from)")
        except PublishError as exc:
            if not is_in_task:
                raise
            logger.info("%s", exc)  # a retry has the headers of the message that is retried, which others have written
            return None

    def _called(self, path: str, message: Mapping[str, Any], headers: Mapping[str, Any]) -> str | None:
        try:
            if self._function is None:
                self._function = _imported(path)
            args, kwargs = _arguments(message) if "task" in headers else ((), {})
            given = self._function(dict(headers), args, kwargs)
        except Exception as exc:
            raise PublishError(
                f"Option tenant_from: the function {path} failed, so the message was not sent: {exc!r}"
            ) from exc
        return None if given is None else _checked(given, f"what {path} returns (option tenant_from)")


def _imported(path: str) -> Callable[..., Any]:
    """
    Raises:
        ConfigurationError: there is no such function.
    """
    try:
        found = symbol_by_name(path)
    except Exception as exc:  # any error of the module
        raise ConfigurationError(
            f"Option tenant_from: cannot import {path}: {exc!r}. Correct the option, or put the module on the Python "
            "path of publishers and workers."
        ) from exc
    if not callable(found):
        raise ConfigurationError(f"Option tenant_from: {path} is not a function.")
    function: Callable[..., Any] = found
    return function


def _checked(given: Any, what: str) -> str:
    try:
        return tenant_text(given)
    except ValueError as exc:
        raise PublishError(f"Invalid tenant, so the message was not sent: {what} must be {exc}.") from exc


def _arguments(message: Mapping[str, Any]) -> tuple[Any, Any]:
    """The arguments of a task that is published, as its worker will read them."""
    args, kwargs, _ = _body(message)
    return args, kwargs


def _options_of_chord(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options of the body of a chord, from the arguments of the task that waits for the header."""
    try:
        (_, body, *_), _ = _arguments(message)
        options = body["options"]
    except Exception:  # not as Celery writes it
        return {}
    return options if isinstance(options, Mapping) else {}


def _body(message: Mapping[str, Any]) -> Any:
    content_type = message.get("content-type")
    return decoded(
        message["body"],
        content_type,
        message.get("content-encoding"),
        accept={content_type} if content_type else None,  # this process has just written it
        compression=(message.get("headers") or {}).get(COMPRESSION_HEADER),
    )
