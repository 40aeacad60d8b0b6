"""What this package relies on in Celery is there in the Celery that is installed, and named in one list."""

import importlib
import inspect
from functools import reduce
from typing import Any

import celery
import pytest
from celery import signals
from celery.worker import state  # noqa: F401 - as in a worker

from kombu_hake.worker import install
from kombu_hake.worker.internals import INTERNALS, TRIED, Internal

VERSION = tuple(map(int, celery.__version__.split(".")[:2]))
HERE = [item for item in INTERNALS if tuple(map(int, item.since.split("."))) <= VERSION]


def found(item: Internal) -> Any:
    module, _, path = item.where.partition(":")
    return reduce(getattr, path.split("."), importlib.import_module(module))


def test_the_installed_celery_is_one_that_the_list_was_tried_on() -> None:
    assert ".".join(map(str, VERSION)) in TRIED


@pytest.mark.parametrize("item", HERE, ids=lambda item: item.where)
def test_celery_still_has_what_is_relied_on(item: Internal) -> None:
    thing = found(item)
    if item.parameters is not None:
        assert tuple(inspect.signature(thing).parameters)[: len(item.parameters)] == item.parameters
    source = inspect.getsource(thing) if item.contains else ""
    assert [text for text in item.contains if text not in source] == []


@pytest.mark.parametrize("item", INTERNALS, ids=lambda item: item.where)
def test_what_relies_on_celery_is_a_module_of_the_package(item: Internal) -> None:
    for name in item.used_by:
        importlib.import_module(f"kombu_hake.{name}")


def test_the_hooks_are_installed_once_however_many_connections_there_are() -> None:
    install()
    before = len(signals.worker_ready.receivers), len(signals.task_received.receivers)
    install()
    assert (len(signals.worker_ready.receivers), len(signals.task_received.receivers)) == before


def test_a_signal_without_a_consumer_is_ignored() -> None:
    install()
    signals.worker_ready.send(sender=None)
    signals.worker_ready.send(sender=object())
