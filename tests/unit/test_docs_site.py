"""The site builds without a complaint, its links lead somewhere, and it loads nothing from elsewhere."""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from support.pages import SITE_PAGES
from support.site import build_site


class Page(HTMLParser):
    """What a page links to, what it loads, and the places in it that can be linked to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.ids: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if given.get("id"):
            self.ids.add(str(given["id"]))
        address = given.get("href") or given.get("src")
        if address and given.get("rel") not in ("canonical", "prev", "next"):
            (self.links if tag == "a" else self.loads).append(address)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_site(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}


def test_every_page_is_in_the_site(pages: dict[Path, Page]) -> None:
    assert len(pages) == len(SITE_PAGES)


def test_links_lead_somewhere(pages: dict[Path, Page], site: Path) -> None:
    broken = []
    for path, page in pages.items():
        for link in page.links + page.loads:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            ids = pages[target].ids if target in pages else set()
            if not target.is_file() or (parts.fragment and unquote(parts.fragment) not in ids):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert broken == []


def test_links_to_elsewhere_are_well_formed(pages: dict[Path, Page]) -> None:
    for page in pages.values():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme and parts.scheme != "mailto":
                assert parts.scheme == "https", link
                assert "." in parts.netloc, link
                assert not set(link) & set(" <>\"'{}|\\^`"), link


def test_nothing_is_loaded_from_elsewhere(pages: dict[Path, Page]) -> None:
    assert [address for page in pages.values() for address in page.loads if "//" in address] == []


def test_pages_with_a_drawing_load_what_draws_it(pages: dict[Path, Page]) -> None:
    drawn = {path for path in pages if '<pre class="mermaid">' in path.read_text()}
    loading = {path for path, page in pages.items() if any("mermaid" in address for address in page.loads)}
    assert drawn == loading != set()


def test_every_page_is_in_the_site_map(pages: dict[Path, Page], site: Path) -> None:
    listed = re.findall(r"<loc>https://[^<]*/([^/<]+)</loc>", (site / "sitemap.xml").read_text())
    assert sorted(listed) == sorted(path.name for path in pages)
