"""``make screenshots``: the pictures of the demo in docs/images, from a show that is played for them."""

import re
import signal
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import expect
from support.browser import open_browser
from support.demo import Demo
from support.shop_page import ShopPage

IMAGES = Path(__file__).parents[1] / "docs" / "images"
SIZE = {"width": 1280, "height": 820}
PHONE = {"width": 360, "height": 740}
MOST_BYTES = 200_000


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        show = Demo(Path(folder))
        show.start("--pace", "1.6")
        try:
            address = re.findall(r"http://\S+", show.read_until("the shop is open"))[-1]
            with open_browser(Path(folder) / "profile") as browser:
                shop = ShopPage(browser.page(), address)
                play(shop)
                take(shop)
        finally:
            show.process.send_signal(signal.SIGTERM)
            show.finish()


def play(shop: ShopPage) -> None:
    """Until all that the page can show is on it."""
    shop.press("Place 100 orders")
    shop.press("Start worker of fraud")
    shop.becomes("analytics", 40, "done")
    shop.switch("analytics").click()
    shop.becomes("analytics", 55, "failed")
    shop.switch("analytics").click()
    shop.has_workers("fraud", "fraud-1")
    for _ in range(10):
        shop.place()
    shop.press("Kill in mid-task of inventory")
    expect(shop.lane("inventory").locator("[data-state=lost]").first).to_be_visible()
    for _ in range(4):
        shop.place()


def take(shop: ShopPage) -> None:
    IMAGES.mkdir(exist_ok=True)
    page = shop.page
    page.emulate_media(reduced_motion="reduce")
    for name, scheme, size in (("demo", "light", SIZE), ("demo-dark", "dark", SIZE), ("demo-phone", "light", PHONE)):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size(size)
        page.evaluate("() => { scrollTo(0, 0); document.querySelector('[role=status]').hidden = true; }")
        if size is PHONE:
            page.get_by_role("article", name="email").evaluate("(lane) => scrollTo(0, lane.offsetTop - 60)")
        path = IMAGES / f"{name}.png"
        page.screenshot(path=path)
        if path.stat().st_size > MOST_BYTES:
            sys.exit(f"{path} has {path.stat().st_size} bytes; {MOST_BYTES} are the most")


if __name__ == "__main__":
    main()
