"""What the package says: the texts of its warnings and errors, read from its source."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import kombu_hake
from kombu_hake import exceptions

__all__ = ["PACKAGE", "Text", "error_texts", "log_texts"]

PACKAGE = Path(kombu_hake.__file__).parent
_LEVELS = {"warning", "error", "exception", "critical"}
_HEAD_CHARS = 90
#: Where a list of faults is collected, and what is raised with it.
_FAULTS_OF = {"settings": "ConfigurationError", "clients": "ConfigurationError"}


class Text(NamedTuple):
    """``words`` has ``…`` for what is filled in. ``error`` is a class's name, ``""`` for what is logged."""

    module: str
    words: str
    error: str = ""

    @property
    def head(self) -> str:
        """The start of it, up to the end of a word."""
        if len(self.words) <= _HEAD_CHARS:
            return self.words
        return self.words[:_HEAD_CHARS].rpartition(" ")[0].rstrip(",;:") + " …"

    def __str__(self) -> str:
        return f"{self.module}: {self.words[:40]}"


def log_texts() -> list[Text]:
    """What is logged at WARNING or above with a text of its own."""
    found = []
    for module, _, call in _calls():
        if isinstance(call.func, ast.Attribute) and call.func.attr in _LEVELS and call.args:
            words = _words(call.args[0], {})
            if words and words.strip("…"):
                found.append(Text(module, words))
    return found


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
