"""Every block of code in the pages is of a kind that some test runs or checks; here, all but the Python.

Python runs in ``tests/processes/test_docs_code.py``. Of a shell block each command is looked at: its program is one
that we know, and what it is asked to do exists: Celery's commands and options, make's targets, AWS's operations.
"""

import configparser
import json
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import botocore.session
import click
import pytest
import yaml
from botocore.validate import ParamValidator
from celery.bin.celery import celery
from support.pages import DOCS, PAGES, ROOT, Block, blocks, page_id

from kombu_hake import health
from kombu_hake.cli.main import hake
from kombu_hake.config import load, split_url

CHECKED = {"python", "json", "sh", "mermaid", "yaml", "ini"}
#: Blocks of these languages are what a program prints, or what is no program at all.
PRINTED = {"", "text"}
#: Where no test can run a program, its name is all there is to check.
NAMES_ONLY = {"cd", "test", "git", "python3", "source", "django-admin", "redis-cli", "rabbitmqctl"}


def commands(block: Block) -> Iterator[list[str]]:
    """The commands of a shell block as words, without variables set for them, redirections and what follows a pipe."""
    for line in block.code.replace("\\\n", " ").splitlines():
        for command in re.split(r"\s(?:&&|\|\||\||;)\s", line):
            words = [word for word in shlex.split(command, comments=True) if word not in ("&", "export")]
            while words and re.match(r"[A-Z_]+=", words[0]):
                words.pop(0)
            if words:
                yield words


def check_celery(words: list[str]) -> None:
    command: click.Command = celery
    left = words[1:]
    context = click.Context(celery)
    while isinstance(command, click.Group):
        _, left, _ = command.make_parser(context).parse_args(args=left)
        name, *left = left
        found = hake if command is celery and name == "hake" else command.get_command(context, name)
        assert found is not None, f"celery has no command {name}"
        command, context = found, click.Context(found, parent=context)
    command.make_parser(context).parse_args(args=left)


def check_make(words: list[str]) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {word for word in words[1:] if "=" not in word} <= set(targets)


def check_python(words: list[str]) -> None:
    if words[1] == "-m":
        assert find_spec(words[2]) is not None, f"there is no module {words[2]}"
    elif words[1] == "-c":
        compile(words[2], "page", "exec")
    else:
        assert words[1].endswith(".py")


def check_pip(words: list[str]) -> None:
    assert words[1] == "install"


def check_aws(words: list[str]) -> None:
    """The AWS command line is made from botocore's models; so is this."""
    service, operation, *options = [word for word in words[1:] if not word.startswith("--output")]
    model = botocore.session.get_session().get_service_model({"s3api": "s3"}.get(service, service))
    names = {re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower(): name for name in model.operation_names}
    assert operation in names, f"{service} has no operation {operation}"
    members = model.operation_model(names[operation]).input_shape.members
    known = {"--" + re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower() for name in members}
    given = {option for option in options if option.startswith("--")} - {"--query", "--region", "--profile"}
    assert given <= known, f"{service} {operation} has no {given - known}"


