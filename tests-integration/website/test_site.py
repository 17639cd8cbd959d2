"""The built site, looked at in a real browser: desktop and phone, light and dark."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from website.browser import Page, browser, find_chromium

pytestmark = pytest.mark.timeout(300)
SIZES = {"desktop": (1280, 800), "phone": (360, 740)}
BACKGROUND = "getComputedStyle(document.body).backgroundColor.match(/[0-9.]+/g).slice(0, 3).map(Number)"


@pytest.fixture
async def page(tmp_path: Path) -> AsyncIterator[Page]:
    program = find_chromium()
    if program is None:
        pytest.skip("the site is not looked at: there is no chromium (apt-get install chromium)")
    async with asyncio.timeout(280), browser(program, tmp_path / "profile") as page:
        yield page


def urls(site: Path, address: str) -> list[str]:
    found = sorted(site.rglob("index.html"))
    return [address + str(file.parent.relative_to(site)).removeprefix(".") for file in found]


def save(pictures: dict[str, bytes], folder: Path) -> None:
    """Keep pictures for a person who wants to look: pytest's ``--basetemp`` says where."""
    for name, picture in pictures.items():
        (folder / name).write_bytes(picture)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_page_fits_its_window(site: Path, address: str, page: Page, scheme: str, tmp_path: Path) -> None:
    """No page scrolls sideways, complains in the console, or is of the other scheme's colour."""
    faults, pictures = [], {}
    for number, url in enumerate(urls(site, address)):
        for size, (width, height) in SIZES.items():
            await page.look(width, height, scheme)
            if size == "desktop":
                await page.go(url)
            needed = await page.evaluate("document.documentElement.scrollWidth")
            if needed > width:
                faults.append(f"{url} is {needed} pixels wide on a {size}")
            pictures[f"{number:02}-{size}.png"] = await page.picture()
        is_light = sum(await page.evaluate(BACKGROUND)) > 3 * 128
        if is_light != (scheme == "light"):
            faults.append(f"{url} is not {scheme}")
    save(pictures, tmp_path)
    assert len(pictures) > 40
    assert faults == []
    assert page.complaints == []


async def test_what_is_too_wide_is_noticed(address: str, page: Page) -> None:
    """The measure of the test above measures."""
    await page.look(*SIZES["phone"], "light")
    await page.go(address)
    await page.evaluate("document.querySelector('article').insertAdjacentHTML('beforeend', '<hr style=width:2000px>')")
    assert await page.evaluate("document.documentElement.scrollWidth") > 2000


async def test_search_finds_an_error(address: str, page: Page) -> None:
    await page.look(*SIZES["desktop"], "light")
    await page.go(address)
    await page.evaluate("document.querySelector('[data-md-component=search-query]').focus()")
    await page.command("Input.insertText", text="NoShardSubscriberError")
    found = await page.wait_for(
        "(() => { const links = [...document.querySelectorAll('.md-search-result__link')].map(link => link.href);"
        " return links.length && links })()"
    )
    (place,) = (link for link in found if link.endswith("#clstr.errors.NoShardSubscriberError"))
    await page.go(place)
    assert await page.evaluate("document.querySelector(decodeURI(location.hash).replaceAll('.', '\\\\.')).innerText")


async def test_diagrams_are_drawn(address: str, page: Page, tmp_path: Path) -> None:
    """From the script that lies beside the page, in either width."""
    for width, height in SIZES.values():
        await page.look(width, height, "light")
        await page.go(f"{address}concepts/")
        await page.wait_for("!document.querySelector('pre.mermaid')")
        heights = await page.wait_for(
            "(() => { const drawn = [...document.querySelectorAll('div.mermaid')].map(each => each.clientHeight);"
            " return drawn.length === 3 && drawn.every(each => each > 40) && drawn })()"
        )
        assert len(heights) == 3
        await page.evaluate("document.querySelector('div.mermaid').scrollIntoView()")
        save({f"{width}.png": await page.picture()}, tmp_path)
    assert page.complaints == []


async def test_a_source_has_its_lines(address: str, page: Page, tmp_path: Path) -> None:
    """It is a table of numbers and code, in which nothing may join the lines."""
    for width, height in SIZES.values():
        await page.look(width, height, "light")
        await page.go(f"{address}reference/errors/")
        await page.evaluate("document.querySelectorAll('.mkdocstrings-source').forEach(each => each.open = true)")
        sources = await page.evaluate(
            "[...document.querySelectorAll('.mkdocstrings-source')].map(each =>"
            " ['.linenos', '.code code'].map(part => each.querySelector(part).innerText.trim().split('\\n').length))"
        )
        assert len(sources) > 25
        assert [numbers for numbers, lines in sources if numbers != lines] == []
        await page.evaluate("document.querySelector('.mkdocstrings-source').scrollIntoView()")
        save({f"{width}.png": await page.picture()}, tmp_path)


async def test_what_is_copied_from_a_console_is_what_one_types(address: str, page: Page) -> None:
    """The theme copies the text that it sees while it marks the block so."""
    await page.look(*SIZES["desktop"], "light")
    await page.go(f"{address}start/")
    copied = await page.evaluate(
        "[...document.querySelectorAll('.highlight code:has(.gp)')].map(each =>"
        " { each.setAttribute('data-md-copying', ''); return each.innerText.trim() })"
    )
    assert ".venv/bin/python hello.py memory://" in copied
    assert not any("$ " in text for text in copied)
