"""What CI and a release run exists, and names the same versions everywhere."""

import configparser
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support.pages import ROOT

import kombu_hake

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def tool(name: str) -> ModuleType:
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(ROOT / "tools"))
    return module


compatibility, release_check = tool("compatibility"), tool("release_check")


def read(path: Path) -> Any:
    return pytest.importorskip("yaml").safe_load(path.read_text())


def steps() -> list[dict[str, Any]]:
    return [step for path in WORKFLOWS for job in read(path)["jobs"].values() for step in job["steps"]]


def setup() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config


def minor(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def test_each_step_runs_a_target_or_a_script_that_exists() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = [step["run"].split() for step in steps() if "run" in step]
    assert commands
    for program, name, *_ in ([*command, ""] for command in commands):
        assert (program == "make" and name in targets) or program == "gh" or (ROOT / program).is_file(), program


def test_workflows_may_only_read_unless_a_job_asks_for_more() -> None:
    for path in WORKFLOWS:
        workflow = read(path)
        assert workflow["permissions"] == {"contents": "read"}
        assert "pull_request_target" not in workflow[True]  # YAML's "on"
    assert "secrets." not in "".join(path.read_text() for path in WORKFLOWS)


def test_the_same_pythons_are_promised_tested_and_released() -> None:
    promised = re.findall(r":: (3\.\d+)$", setup()["metadata"]["classifiers"], re.MULTILINE)
    jobs = read(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]
    assert jobs["compatibility"]["strategy"]["matrix"]["python"] == promised
    assert jobs["package"]["strategy"]["matrix"]["python"] == promised
    assert list(release_check.PYTHONS) == promised
    assert sorted({leg.python for leg in compatibility.LEGS}, key=minor) == promised


def test_the_same_series_of_celery_are_tested_everywhere() -> None:
    matrix = read(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]["compatibility"]["strategy"]["matrix"]
    series = sorted({leg.celery for leg in compatibility.LEGS}, key=minor)
    assert matrix["celery"] == series
    assert f"celery>={series[0]},<6" in setup()["options.extras_require"]["celery"]
    assert {"floor", "latest"} == {leg.boto3 for leg in compatibility.LEGS}


def test_the_version_is_one_that_pip_understands() -> None:
    version = pytest.importorskip("packaging.version").Version(kombu_hake.__version__)
    assert str(version) == kombu_hake.__version__


class TestTable:
    PAGE = f"before\n{compatibility.BEGIN}\n{compatibility.END}\nafter\n"
    LEGS = compatibility.LEGS

    def with_row(self, page: str, leg: Any, versions: dict[str, str], result: str) -> str:
        return compatibility.with_row(page, compatibility.Outcome(leg, versions, result, False), "2030-01-02")

    def test_a_python_that_is_missing_is_listed_as_untested(self) -> None:
        leg = self.LEGS[-1]
        outcome = compatibility.run(leg, None, ROOT)
        assert not outcome.is_failed
        row = compatibility.row(outcome, "2030-01-02")
        assert row == f"| {leg.python} | 5.7.x | 5.7.x | latest | untested: no Python {leg.python} on this machine |  |"

    def test_other_rows_stay_as_they_are(self) -> None:
        versions = {"python": "3.10.1", "kombu": "5.4.2", "celery": "5.4.0", "boto3": "1.34.0"}
        first = self.with_row(self.PAGE, self.LEGS[0], versions, "**1 failed**, 9 passed")
        ran = "| 3.10.1 | 5.4.2 | 5.4.0 | 1.34.0 | **1 failed**, 9 passed | 2030-01-02 |"
        assert ran in first
        assert first.count("| untested |") == len(self.LEGS) - 1
        second = self.with_row(first, self.LEGS[1], versions, "9 passed")
        assert ran in second
        assert second.count("| untested |") == len(self.LEGS) - 2

    def test_it_is_written_between_the_markers_only(self) -> None:
        page = self.with_row(self.PAGE, self.LEGS[0], {}, "untested")
        assert page.startswith(f"before\n{compatibility.BEGIN}\n| Python")
        assert page.endswith(f" |\n{compatibility.END}\nafter\n")
        with pytest.raises(ValueError, match="needs the lines"):
            self.with_row("no markers", self.LEGS[0], {}, "untested")


def test_the_selected_tests_exist() -> None:
    assert not [path for path in compatibility.SELECTION if not (ROOT / path).exists()]
