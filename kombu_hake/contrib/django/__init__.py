"""Django: system checks for the broker's settings, and a backend of ``django.tasks``.

In: the project's settings, and tasks that ``@django.tasks.task`` defines. Out: messages of the check framework, and
Celery messages and results. Open ``checks.py`` for what is checked, ``backend.py`` for how a task is enqueued and its
result read, ``running.py`` for what a worker does with it, ``records.py`` for what is stored of it.

``"kombu_hake.contrib.django"`` in ``INSTALLED_APPS`` runs the checks, on Django 5.2 and later. :class:`CeleryBackend`
needs Django 6.0 or later. Importing this package imports neither Django nor Celery.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kombu_hake.contrib.django.backend import CeleryBackend

__all__ = ["CeleryBackend"]


def __getattr__(name: str) -> Any:
    if name != "CeleryBackend":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import django

    if django.VERSION < (6,):
        raise ImportError(
            "kombu_hake.contrib.django.CeleryBackend needs Django 6.0 or later, which has django.tasks; this is Django "
            f"{django.get_version()}. Use Celery's own tasks there."
        )
    from kombu_hake.contrib.django.backend import CeleryBackend

    return CeleryBackend
