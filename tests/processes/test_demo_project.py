"""The shop without the show: what a reader copies is a working project on its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.demo import DEMO_PROJECT


def manage(project: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """``manage.py`` as in a fresh clone: without variables of ours, and with the package on the path."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SHOP_", "DJANGO_"))}
    path = os.pathsep.join(filter(None, [str(DEMO_PROJECT.parent), kept.get("PYTHONPATH", "")]))
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=project, env=kept | {"PYTHONPATH": path} | environment,
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the project without the folder of the show."""
    ignored = shutil.ignore_patterns("show", "__pycache__", "*.sqlite3*")
    return Path(shutil.copytree(DEMO_PROJECT, tmp_path / "copied", ignore=ignored))


def test_its_own_tests_pass_without_the_show(copied: Path) -> None:
    done = manage(copied, "test")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.splitlines()[-2] == "OK", done.stderr  # and none is skipped


def test_its_migrations_are_complete(copied: Path) -> None:
    done = manage(copied, "makemigrations", "--check", "--dry-run", SHOP_DEBUG="1")
    assert done.returncode == 0, done.stdout + done.stderr


def test_those_of_the_show_are_complete() -> None:
    done = manage(
        DEMO_PROJECT, "makemigrations", "--check", "--dry-run", SHOP_DEBUG="1", DJANGO_SETTINGS_MODULE="show.settings"
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_django_finds_no_fault_in_its_settings(copied: Path) -> None:
    done = manage(copied, "check", SHOP_DEBUG="1")
    assert done.stdout == "System check identified no issues (0 silenced).\n", done.stderr


def test_a_secret_key_is_required_in_production(copied: Path) -> None:
    assert "Set SHOP_SECRET_KEY; on a developer's machine, SHOP_DEBUG=1 instead." in manage(copied, "check").stderr


def test_a_wrong_option_of_the_broker_is_found_by_djangos_checks(copied: Path) -> None:
    done = manage(copied, "check", SHOP_DEBUG="1", SHOP_BROKER_URL="hake:///live?visibility_timeout=0")
    assert done.returncode == 1
    assert "(kombu_hake.E003) Option in the URL visibility_timeout: '0' must be a" in done.stderr


@pytest.mark.parametrize("module", ["shop.asgi", "shop.wsgi"])
def test_servers_find_the_application(copied: Path, module: str) -> None:
    code = f"import sys, importlib; sys.path.insert(0, '.'); print(importlib.import_module({module!r}).application)"
    done = manage(copied, "shell", "--command", code, SHOP_DEBUG="1")
    assert "Handler object" in done.stdout, done.stderr


def test_the_settings_list_each_variable_that_they_read() -> None:
    text = (DEMO_PROJECT / "shop" / "settings.py").read_text()
    head, _, code = text.partition('"""\n\nimport os')
    named = {line.split("`")[1] for line in head.splitlines() if line.startswith("| `")}
    read = {part.partition('"')[0] for part in code.split('environ.get("')[1:]}
    assert named == read
