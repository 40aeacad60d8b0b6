"""``make django`` finds a Python for Django 6, or says that it was not tested."""

import sys
from pathlib import Path

import django6
import pytest


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Python but those that a test makes; nothing is installed or run."""
    monkeypatch.setattr(django6.shutil, "which", lambda name: None)
    monkeypatch.setattr(django6, "PYENV", Path("/nowhere"))
    monkeypatch.delenv("PYTHON6", raising=False)
    monkeypatch.setattr(django6, "install", lambda python: pytest.fail(f"installs with {python}"))


def test_where_no_python_is_new_enough_it_says_that_django_6_was_not_tested(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert django6.main() == 0
    said = capsys.readouterr().out
    assert "Django 6 was NOT TESTED: it needs Python 3.12 or later" in said
    assert "make django PYTHON6=" in said


def test_the_newest_python_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    versions = {"3.9.18": (3, 9, 18), "3.12.1": (3, 12, 1), "3.13.0": (3, 13, 0), "3.14.0": None}
    for name in versions:
        (tmp_path / name / "bin").mkdir(parents=True)
        (tmp_path / name / "bin" / "python").touch()
    monkeypatch.setattr(django6, "PYENV", tmp_path)
    monkeypatch.setattr(django6, "version", lambda python: versions[Path(python).parents[1].name])
    assert django6.find_python(None) == str(tmp_path / "3.13.0" / "bin" / "python")


@pytest.mark.parametrize("named", ["/nowhere/python", "old"])
def test_a_named_python_that_will_not_do_is_an_error(monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    if named == "old":
        monkeypatch.setattr(django6, "version", lambda python: (3, 11, 7))
    with pytest.raises(SystemExit, match=r"is no Python 3\.12 or later"):
        django6.find_python(named)


def test_this_python_has_a_version() -> None:
    assert django6.version(sys.executable) == tuple(sys.version_info[:3])


def test_every_test_that_it_names_exists() -> None:
    assert [pattern for pattern in django6.TESTS if not list((django6.ROOT / "tests").glob(pattern))] == []
