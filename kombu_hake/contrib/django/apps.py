"""The Django app: registers the system checks."""

from __future__ import annotations

from importlib import import_module

import django
from django.apps import AppConfig
from django.core import checks

from kombu_hake.contrib.django.checks import check_settings

__all__ = ["HakeConfig"]


class HakeConfig(AppConfig):  # type: ignore[misc]
    """``"kombu_hake.contrib.django"`` in ``INSTALLED_APPS``. It has no models."""

    name = "kombu_hake.contrib.django"
    label = "kombu_hake"
    verbose_name = "kombu_hake"

    def ready(self) -> None:
        """Register the checks."""
        checks.register(check_settings)
        if django.VERSION >= (6,):
            import_module("django.tasks")  # registers Django's check of TASKS, which calls that of each backend
