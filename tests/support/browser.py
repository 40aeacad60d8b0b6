"""A real browser: Debian's Chromium, driven by Playwright, that reaches nothing but this machine.

``HAKE_CHROMIUM`` names the executable where it is not on the path. As long as a browser is open, Playwright's event
loop counts as running in the thread that opened it: nothing else may run one there.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page, Request

WIDTH, HEIGHT = 1280, 800
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1 , EXCLUDE localhost",
)  # fmt: skip
_NAMES = ("chromium", "chromium-browser", "google-chrome")


class BrowserMissing(Exception):
    """There is no Chromium, or no Playwright; the text says how to get it."""


class Browser:
    """One browser with a profile of its own.

    Attributes:
        outside: Addresses beyond this machine that pages have asked for; they got nothing.
        faults: What pages wrote to the console as errors, and exceptions that their scripts did not catch.
    """

    def __init__(self, context: "BrowserContext") -> None:
        self.outside: list[str] = []
        self.faults: list[str] = []
        self._context = context
        context.on("request", self._note_request)
        context.on("page", self._watch)

    def page(self) -> "Page":
        """A new tab."""
        return self._context.new_page()

    def _note_request(self, request: "Request") -> None:
        if urlsplit(request.url).hostname not in {"127.0.0.1", "localhost", None}:
            self.outside.append(request.url)

    def _watch(self, page: "Page") -> None:
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", lambda said: self.faults.append(said.text) if said.type == "error" else None)


@contextmanager
def open_browser(profile: Path) -> Iterator[Browser]:
    """A browser for as long as the context lasts.

    Args:
        profile: An empty folder for its user data.
    Raises:
        BrowserMissing: it is not installed.
    """
    executable = _chromium()
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as exc:
        raise BrowserMissing("Playwright is missing: pip install playwright (its own browsers are not needed)") from exc
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            profile,
            executable_path=executable,
            headless=True,
            args=list(FLAGS),
            viewport={"width": WIDTH, "height": HEIGHT},
        )
        try:
            yield Browser(context)
        finally:
            context.close()


def _chromium() -> str:
    wanted = os.environ.get("HAKE_CHROMIUM")
    for name in [wanted] if wanted else _NAMES:
        found = shutil.which(name)
        if found is not None:
            return found
    raise BrowserMissing(f"no Chromium ({wanted or ', '.join(_NAMES)}): apt-get install chromium, or set HAKE_CHROMIUM")
