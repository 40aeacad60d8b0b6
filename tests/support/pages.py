"""The project's pages as data: their blocks of code, headings and links."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "DOCS",
    "PAGES",
    "README",
    "REPOSITORY",
    "ROOT",
    "SITE_PAGES",
    "Block",
    "anchor",
    "blocks",
    "headings",
    "links",
    "page_id",
    "prose",
    "target",
]

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
#: The pages of the site. README.md is what the repository and the package index show.
SITE_PAGES = [page for page in PAGES if page != README]
#: Where the repository is; README.md links to its pages by their whole address, because the package index shows it too.
REPOSITORY = re.findall(r"^  repository: (?:&\w+ )?(https://\S+)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)[0]

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
    """What a page links to and shows, in Markdown's own notation."""
    return _LINK.findall(prose(page))


def target(page: Path, link: str) -> Path | None:
    """The file of the repository that a link on a page leads to; None for a link to elsewhere."""
    path = link.partition("#")[0]
    for start in (f"{REPOSITORY}/blob/main/", f"{REPOSITORY.replace('github.com', 'raw.githubusercontent.com')}/main/"):
        if path.startswith(start):
            return ROOT / path.removeprefix(start)
    if "://" in path or path.startswith("mailto:"):
        return None
    return (page.parent / path).resolve() if path else page
