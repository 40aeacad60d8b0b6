"""What the package says: the texts of its log lines and errors, read from its source."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import kombu_hake
from kombu_hake import exceptions

__all__ = ["PACKAGE", "LogLine", "Text", "error_texts", "log_lines"]

PACKAGE = Path(kombu_hake.__file__).parent
#: Methods of a logger. ``log`` counts as a warning: its level is known only when it runs.
_WARNINGS = {"warning", "error", "exception", "critical", "log"}
_OTHERS = {"debug", "info"}
_HEAD_CHARS = 90
#: Where a list of faults is collected, and what is raised with it.
_FAULTS_OF = {"settings": "ConfigurationError", "clients": "ConfigurationError"}


class Text(NamedTuple):
    """What an error says: ``words`` has ``…`` for what is filled in, ``error`` is the name of its class."""

    module: str
    words: str
    error: str

    @property
    def head(self) -> str:
        """The start of it, up to the end of a word."""
        if len(self.words) <= _HEAD_CHARS:
            return self.words
        return self.words[:_HEAD_CHARS].rpartition(" ")[0].rstrip(",;:") + " …"

    def __str__(self) -> str:
        return f"{self.module}: {self.words[:40]}"


class LogLine(NamedTuple):
    """A call of a logger. ``words`` has ``…`` for what is filled in, and not the id; both may be ``""``."""

    place: str
    is_warning: bool
    id: str
    words: str


def log_lines() -> list[LogLine]:
    """Everything that the package logs."""
    return [_log_line(path, node, called) for path, node, called in _loggings()]


def _log_line(path: Path, method: ast.Attribute, call: ast.Call | None) -> LogLine:
    args = call.args if call is not None else []  # a method that is handed on has no text to read
    if method.attr == "log":
        args = args[1:]
    found = re.match(r"(HAKE\d{3} )?(.*)", _words(args[0], {}) if args else "", re.DOTALL)
    assert found is not None
    place = f"{path.relative_to(PACKAGE)}:{method.lineno}"
    return LogLine(place, method.attr in _WARNINGS, (found[1] or "").strip(), found[2])


def _loggings() -> Iterator[tuple[Path, ast.Attribute, ast.Call | None]]:
    """Each use of a method of ``logger`` with the call of it, if it is called there."""
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Attribute)
                and node.attr in _WARNINGS | _OTHERS
                and isinstance(node.value, ast.Name)
                and node.value.id == "logger"
            ):
                yield path, node, calls.get(id(node))


def error_texts() -> list[Text]:
    """What errors of ours say, sorted; without those that only pass on what somebody else says."""
    found = set()
    for module, constants, call in _calls():
        name = call.func.id if isinstance(call.func, ast.Name) else ""
        if isinstance(call.func, ast.Attribute) and ast.unparse(call.func) == "faults.append":
            name = _FAULTS_OF.get(module, "")
        if name in exceptions.__all__ and call.args:
            words = _words(call.args[0], constants)
            if words and len(re.sub(r"[…\W]+", "", words)) > 8:
                found.add(Text(module, words, name))
    return sorted(found, key=lambda text: (text.words.lstrip("…' ").lower(), text.error, text.module))


def _calls() -> Iterator[tuple[str, dict[str, str], ast.Call]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        constants = {
            target.id: node.value.value
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name) and isinstance(node.value.value, str)
        }
        for found in ast.walk(tree):
            if isinstance(found, ast.Call):
                yield path.stem, constants, found


def _words(node: ast.expr, constants: dict[str, str]) -> str:
    """The literal parts of an expression; ``""`` when it has none."""
    if isinstance(node, ast.Constant):
        text = str(node.value)
    elif isinstance(node, ast.JoinedStr):
        text = "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    elif isinstance(node, ast.BinOp):
        return _words(node.left, constants) + (_words(node.right, constants) if isinstance(node.op, ast.Add) else "")
    elif isinstance(node, ast.Name):
        text = constants.get(node.id, "")
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format":
        return _words(node.func.value, constants)
    else:
        return ""
    return re.sub(r"%(?:\.\d)?[sdrf]|\{\w*\}", "…", text)
