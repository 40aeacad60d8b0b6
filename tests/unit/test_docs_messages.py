"""Whatever the package logs as a warning or an error, and whatever it raises, is in docs/messages.md by its text."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.pages import DOCS
from support.texts import PACKAGE, Text, error_texts, log_texts

PAGE = (DOCS / "messages.md").read_text()
#: Enough of a text to be found by.
HEAD_CHARS = 45


@pytest.mark.parametrize("text", log_texts(), ids=str)
def test_what_is_logged_is_explained(text: Text) -> None:
    assert text.words[:HEAD_CHARS].rstrip() in PAGE


@pytest.mark.parametrize("text", error_texts(), ids=str)
def test_what_is_raised_is_found(text: Text) -> None:
    assert f"`{text.head}`" in PAGE, "run: python tests/unit/test_docs.py"


def explained() -> Iterator[str]:
    """The texts that the page explains."""
    for row in re.findall(r"^\| (`.*?`) \|", PAGE.partition("## Errors by")[0], re.MULTILINE):
        yield from re.findall(r"`([^`]+)`", row)


def test_no_text_is_explained_that_is_gone() -> None:
    said = {text.words for text in log_texts()}
    code = "".join(path.read_text() for path in Path(PACKAGE).glob("*.py"))
    constants = {
        re.sub(r"\s+", " ", node.value) for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
    }  # fmt: skip
    for text in explained():
        start = text[:HEAD_CHARS].rstrip(" …")
        assert any(words.startswith(start) for words in said) or any(
            part.strip() in words for words in constants for part in [max(text.split("…"), key=len)]
        ), text
