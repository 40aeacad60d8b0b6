"""Packages know each other in one direction and by their faces only; AWS is behind one door; importing is light."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

import kombu_hake

PACKAGE = Path(kombu_hake.__file__).parent
#: A package, or a module of the root, imports from the lines above its own. Those of one line do not know each other.
ORDER = (
    "_version quoting signals",
    "exceptions health",
    "telemetry",
    "amqp",
    "config",
    "aws",
    "topology testing",
    "publish temporary pytest_plugin",
    "receive",
    "lease worker",
    "declaring groups",
    "admin channel",
    "cli contrib transport",
    "plugin",
)
RANK = {name: number for number, names in enumerate(ORDER) for name in names.split()}
AWS_LIBRARIES = {"boto3", "botocore", "urllib3", "s3transfer"}
_NAME_IN_STRING = re.compile(r"kombu_hake(?:\.\w+)+(?::\w+)?\Z", re.ASCII)
#: A name of Celery's, not of a module: the task that an event carries.
_NO_MODULES = {"kombu_hake.event"}


class Import(NamedTuple):
    """One name that a module takes from another one."""

    source: str
    #: Dotted, such as ``kombu_hake.aws`` or ``boto3.session``.
    module: str
    name: str
    is_late: bool


def modules() -> dict[str, Path]:
    """Dotted name of each module, without ``kombu_hake``, to its file; a package is named like its face."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def room(module: str) -> str:
    """The package, or the module of the root, that a module belongs to."""
    return module.removeprefix("kombu_hake").strip(".").split(".")[0]


@cache
def imports() -> tuple[Import, ...]:
    """Everything that is imported, for type checkers, inside functions, and by names in strings included."""
    return tuple(found for module, path in modules().items() for found in _imports_of(module, path))


def _imports_of(module: str, path: Path) -> Iterator[Import]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and isinstance(node.body[0], ast.Expr)
    }
    waiting: list[tuple[ast.AST, bool]] = [(tree, False)]
    while waiting:
        node, is_late = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (Import(module, alias.name, "", is_late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            yield from (Import(module, str(node.module), alias.name, is_late) for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            where, _, name = node.value.partition(":")
            is_other = where != f"kombu_hake.{module}" and node.value not in _NO_MODULES  # a signal's dispatch_uid
            if is_other and _NAME_IN_STRING.match(node.value):
                yield Import(module, where, name, True)
        inside = is_late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        waiting += [(child, inside) for child in ast.iter_child_nodes(node)]


def ours() -> list[Import]:
    """Imports of our own modules; the face of the whole package imports late, from anywhere."""
    return [found for found in imports() if found.module.startswith("kombu_hake.") and found.source]


def target(found: Import) -> str:
    """The module that an import loads: ``from kombu_hake.aws import forksafe`` loads ``aws.forksafe``."""
    dotted = found.module.removeprefix("kombu_hake").strip(".")
    inner = f"{dotted}.{found.name}".strip(".")
    return inner if inner in modules() else dotted


def test_every_package_and_module_of_the_root_has_its_place() -> None:
    assert set(RANK) == {room(module) for module in modules()} - {""}


def test_imports_go_one_way() -> None:
    wrong = [
        found
        for found in ours()
        if room(found.source) != room(found.module) and RANK[room(found.source)] <= RANK[room(found.module)]
    ]
    assert not wrong


def test_packages_meet_at_their_faces() -> None:
    behind = [found for found in ours() if room(found.source) != room(found.module) and found.module.count(".") > 1]
    assert not behind


def test_the_picture_of_the_packages_has_all_imports_between_them() -> None:
    picture = (PACKAGE.parent / "docs" / "design.md").read_text().partition("```mermaid\n")[2].partition("```")[0]
    below = {name: {name} for name in re.findall(r"^  (\w+)\[", picture, re.MULTILINE)}
    assert set(below) == {name for name in RANK if (PACKAGE / name).is_dir()} | {"transport"}
    for _ in below:
        for upper, lower in re.findall(r"(\w+) --> (\w+)", picture):
            below[upper] |= below[lower]
    drawn = {name: name for name in below} | {"channel": "transport", "declaring": "transport"}
    missing = {
        (found.source, found.module)
        for found in ours()
        if {room(found.source), room(found.module)} <= set(drawn)
        and drawn[room(found.module)] not in below[drawn[room(found.source)]]
    }
    assert not missing


@pytest.mark.parametrize("package", [name for name in RANK if (PACKAGE / name).is_dir()])
def test_a_face_exports_what_others_import(package: str) -> None:
    tree = ast.parse((PACKAGE / package / "__init__.py").read_text())
    [exported] = [
        set(ast.literal_eval(node.value))
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    wanted = {
        found.name
        for found in ours()
        if room(found.module) == package != room(found.source) and found.module == f"kombu_hake.{package}"
    }
    assert wanted <= exported
    assert ast.get_docstring(tree)


@pytest.mark.parametrize("package", [name for name in RANK if (PACKAGE / name).is_dir()])
def test_no_circle_inside_a_package(package: str) -> None:
    left = {name: set[str]() for name in modules() if room(name) == package and name != package}
    for found in ours():
        if found.source in left and target(found) in left:
            left[found.source].add(target(found))
    while free := {name for name, needs in left.items() if not needs & set(left)}:
        left = {name: needs for name, needs in left.items() if name not in free}
    assert not left


def test_one_door_leads_to_aws() -> None:
    found = {(item.source, item.is_late) for item in imports() if item.module.split(".")[0] in AWS_LIBRARIES}
    # The embedded AWS of the tests makes clients of its own.
    inside = {"aws.clients", "aws.error_table", "aws.http", "aws.s3", "aws.wire"}
    assert {source for source, _ in found} <= inside | {"testing"}
    assert {source for source, is_late in found if not is_late} == set()
    assert {item.source for item in imports() if item.module.split(".")[0] == "boto3"} == {"aws.clients", "aws.s3"}


def test_celery_is_not_needed_to_publish_and_consume() -> None:
    celery = {item.source for item in imports() if item.module.split(".")[0] == "celery" and not item.is_late}
    assert {room(source) for source in celery} <= {"contrib", "groups", "signals"}


def test_the_demo_imports_documented_names_only() -> None:
    public = {"kombu_hake", "kombu_hake.admin", "kombu_hake.exceptions", "kombu_hake.testing"}
    found = {
        name
        for path in (PACKAGE.parent / "demo_project").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom | ast.Import)
        for name in ([str(node.module)] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
        if name.split(".")[0] == "kombu_hake"
    }
    assert found
    assert found <= public


def loaded_by(statement: str) -> set[str]:
    script = f"{statement}\nimport sys\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    return set(result.stdout.split())


def test_importing_the_package_loads_no_library_for_aws() -> None:
    loaded = loaded_by("import kombu_hake, kombu.serialization")
    assert "kombu_hake" in loaded
    assert not loaded & (AWS_LIBRARIES | {"celery", "moto", "opentelemetry"})


def test_making_a_connection_loads_no_library_for_aws() -> None:
    loaded = loaded_by("import kombu, kombu_hake\nkombu.Connection('hake://').transport")
    assert not loaded & (AWS_LIBRARIES | {"celery", "moto", "opentelemetry"})


def test_telemetry_alone_imports_opentelemetry() -> None:
    found = {item.source for item in imports() if item.module.split(".")[0] == "opentelemetry"}
    assert found == {"telemetry.metrics", "telemetry.names", "telemetry.traces"}
