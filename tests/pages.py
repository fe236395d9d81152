"""Pages as a parser, an eye and a browser see them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = Path("/usr/bin/chromium")
VOID = {"meta", "link", "img", "br", "rect", "line", "path", "circle", "image"}


class Page(HTMLParser):
    """A page of a folder: balanced tags, tables of text, every attribute."""

    def __init__(self, folder: Path, name: str = "report.html") -> None:
        super().__init__()
        self.text = (folder / name).read_text(encoding="utf-8")
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.sections: list[str] = []
        self.words: list[str] = []
        self._region = ""
        self._cell: list[str] | None = None
        self.feed(self.text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        told = {name: value or "" for name, value in attributes}
        self.tags.append((tag, told))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "section":
            self.sections.append(told["id"])
        if told.get("role") == "region":
            self._region = told["aria-label"]
        if tag == "tr":
            self.tables.setdefault(self._region, []).append([])
        elif tag in ("td", "th"):
            self._cell = []

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, {name: value or "" for name, value in attributes}))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag in ("td", "th"):
            self.tables[self._region][-1].append(" ".join("".join(self._cell or []).split()))
            self._cell = None

    def handle_data(self, data):
        self.words.append(data)
        if self._cell is not None:
            self._cell.append(data)

    def values(self, attribute: str) -> list[str]:
        return [told[attribute] for _, told in self.tags if attribute in told]


def contrast(one: str, other: str) -> float:
    """WCAG 2.2's contrast ratio of two colours #rrggbb, 1 to 21."""
    light, dark = sorted([_luminance(one), _luminance(other)], reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(color: str) -> float:
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@contextmanager
def chromium() -> Iterator[Any]:
    """Start a browser; where there is none, the test is skipped."""
    if not CHROMIUM.exists():
        pytest.skip(f"no {CHROMIUM} on this machine; Debian's package chromium brings it")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield running
        running.close()


@contextmanager
def visited(browser: Any, folder: Path, *, width: int, scheme: str) -> Iterator[Any]:
    """Open a folder's page: nothing is fetched, nothing complains, nothing sticks out, and the style applies."""
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda sent: asked.append(sent.url))
    address = (folder / "report.html").as_uri()
    page.goto(address)
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.title().endswith(": report")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate("getComputedStyle(document.querySelector('nav')).position") == "sticky"
    yield page
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [address]
    page.close()
