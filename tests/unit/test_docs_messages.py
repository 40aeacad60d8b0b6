"""Whatever the package logs as a warning or an error, and whatever it raises, is in docs/messages.md by its text."""

import ast
import re
from collections.abc import Iterator

import pytest
from support.pages import DOCS
from support.texts import PACKAGE, Text, error_texts, log_texts

PAGE = (DOCS / "messages.md").read_text()
#: Enough of a text to be found by.
HEAD_CHARS = 45


@pytest.mark.parametrize("text", log_texts(), ids=str)
def test_what_is_logged_is_explained(text: Text) -> None:
    assert text.words[:HEAD_CHARS].rstrip() in PAGE, "explain it in a row of docs/messages.md"


@pytest.mark.parametrize("text", error_texts(), ids=str)
def test_what_is_raised_is_found(text: Text) -> None:
    assert f"`{text.head}`" in PAGE, "run: python tests/unit/test_docs.py"


def explained() -> Iterator[str]:
    """The texts that the page explains."""
    for row in re.findall(r"^\| (`.*?`) \|", PAGE.partition("## Errors by")[0], re.MULTILINE):
        yield from re.findall(r"`([^`]+)`", row)


def test_no_text_is_explained_that_is_gone() -> None:
    source = ast.parse("".join(path.read_text() for path in PACKAGE.rglob("*.py")))
    said = {node.value for node in ast.walk(source) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    plain = "\n".join(re.sub(r"%(?:\.\d)?[sdrf]", "…", text) for text in said)
    for text in explained():
        parts = [part.strip() for part in text.split("…") if len(part) > 11]
        assert parts, text
        assert any(part in plain for part in parts), text