CHECKS: Mapping[str, Callable[[list[str]], None]] = {
    "celery": check_celery,
    "make": check_make,
    "python": check_python,
    "pip": check_pip,
    "aws": check_aws,
}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_block_is_of_a_kind_that_is_checked(page: Path) -> None:
    assert {str(block): block.language for block in blocks(page) if block.language not in CHECKED | PRINTED} == {}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_code_stands_in_fences(page: Path) -> None:
    """Other ways to write code are not found by the tests that run it."""
    text = re.sub(r"^( *)```.*?^\1```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert re.findall(r"(?<=\n\n)    \S.*", text) == []
    assert [str(block) for block in blocks(page, "python") if block.is_indented] == []


def test_python_that_cannot_run_is_tested_elsewhere() -> None:
    assert [block.page.name for block in blocks(PAGES, "python") if block.mark.startswith("not run")] == [
        "from-redis-rabbitmq.md",  # tests/processes/test_docs_moving.py
    ]


@pytest.mark.parametrize("block", blocks(PAGES, "json"), ids=str)
def test_blocks_of_json_are_json(block: Block) -> None:
    json.loads(block.code)


def documents(page: str, language: str) -> list[Any]:
    parse = {"json": json.loads, "yaml": lambda text: list(yaml.safe_load_all(text))}[language]
    return [parse(block.code) for block in blocks(DOCS / page, language)]


def check_worker(command: list[str], url: str, probes: list[list[str]]) -> None:
    """A worker is started as Celery can, and what probes read is what it writes."""
    check_celery(command)
    path = split_url(url).query["health_file"]
    assert load(split_url(url), {}, {}).health_file == path
    for probe in probes:
        assert probe == ["python", "-m", health.__name__, path]


def test_the_manifests_of_kubernetes_probe_the_file_that_the_worker_writes() -> None:
    [[deployment]] = documents("production.md", "yaml")
    spec = deployment["spec"]["template"]["spec"]
    [container] = spec["containers"]
    [variable] = container["env"]
    probes = [container[name]["exec"]["command"] for name in ("startupProbe", "livenessProbe")]
    check_worker(container["command"], variable["value"], probes)
    assert probes[0][-1].startswith(container["volumeMounts"][0]["mountPath"])
    assert container["volumeMounts"][0]["name"] == spec["volumes"][0]["name"]
    [[authentication, scaled]] = documents("monitoring.md", "yaml")
    assert scaled["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    [trigger] = scaled["spec"]["triggers"]
    assert trigger["authenticationRef"]["name"] == authentication["metadata"]["name"]
    assert all(isinstance(value, str) for value in trigger["metadata"].values())  # as KEDA wants them


def test_what_is_sent_to_ecs_is_what_aws_takes() -> None:
    [definition] = documents("production.md", "json")
    [policy] = documents("monitoring.md", "json")
    for service, operation, member, document in (
        ("ecs", "RegisterTaskDefinition", None, definition),
        ("application-autoscaling", "PutScalingPolicy", "TargetTrackingScalingPolicyConfiguration", policy),
    ):
        shape = botocore.session.get_session().get_service_model(service).operation_model(operation).input_shape
        report = ParamValidator().validate(document, shape if member is None else shape.members[member])
        assert not report.has_errors(), report.generate_report()
    [container] = definition["containerDefinitions"]
    kind, *probe = container["healthCheck"]["command"]
    assert kind == "CMD"
    check_worker(container["command"], container["environment"][0]["value"], [probe])


def test_the_units_of_systemd_probe_the_file_that_the_worker_writes() -> None:
    units = {}
    for block in blocks(DOCS / "production.md", "ini"):
        parser = configparser.ConfigParser(interpolation=None, delimiters=("=",))
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        parser.read_string(block.code)
        units[block.code.split()[1].rpartition("/")[2]] = parser
    worker, probe = units["email-worker.service"]["Service"], units["email-worker-health.service"]["Service"]
    folder, command = "/srv/shop/.venv/bin/", worker["ExecStart"].split()
    shell, _, script = probe["ExecStart"].partition(" -c ")
    words = shlex.split(shlex.split(script)[0])
    assert shell == "/bin/sh"
    assert worker["Environment"].partition("health_file=")[2].startswith(f"/run/{worker['RuntimeDirectory']}/")
    check_worker(
        [command[0].removeprefix(folder), *command[1:]],
        worker["Environment"].partition("=")[2],
        [[words[0].removeprefix(folder), *words[1:4]]],
    )
    assert words[-1] == "email-worker"
    assert "email-worker-health.timer" in units


@pytest.mark.parametrize("block", blocks(PAGES, "yaml"), ids=str)
def test_blocks_of_yaml_are_yaml(block: Block) -> None:
    assert all(document["kind"] for document in yaml.safe_load_all(block.code))


@pytest.mark.parametrize("block", blocks(PAGES, "mermaid"), ids=str)
def test_drawings_are_flowcharts_whose_arrows_lead_to_what_is_drawn(block: Block) -> None:
    first, *lines = block.code.splitlines()
    assert first.startswith("flowchart ")
    drawn = set(re.findall(r"^ *(\w+)[\[({]", block.code, re.MULTILINE))
    arrows = [re.fullmatch(r"(\w+) (?:-->|-\.->|==>)(?:\|[^|]*\|)? (\w+)", line.strip()) for line in lines]
    assert {name for arrow in arrows if arrow for name in arrow.groups()} == drawn


@pytest.mark.filterwarnings("ignore:The parameter -d is used more than once:UserWarning")  # Flower's
@pytest.mark.parametrize("block", blocks(PAGES, "sh"), ids=str)
def test_commands_exist(block: Block) -> None:
    parsed = subprocess.run(["bash", "-n"], input=block.code, capture_output=True, text=True, check=False)
    assert parsed.returncode == 0, parsed.stderr
    for words in commands(block):
        program = words[0].rpartition("/")[2]
        if program not in NAMES_ONLY:
            assert program in CHECKS, f"{words[0]}: nothing checks this program"
            CHECKS[program](words)
