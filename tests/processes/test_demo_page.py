"""The demo in a real browser: what the page claims happens, and anybody can use it.

All tests share one show. Each follows the orders that it places itself.
"""

import os
import re
import signal
from collections.abc import Iterator

import pytest

if os.environ.get("CI") != "true":
    pytest.importorskip("playwright", reason="pip install playwright")

from playwright.sync_api import expect
from support.browser import Browser
from support.demo import Demo
from support.shop_page import ShopPage

GROUPS = ("email", "inventory", "analytics")
PHONE = {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a show whose work takes a third of the usual time. Ctrl-C ends it, and leaves nothing."""
    demo = Demo(tmp_path_factory.mktemp("show"))
    demo.start("--pace", "0.35")
    try:
        yield re.findall(r"http://\S+", demo.read_until("the shop is open"))[-1]
        demo.process.send_signal(signal.SIGINT)
        exit_code, output = demo.finish()
        assert exit_code == 0, output
        assert demo.descendants() == []
        assert list(demo.temporary.iterdir()) == []
    finally:
        for pid in demo.descendants():
            os.kill(pid, signal.SIGKILL)
        demo.process.communicate()


@pytest.fixture
def page(browser: Browser, shop: str) -> Iterator[ShopPage]:
    tab = browser.page()
    tab.emulate_media(reduced_motion="reduce")  # it keeps a processor busy otherwise
    yield ShopPage(tab, shop)
    tab.close()
    assert browser.faults == []
    assert browser.outside == []


def test_an_order_reaches_every_group_that_is_there(page: ShopPage) -> None:
    order = page.place()
    for group in GROUPS:
        page.becomes(group, order, "done")
        page.counts(group, "backlog", 0)
        page.counts(group, "in flight", 0)
    assert page.latest(order)[:3] == ["done"] * 3


@pytest.mark.slow
def test_a_group_joins_late_and_retries_alone(page: ShopPage) -> None:
    before = page.place()
    page.becomes("fraud", before, "not for it")
    page.press("Start worker of fraud")
    page.has_workers("fraud", "fraud-1")
    orders = [page.place() for _ in range(4)]
    for order in orders:
        is_unlucky = order % 4 == 0
        page.becomes("fraud", order, ("done, try 3" if order % 12 == 0 else "done, try 2") if is_unlucky else "done")
        for group in GROUPS:
            page.becomes(group, order, "done")
    page.becomes("fraud", before, "not for it")


@pytest.mark.slow
def test_what_a_killed_worker_was_doing_is_done_by_another(page: ShopPage) -> None:
    page.has_workers("inventory", "inventory-1")
    page.press("Kill in mid-task of inventory")
    page.said("A worker of inventory will be killed in the middle of a task.")
    order = page.place()
    page.becomes("inventory", order, "worker lost")
    page.has_workers("inventory", "inventory-2")
    page.becomes("inventory", order, "done, try 2")
    for group in ("email", "analytics"):
        page.becomes(group, order, "done")


@pytest.mark.slow
def test_a_failure_is_a_dead_letter_of_its_group_until_it_is_sent_back(page: ShopPage) -> None:
    page.switch("analytics").click()
    expect(page.switch("analytics")).to_be_checked()
    order = page.place()
    page.becomes("analytics", order, "failed")
    page.counts("analytics", "dead letters", 1)
    for group in ("email", "inventory"):
        page.becomes(group, order, "done")
        page.counts(group, "dead letters", 0)
    page.switch("analytics").click()
    expect(page.switch("analytics")).not_to_be_checked()
    page.press("Requeue dead letters of analytics")
    page.said("1 of 1 dead letters sent back to analytics.")
    page.becomes("analytics", order, "done, try 2")
    page.counts("analytics", "dead letters", 0)
    assert page.latest(order)[:3] == ["done", "done", "done, try 2"]


@pytest.mark.slow
def test_a_stopped_group_catches_up(page: ShopPage) -> None:
    page.press("Stop one of email")
    page.has_workers("email", "no worker")
    order = page.place()
    page.becomes("analytics", order, "done")
    page.becomes("email", order, "queued")
    page.counts("email", "backlog", 1)
    page.page.get_by_role("button", name="Stop one of email").press("Enter")
    page.said("The group has no worker.")
    page.press("Start worker of email")
    page.becomes("email", order, "done")


@pytest.mark.slow
def test_a_hundred_orders_are_done_by_two_workers_of_a_group(page: ShopPage) -> None:
    page.page.get_by_role("button", name="Stop one of fraud").press("Enter")  # if it has been started
    page.has_workers("fraud", "no worker")
    page.press("Start worker of inventory")
    page.press("Place 100 orders")
    page.said("100 orders placed.")
    for group in GROUPS:
        label = re.compile(rf"^{group}: \d+ done(, \d+ not for it)?$")
        expect(page.lane(group).get_by_role("img", name=label)).to_be_visible(timeout=90_000)
    for group in GROUPS:
        page.counts(group, "backlog", 0)
        page.counts(group, "in flight", 0)


def test_an_order_is_placed_with_the_keyboard_alone(page: ShopPage) -> None:
    keyboard = page.page.keyboard
    for _ in range(2):  # the link that skips, then the products
        keyboard.press("Tab")
        assert page.is_outlined()
    keyboard.press("ArrowDown")
    assert page.is_outlined()
    keyboard.press("Tab")
    expect(page.page.get_by_role("button", name="Place the order")).to_be_focused()
    assert page.is_outlined()
    keyboard.press("Enter")
    page.said(re.compile(r"^Order \d+ placed: Storm lantern\.$"))
    expect(page.page.get_by_role("button", name="Place the order")).to_be_focused()


def test_every_control_is_reached_by_tab_and_shows_the_focus(page: ShopPage) -> None:
    controls = page.page.locator("button, input[type=radio]:checked").count()
    for _ in range(1 + controls):
        page.page.keyboard.press("Tab")
        assert page.is_outlined()
    expect(page.switch("fraud")).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_have_contrast(page: ShopPage, scheme: str) -> None:
    page.place()
    page.page.emulate_media(color_scheme=scheme)
    assert page.faint_texts() == []


def test_the_page_fits_a_phone_and_what_is_between(page: ShopPage) -> None:
    page.page.set_viewport_size(PHONE)
    page.becomes("email", page.place(), "done")
    for width in (1280, 1250, 1100, 1000, 700, PHONE["width"]):
        page.page.set_viewport_size({"width": width, "height": PHONE["height"]})
        assert page.page.evaluate("document.documentElement.scrollWidth") == width
    for button in page.page.get_by_role("button").or_(page.page.get_by_role("switch")).all():
        box = button.bounding_box()
        if box is not None:  # fingers need more than a mouse
            assert box["height"] >= 40
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= PHONE["width"]


def test_the_page_tells_its_parts_to_a_screen_reader(page: ShopPage) -> None:
    tab = page.page
    assert tab.locator("html").get_attribute("lang") == "en"
    assert tab.get_by_role("main").count() == tab.get_by_role("heading", level=1).count() == 1
    assert tab.get_by_role("article").count() == 4
    names = [control.get_attribute("aria-label") or control.inner_text() for control in tab.locator("button").all()]
    assert all(names)
    assert len(set(names)) == len(names), "two buttons of one name"
    expect(tab.get_by_role("group", name="What will it be?").get_by_role("radio")).to_have_count(5)
    expect(tab.get_by_role("columnheader")).to_have_text(["Order", *GROUPS, "fraud"])
    live = tab.locator("[aria-live]:not([aria-live=off]), [role=status], [role=alert], [role=log]")
    assert live.count() == 1, "one voice is enough"
    ids = tab.evaluate("[...document.querySelectorAll('[id]')].map((each) => each.id)")
    assert len(set(ids)) == len(ids)


def test_nothing_moves_where_less_motion_is_wanted(page: ShopPage) -> None:
    order = page.place()
    expect(page.square("email", order)).to_be_visible()
    assert page.page.evaluate("document.getAnimations().length") == 0
