"""Every link of the built site leads somewhere, and nothing is fetched from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ELSEWHERE = {"docs.astral.sh", "squidfunk.github.io"}  # hosts that texts and the theme's footer name


class Reader(HTMLParser):
    """Collects what a page links to, what it loads, and its anchors."""

    def __init__(self) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.anchors.update(attributes[name] for name in ("id", "name") if name in attributes)
        if tag == "a" and "href" in attributes:
            self.links.append(attributes["href"])
        elif tag in {"script", "img", "iframe"} and "src" in attributes:
            self.loaded.append(attributes["src"])
        elif tag == "link" and attributes.get("rel") in {"stylesheet", "icon", "preload"}:
            self.loaded.append(attributes["href"])


@cache
def read(page: Path) -> Reader:
    reader = Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    return reader


def target(site: Path, page: Path, link: str) -> Path:
    """Return the file that a link on a page leads to."""
    path = unquote(urlsplit(link).path)
    start = site if path.startswith("/") else page.parent
    found = (start / path.lstrip("/")).resolve() if path else page
    return found / "index.html" if found.is_dir() else found


def pages(site: Path) -> Iterator[Path]:
    return (page for page in sorted(site.rglob("*.html")) if page.name != "404.html")  # that one has absolute links


def test_every_link_leads_to_a_page_and_to_a_place_on_it(site: Path) -> None:
    broken = []
    for page in pages(site):
        for link in read(page).links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            found = target(site, page, link)
            if not found.is_relative_to(site) or not found.exists():
                broken.append((page.relative_to(site), link, "no such file"))
            elif parts.fragment and found.suffix == ".html" and unquote(parts.fragment) not in read(found).anchors:
                broken.append((page.relative_to(site), link, "no such place"))
    assert broken == []


def test_links_lead_to_no_unexpected_host(site: Path) -> None:
    hosts = {urlsplit(link).hostname for page in pages(site) for link in read(page).links if urlsplit(link).netloc}
    assert hosts <= ELSEWHERE


def test_a_reader_s_browser_fetches_nothing_from_elsewhere(site: Path) -> None:
    for page in pages(site):
        for loaded in read(page).loaded:
            assert not urlsplit(loaded).netloc, (page, loaded)
            assert target(site, page, loaded).exists(), (page, loaded)


def test_the_index_for_programs_leads_to_pages(site: Path) -> None:
    lines = (site / "llms.txt").read_text(encoding="utf-8").splitlines()
    links = [line.partition("](")[2].partition(")")[0] for line in lines if line.startswith("- [")]
    assert len(links) > 20
    assert [link for link in links if not target(site, site / "index.html", link).exists()] == []
