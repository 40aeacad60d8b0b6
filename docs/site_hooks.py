"""What MkDocs calls while it builds the site.

Some pages from outside ``docs/`` join the site, and links to them follow; links to other files of the repository lead
to the repository. Pages with a Mermaid diagram load the script that
draws it, from the site itself: the theme would load it from another host.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
#: Path in the repository: path in the site.
GUESTS = {
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "SECURITY.md": "reporting.md",  # docs/security.md is another page, and some file systems see no difference
    "benchmarks/README.md": "benchmarks.md",
}
#: @mermaid-js/tiny 11.17.2 (MIT), which draws flowcharts and sequence diagrams.
MERMAID = "assets/mermaid.tiny.js"
_DRAWING = re.compile(r'(<pre class="mermaid">.*?</pre>)', re.DOTALL)
_LINK = re.compile(r"(\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")


def on_files(files: Files, config: Any) -> Files:
    for path, place in GUESTS.items():
        files.append(File.generated(config, place, content=(ROOT / path).read_text()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    home = next((path for path, place in GUESTS.items() if place == page.file.src_uri), f"docs/{page.file.src_uri}")
    start = posixpath.dirname(page.file.src_uri)

    def follow(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(home), link[2]))
        if not (ROOT / target).is_file():
            return link[0]
        if target not in GUESTS and not target.startswith("docs/"):
            return f"{link[1]}{config.extra['repository']}/blob/main/{target}{link[3]}"
        place = GUESTS.get(target, target.removeprefix("docs/"))
        return f"{link[1]}{posixpath.relpath(place, start or '.')}{link[3]}"

    return _LINK.sub(follow, markdown)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    output, count = _DRAWING.subn(r'<div class="drawing">\1</div>', output)
    if not count:
        return output
    script = posixpath.relpath(MERMAID, posixpath.dirname(page.file.dest_uri) or ".")
    head, found, rest = output.rpartition('<script src="')  # the theme's own, which looks for what this one defines
    return f'{head}<script src="{script}"></script>\n{found}{rest}'
