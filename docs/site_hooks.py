"""What MkDocs calls while it builds the site: pages from outside of ``docs/`` join it, and links to them follow.

The pages are written for the repository, where README.md stands beside ``docs/``. In the site it is the first page.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
#: Path in the repository: path in the site.
GUESTS = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "SECURITY.md": "reporting.md",  # docs/security.md is another page, and some file systems see no difference
    "benchmarks/README.md": "benchmarks.md",
}
_LINK = re.compile(r"(\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")


def on_files(files: Files, config: Any) -> Files:
    for path, place in GUESTS.items():
        files.append(File.generated(config, place, content=(ROOT / path).read_text()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    home = next((path for path, place in GUESTS.items() if place == page.file.src_uri), f"docs/{page.file.src_uri}")
    start = posixpath.dirname(page.file.src_uri)

    def follow(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(home), link[2]))
        if not (ROOT / target).is_file():
            return link[0]
        place = GUESTS.get(target, target.removeprefix("docs/"))
        return f"{link[1]}{posixpath.relpath(place, start or '.')}{link[3]}"

    return _LINK.sub(follow, markdown)
