"""The demo's page as a person meets it, by roles and names; and what a page owes everybody."""

import re
from typing import Any

from playwright.sync_api import Locator, Page, expect

PATIENCE_MS = 45_000
expect.set_options(timeout=PATIENCE_MS)

#: Every element with text of its own that can be seen, with its colours. Backgrounds that are pictures are left out.
_TEXTS = """
() => [...document.querySelectorAll("body *")]
  .filter((element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim())
    && element.checkVisibility({opacityProperty: true}) && !element.closest(".vh, .skip"))
  .map((element) => {
    let behind = element, colour;
    do { colour = getComputedStyle(behind).backgroundColor; behind = behind.parentElement; }
    while (behind && /, 0\\)$/.test(colour));
    const style = getComputedStyle(element);
    return {text: element.textContent.trim().slice(0, 40), ink: style.color, ground: colour,
            px: parseFloat(style.fontSize), weight: Number(style.fontWeight)};
  })
"""
_OUTLINE = """
() => { const style = getComputedStyle(document.activeElement.closest(".product") ?? document.activeElement);
        return style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2; }
"""


class ShopPage:
    """One tab on the shop."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        page.set_default_timeout(PATIENCE_MS)
        page.goto(url)
        expect(page.get_by_text("live", exact=True)).to_be_visible()

    def press(self, button: str) -> None:
        self.page.get_by_role("button", name=button, exact=True).click()

    def switch(self, group: str) -> Locator:
        return self.page.get_by_role("switch", name=f"Handler fails in {group}")

    def said(self, text: "str | re.Pattern[str]") -> str:
        """Wait until the status line says so; returns all of it."""
        line = self.page.get_by_role("status")
        expect(line).to_have_text(text)
        return line.inner_text()

    def place(self) -> int:
        """Place an order; returns its number."""
        line = self.page.get_by_role("status")
        before = line.inner_text()
        self.press("Place the order")
        expect(line).not_to_have_text(before)
        return int(self.said(re.compile(r"^Order \d+ placed"))[len("Order ") :].partition(" ")[0])

    def lane(self, group: str) -> Locator:
        return self.page.get_by_role("article", name=group)

    def square(self, group: str, order: int) -> Locator:
        return self.lane(group).get_by_role("img").locator(f'[data-order="{order}"]')

    def becomes(self, group: str, order: int, says: str) -> None:
        """Wait until the square of an order in a group says, for who points at it: ``done``, ``done, try 2``, …"""
        expect(self.square(group, order)).to_have_attribute("title", f"order {order}: {says}")

    def counts(self, group: str, name: str, number: int) -> None:
        """Wait until the broker's count of a group has this value."""
        count = self.lane(group).locator(".counts div", has_text=name).get_by_role("definition")
        expect(count).to_have_text(str(number))

    def has_workers(self, group: str, *names: str) -> None:
        """Wait until these are its workers, and all are ready."""
        chips = self.page.get_by_role("list", name=f"Workers of {group}").get_by_role("listitem")
        expect(chips).to_have_text(list(names))

    def latest(self, order: int) -> list[str]:
        """What the table says of an order: the cells of its row."""
        row = self.page.get_by_role("row", name=re.compile(rf"^{order} "))
        expect(row).to_be_visible()
        return [cell.inner_text() for cell in row.get_by_role("cell").all()]

    def is_outlined(self) -> bool:
        """Whether one sees what has the keyboard's focus."""
        return bool(self.page.evaluate(_OUTLINE))

    def faint_texts(self) -> list[str]:
        """Texts below WCAG's AA contrast: 4.5, or 3 where they are large (24 px, or 18.66 px and bold)."""
        found = []
        for text in self.page.evaluate(_TEXTS):
            is_large = text["px"] >= 24 or (text["px"] >= 18.66 and text["weight"] >= 700)
            contrast = _contrast(_luminance(text["ink"]), _luminance(text["ground"]))
            if contrast < (3.0 if is_large else 4.5):
                found.append(f"{text['text']!r}: {contrast:.2f} ({text['ink']} on {text['ground']})")
        return found


def _luminance(colour: str) -> float:
    """Relative luminance of a computed colour, ``rgb(1, 2, 3)`` or ``color(srgb 0.1 0.2 0.3)``."""
    numbers: list[Any] = [float(number) for number in re.findall(r"[\d.]+", colour)]
    channels = numbers[:3] if colour.startswith("color") else [number / 255 for number in numbers[:3]]
    linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: float, other: float) -> float:
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)
