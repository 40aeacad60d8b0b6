"""Django's system checks of Celery's settings, and importing the package with each Django or none."""

import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, _state

pytest.importorskip("django")

from support.django_project import celery_app, configure
from support.pages import DOCS
from support.texts import PACKAGE

configure()

from django.core import checks

from kombu_hake.contrib.django.checks import check_settings


def found(**conf: Any) -> list[tuple[str, str]]:
    """Id and text of each message for a Celery app with these settings."""
    with celery_app(broker=None, backend=None, **conf):
        messages = check_settings()
    assert [message for message in messages if not message.hint] == []
    return [(str(message.id), str(message.msg)) for message in messages]


@pytest.fixture
def no_app(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(_state, "default_app", None)
    monkeypatch.setattr(_state, "_tls", _state._TLS())
    return


def test_sound_settings_have_no_message() -> None:
    assert found(broker_url="hake:///live?region=eu-west-1", broker_transport_options={"visibility_timeout": 60}) == []


def test_a_project_without_a_celery_app_is_an_error(no_app: None) -> None:
    [message] = check_settings()
    assert (message.id, message.level) == ("kombu_hake.E001", checks.ERROR)
    assert "celery.py" in str(message.hint)


def test_a_project_without_a_broker_is_an_error() -> None:
    assert found() == [("kombu_hake.E002", "CELERY_BROKER_URL is not set.")]


def test_another_broker_is_a_warning_without_its_password() -> None:
    [(number, text)] = found(broker_url="redis://me:hidden@host/1")
    assert number == "kombu_hake.W001"
    assert "is not hake://" in text
    assert "hidden" not in text


def test_a_wrong_url_is_an_error_without_its_secret() -> None:
    [(number, text)] = found(broker_url="hake://key:hidden@host:99999")
    assert number == "kombu_hake.E002"
    assert "The port in 'hake://key:**@host:99999' must be a number" in text
    assert [number for number, _ in found(broker_url="live")] == ["kombu_hake.E002"]


def test_each_wrong_option_is_an_error_of_its_own() -> None:
    options = {"visibility_timeout": 0, "regoin": "eu-west-1"}
    messages = found(broker_url="hake://?unroutable=maybe", broker_transport_options=options)
    assert [number for number, _ in messages] == ["kombu_hake.E003"] * 3
    texts = "\n".join(text for _, text in messages)
    assert "visibility_timeout: 0 must be" in texts
    assert "did you mean 'region'?" in texts
    assert "unroutable: 'maybe' must be one of" in texts


def test_each_url_is_checked() -> None:
    assert len(found(broker_url="hake://?a=1;hake://?b=1")) == 2
    assert len(found(broker_url=["hake://?a=1", "hake://?a=1"])) == 1
    assert len(found(broker_url="hake://", broker_read_url="hake://?a=1")) == 1


def test_rejecting_lost_tasks_needs_late_acks() -> None:
    url = {"broker_url": "hake://", "task_reject_on_worker_lost": True}
    assert [number for number, _ in found(**url)] == ["kombu_hake.W002"]
    assert found(**url, task_acks_late=True) == []


def test_results_by_rpc_need_temporary_queues() -> None:
    [(number, text)] = found(broker_url="hake://?topology=verify", result_backend="rpc://")
    assert number == "kombu_hake.E004"
    assert "topology=verify" in text
    assert found(broker_url="hake://", result_backend="rpc://") == []


def test_the_app_registers_the_checks() -> None:
    assert check_settings in checks.registry.registry.get_checks()


def test_the_page_lists_each_check_of_the_code() -> None:
    source = "".join(path.read_text() for path in (PACKAGE / "contrib" / "django").glob("*.py"))
    listed = re.findall(r"^\| `kombu_hake\.(\w+)` \|", (DOCS / "django.md").read_text(), re.MULTILINE)
    assert set(listed) == set(re.findall(r'identity\("(\w+)"\)', source))


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_loads_neither_django_nor_celery() -> None:
    # kombu imports a helper of Django's, wherever there is a Django.
    found = "{'django.apps', 'django.conf', 'django.tasks', 'celery'} & set(sys.modules)"
    assert run(f"import kombu_hake.contrib.django, sys; print({found})") == "set()\n"


def test_without_django_only_the_use_of_the_backend_fails() -> None:
    code = """
import sys
sys.modules["django"] = None
import kombu_hake.contrib.django as contrib
try:
    contrib.CeleryBackend
except ImportError as exc:
    print(exc.name)
"""
    assert run(code) == "django\n"


@pytest.mark.parametrize("version", [(5, 2, 19, "final", 0), (4, 2, 0, "final", 0)])
def test_before_django_6_the_backend_names_the_version_it_needs(
    monkeypatch: pytest.MonkeyPatch, version: tuple[Any, ...]
) -> None:
    monkeypatch.setattr("django.VERSION", version)
    with pytest.raises(ImportError, match=r"CeleryBackend needs Django 6\.0 or later, .* this is Django \d"):
        from kombu_hake.contrib.django import CeleryBackend  # noqa: F401


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    import kombu_hake.contrib.django as contrib

    with pytest.raises(AttributeError, match="Backend"):
        contrib.Backend  # noqa: B018


def test_an_app_that_is_not_current_is_not_checked() -> None:
    with celery_app(broker="hake://"):
        Celery("other", broker="hake://?a=1", set_as_current=False)
        assert check_settings() == []
