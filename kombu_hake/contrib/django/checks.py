"""System checks of a project's Celery settings. Nothing is asked of AWS."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from celery import current_app
from django.core import checks

from kombu_hake.config import SCHEME, load, mask_url, revealed, split_url
from kombu_hake.exceptions import ConfigurationError

__all__ = ["check_app", "check_settings", "identity"]


def identity(number: str) -> str:
    """The id of a check, as in ``SILENCED_SYSTEM_CHECKS``."""
    return f"kombu_hake.{number}"


def check_app() -> list[checks.CheckMessage]:
    """That there is a Celery app: without one, Celery makes up an app that has no settings."""
    app = current_app._get_current_object()
    if app.main != "default" or app.set_as_current:
        return []
    return [
        checks.Error(
            "The project has no Celery app.",
            hint="Create it in <project>/celery.py, and import it in <project>/__init__.py: "
            "from <project>.celery import app as celery_app.",
            id=identity("E001"),
        )
    ]


def check_settings(app_configs: Any = None, **kwargs: Any) -> list[checks.CheckMessage]:
    """All checks of Celery's settings; registered by the app config."""
    found = check_app()
    if found:
        return found
    conf = current_app.conf
    urls = _urls(conf)
    if not urls:
        return [
            checks.Error(
                "CELERY_BROKER_URL is not set.", hint=f'Set it, for example to "{SCHEME}://".', id=identity("E002")
            )
        ]
    return [
        *(message for url in urls for message in _check_url(url, conf)),
        *_check_acks(conf),
        *_check_rpc_results(conf, urls),
    ]


def _urls(conf: Any) -> list[str]:
    """Each broker URL that the settings name, once; ``broker_url`` may be a list, or have several with ``;``."""
    found: dict[str, None] = {}
    for setting in (conf.broker_url, conf.broker_read_url, conf.broker_write_url):
        for text in setting.split(";") if isinstance(setting, str) else setting or ():
            found[str(revealed(text)).strip()] = None
    return list(found)


def _check_url(url: str, conf: Any) -> Iterator[checks.CheckMessage]:
    scheme = url.partition("://")[0].lower() if "://" in url else ""
    if scheme and scheme != SCHEME:
        yield checks.Warning(
            f"The broker {mask_url(url)} is not {SCHEME}://, so kombu_hake is not used.",
            hint=f"Set CELERY_BROKER_URL to a {SCHEME}:// URL, or remove this app from INSTALLED_APPS.",
            id=identity("W001"),
        )
        return
    try:
        parts = split_url(url)
    except ConfigurationError as exc:
        for fault in exc.faults:
            yield checks.Error(fault, hint="Correct CELERY_BROKER_URL.", id=identity("E002"))
        return
    try:
        load(parts, _options(conf), os.environ, conf.broker_connection_timeout)
    except ConfigurationError as exc:
        for fault in exc.faults:
            yield checks.Error(
                fault,
                hint="Correct CELERY_BROKER_TRANSPORT_OPTIONS, or the query of CELERY_BROKER_URL.",
                id=identity("E003"),
            )


def _options(conf: Any) -> Mapping[str, Any]:
    options: Mapping[str, Any] = revealed(conf.broker_transport_options or {})
    return options


def _check_acks(conf: Any) -> Iterator[checks.CheckMessage]:
    if conf.task_reject_on_worker_lost and not conf.task_acks_late:
        yield checks.Warning(
            "CELERY_TASK_REJECT_ON_WORKER_LOST has no effect on tasks that are acknowledged before they run.",
            hint="Set CELERY_TASK_ACKS_LATE = True too.",
            id=identity("W002"),
        )


def _check_rpc_results(conf: Any, urls: list[str]) -> Iterator[checks.CheckMessage]:
    if not str(conf.result_backend or "").startswith("rpc"):
        return
    for url in urls:
        try:
            parts = split_url(url)
            topology = load(parts, _options(conf), os.environ).topology
        except ConfigurationError:  # reported by another check
            continue
        if url.lower().startswith(f"{SCHEME}:") and topology != "auto":
            yield checks.Error(
                f"Results of rpc:// need temporary queues, and with topology={topology} there are none.",
                hint="Set another CELERY_RESULT_BACKEND, or topology=auto.",
                id=identity("E004"),
            )
