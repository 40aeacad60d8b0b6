"""The documentation site in a real browser: it reads on a phone, draws its diagrams, and asks no other host."""

import functools
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

if os.environ.get("CI") != "true":
    pytest.importorskip("playwright", reason="pip install playwright")
    pytest.importorskip("material", reason="pip install mkdocs-material")

from playwright.sync_api import expect
from support.browser import Browser
from support.pages import DOCS, SITE_PAGES, blocks
from support.site import build_site

PHONE = {"width": 360, "height": 740}
DRAWINGS = {page: blocks(page, "mermaid") for page in SITE_PAGES if blocks(page, "mermaid")}


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of the site, and its folder."""
    folder = build_site(tmp_path_factory.mktemp("site"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", folder
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Any]:
    tab = browser.page()
    yield tab
    tab.close()
    assert browser.faults == []
    assert browser.outside == []


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_drawings_are_drawn(page: Any, site: tuple[str, Path], scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    for source, drawings in DRAWINGS.items():
        assert source.parent == DOCS
        page.goto(f"{site[0]}/{source.stem}.html")
        page.evaluate("() => localStorage.clear()")  # the theme remembers the scheme of the first visit
        page.reload()
        expect(page.locator("body")).to_have_attribute(
            "data-md-color-scheme", {"light": "default", "dark": "slate"}[scheme]
        )
        expect(page.locator("div.mermaid")).to_have_count(len(drawings))
        expect(page.locator("pre.mermaid")).to_have_count(0)
        for drawing in page.locator("div.mermaid").all():
            page.wait_for_function("it => it.getBoundingClientRect().height > 50", arg=drawing.element_handle())


@pytest.mark.slow
def test_pages_fit_on_a_phone(page: Any, site: tuple[str, Path]) -> None:
    """Wide tables and code scroll by themselves; the page does not."""
    page.set_viewport_size(PHONE)
    wide = []
    for path in sorted(site[1].glob("*.html")):
        if path.name == "404.html":  # its addresses are those of the published site
            continue
        page.goto(f"{site[0]}/{path.name}", wait_until="load")
        if page.evaluate("() => document.documentElement.scrollWidth > document.documentElement.clientWidth"):
            wide.append(path.name)
    assert wide == []
