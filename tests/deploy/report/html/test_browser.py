"""The page in a headless Chromium, on a phone and on a desk, light and dark."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from slimsight.deploy.report.html import render_comparison, render_run

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
_PHONE, _TABLET, _DESK = 390, 700, 1280


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, _NAMES)), None)
    if path is None:
        pytest.skip(f"no browser of the Chromium family is on the PATH ({', '.join(_NAMES)})")
    sandbox = [] if os.geteuid() else ["--no-sandbox"]  # Chromium refuses to sandbox itself for root
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=sandbox)
        yield opened
        opened.close()


_FILES: dict[str, Path] = {}  # pages are only looked at: made once


@pytest.fixture
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every kind of page, by name."""
    if not _FILES:
        newest, oldest = (request.getfixturevalue(f"{name}_page") for name in ("newest", "oldest"))
        folder = tmp_path_factory.mktemp("pages")
        for name, html in (
            ("newest", render_run(newest)),
            ("oldest", render_run(oldest)),
            ("comparison", render_comparison([newest, oldest, *[newest] * 10])),
        ):
            _FILES[name] = folder / f"{name}.html"
            _FILES[name].write_text(html, encoding="utf-8")
    return _FILES


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., tuple[Page, list[str], list[str]]]]:
    """``visit(file, width, scheme)``: the page, what its console said, and what it asked for."""
    contexts: list[BrowserContext] = []

    def open_(file: Path, width: int, scheme: str = "light", **options: Any) -> tuple[Page, list[str], list[str]]:
        context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, reduced_motion="reduce", **options
        )
        contexts.append(context)
        page, said, asked = context.new_page(), [], []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(file.as_uri())
        return page, said, asked

    yield open_
    for context in contexts:
        context.close()


def overflow(page: Page) -> list[int]:
    return page.evaluate("[document.scrollingElement.scrollWidth, innerWidth]")


def ground(page: Page) -> str:
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [_PHONE, _DESK])
def test_pages_are_quiet_alone_and_fit(
    visit: Callable[..., Any], files: dict[str, Path], width: int, scheme: str
) -> None:
    for name, file in files.items():
        page, said, asked = visit(file, width, scheme)
        assert said == [], name
        assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]
        assert overflow(page) == [width, width], name
        page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
        assert overflow(page) == [width, width], f"{name}, with all details open"
        assert page.evaluate("window.hacked") is None
        assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
        small = "[...document.querySelectorAll('.chart text')].filter(t => t.getBoundingClientRect().height < 9).length"
        assert page.evaluate(small) == 0, f"{name}: letters of a chart are too small to be read"
        assert ground(page) == {"light": "rgb(244, 246, 248)", "dark": "rgb(18, 22, 27)"}[scheme]


def test_every_link_leads_to_a_place_that_is_shown(visit: Callable[..., Any], files: dict[str, Path]) -> None:
    for file in files.values():
        page, said, _ = visit(file, _DESK)
        links = page.locator(".contents a")
        assert links.count() >= 6
        for index in range(links.count()):
            links.nth(index).click()
            target = page.evaluate("document.querySelector(location.hash)?.getBoundingClientRect().height ?? 0")
            assert target > 0, links.nth(index).inner_text()
        assert said == []


@pytest.mark.parametrize("key", ["Enter", "Space"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_keys_alone_reach_the_content_and_change_the_theme(
    visit: Callable[..., Any], files: dict[str, Path], key: str, scheme: str
) -> None:
    page, said, _ = visit(files["newest"], _PHONE, scheme)
    other = {"light": "dark", "dark": "light"}[scheme]
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    page.keyboard.press("Tab")
    button = page.locator("#theme")
    assert button.evaluate("e => e === document.activeElement")
    assert button.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
    assert button.inner_text() == f"{other.capitalize()} theme"
    before = ground(page)
    page.keyboard.press(key)
    assert ground(page) != before
    assert button.inner_text() == f"{scheme.capitalize()} theme"
    page.keyboard.press(key)
    assert ground(page) == before
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    assert said == []


def test_tables_that_scroll_can_be_reached_by_keyboard(visit: Callable[..., Any], files: dict[str, Path]) -> None:
    page, _, _ = visit(files["newest"], _TABLET)
    boxes = page.locator(".scroll")
    wide = [boxes.nth(k).evaluate("e => [e.scrollWidth > e.clientWidth, e.tabIndex]") for k in range(boxes.count())]
    assert any(scrolls for scrolls, _ in wide)
    assert all((index == 0) == scrolls for scrolls, index in wide)


def test_paper_is_white_and_has_no_controls(visit: Callable[..., Any], files: dict[str, Path], tmp_path: Path) -> None:
    page, said, _ = visit(files["newest"], _DESK, "dark")
    closed = "document.querySelectorAll('details:not([open])').length"
    assert page.evaluate(closed) > 0
    page.evaluate("window.before = null; addEventListener('beforeprint', () => { window.before = " + closed + "; })")
    assert page.pdf(path=str(tmp_path / "page.pdf")).startswith(b"%PDF")
    assert page.evaluate("window.before") == 0  # all of them are open on paper
    assert page.evaluate(closed) > 0
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.querySelector('h1')).color") == "rgb(27, 33, 40)"
    assert not page.locator("#theme").is_visible()
    assert not page.locator(".contents").is_visible()
    assert said == []


def test_without_javascript_everything_is_there(visit: Callable[..., Any], files: dict[str, Path]) -> None:
    page, _, _ = visit(files["newest"], _PHONE, java_script_enabled=False)
    assert not page.locator("#theme").is_visible()
    assert page.locator("h2").first.inner_text() == "Verdict"
    assert page.locator("svg.chart").first.is_visible()
    assert page.locator("summary").count() >= 4


def test_a_phone_shows_every_table_whole(visit: Callable[..., Any], files: dict[str, Path]) -> None:
    hidden = "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth).length"
    for name, file in files.items():
        page, _, _ = visit(file, _PHONE)
        page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
        assert page.evaluate(hidden) == 0, name
    page, _, _ = visit(files["newest"], _PHONE)
    names = "e => [getComputedStyle(e, '::before').content, e.dataset.name]"
    shown, name = page.locator(".wide tbody td").first.evaluate(names)
    assert name
    assert shown == f'"{name}"'


def test_a_phone_breaks_no_figure(visit: Callable[..., Any], files: dict[str, Path]) -> None:
    page, _, _ = visit(files["newest"], _PHONE)
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    lines = """() => [...document.querySelectorAll('table td.r')].map(cell => {
        const text = document.createRange();
        text.selectNodeContents(cell);
        const one = 1.5 * parseFloat(getComputedStyle(cell).fontSize);
        return [cell.textContent.trim(), Math.floor(text.getBoundingClientRect().height / one)];
    })"""
    figures = {text: count for text, count in page.evaluate(lines) if text and " " not in text}
    assert len(figures) > 10
    assert {text: count for text, count in figures.items() if count > 1} == {}
