"""The project's pages as data: their blocks of code, headings and links."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

__all__ = ["DOCS", "PAGES", "README", "ROOT", "Block", "anchor", "blocks", "headings", "links", "page_id", "prose"]

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = [
    README,
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    ROOT / "benchmarks" / "README.md",
    *sorted(DOCS.rglob("*.md")),
]

_FENCED = re.compile(
    r"^(?:<!-- (?P<mark>[\w -]+?(?:: [^>]*?)?) -->\n)?"
    r"^(?P<indent> *)```(?P<language>\w*)\n(?P<code>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


class Block(NamedTuple):
    """A fenced block. ``mark`` is the comment on the line before, as in ``<!-- run: worker -->``; ``""`` for none."""

    page: Path
    line: int
    language: str
    code: str
    mark: str
    is_indented: bool

    def __str__(self) -> str:
        return f"{page_id(self.page)}:{self.line}"


def page_id(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(pages: Path | Iterable[Path], *languages: str) -> list[Block]:
    """The blocks of these languages (of all, when none is named), in order; an indent, as in a list, is taken off."""
    found = []
    for page in [pages] if isinstance(pages, Path) else pages:
        text = page.read_text()
        for match in _FENCED.finditer(text):
            code = re.sub(f"^{match['indent']}", "", match["code"], flags=re.MULTILINE)
            line = text.count("\n", 0, match.start("code")) + 1
            found.append(Block(page, line, match["language"], code, match["mark"] or "", bool(match["indent"])))
    return [block for block in found if not languages or block.language in languages]


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return _FENCED.sub("", page.read_text())


def headings(page: Path) -> list[str]:
    return re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)


def anchor(heading: str) -> str:
    """What GitHub, and the site, make of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def links(page: Path) -> list[str]:
    return _LINK.findall(prose(page))
