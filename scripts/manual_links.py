"""Whether a built site holds together: every link, anchor and picture, and no other host."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {"script": "src", "img": "src", "iframe": "src", "link": "href", "source": "src"}
"""Elements that make a browser fetch something, with where they say what."""
UNREAD_LIST = re.compile(r"\n[-*] \S")
"""A list that the reader of Markdown took for a paragraph."""


@dataclass
class Page(HTMLParser):
    """What a page names, links to and loads."""

    path: Path
    anchors: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    paragraphs: list[str] = field(default_factory=list)
    title: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self._open: list[str] = []
        self.feed(self.path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what an element names and wants."""
        found = {name: value or "" for name, value in attrs}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        elif tag in LOADED and found.get("rel") not in ("canonical", "next", "prev"):
            self.loads.append(found.get(LOADED[tag], ""))
        if tag == "p":
            self.paragraphs.append("")
        if tag in ("p", "title"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Note that an element is over."""
        if self._open and self._open[-1] == tag:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        """Note what is said in a paragraph, and in the title."""
        match self._open[-1:]:
            case ["p"]:
                self.paragraphs[-1] += data
            case ["title"]:
                self.title += data


def pages(site: Path) -> dict[Path, Page]:
    """The pages of a site, read, but for that of an address that is not there."""
    return {path: Page(path) for path in sorted(site.rglob("*.html")) if path.name != "404.html"}


def wrong(site: Path) -> list[str]:
    """What is wrong in a site, each with the page and what it names."""
    read = pages(site.resolve())
    return [
        f"{path.relative_to(site.resolve())}: {problem}"
        for path, page in read.items()
        for problem in _problems(page, read)
    ]


def _problems(page: Page, read: dict[Path, Page]) -> Iterator[str]:
    for link in dict.fromkeys(page.links):
        if not urlsplit(link).scheme:
            yield from _unresolved(page, link, read)
    for address in dict.fromkeys(page.loads):
        parts = urlsplit(address)
        if parts.scheme == "data":
            continue
        if parts.scheme or parts.netloc:
            yield f"loads {address}, which is not of the site"
        elif address:
            yield from _unresolved(page, address, read)
    for paragraph in page.paragraphs:
        if UNREAD_LIST.search(paragraph):
            yield f"a list needs an empty line before it: {paragraph[:60]!r}"


def _unresolved(page: Page, link: str, read: dict[Path, Page]) -> Iterator[str]:
    parts = urlsplit(link)
    target = page.path
    if parts.path:
        target = Path(os.path.normpath(page.path.parent / unquote(parts.path)))
        if target not in read and target.is_dir():
            target /= "index.html"
    if target not in read and not target.is_file():
        yield f"links to {link}, which is not there"
    elif parts.fragment and (there := read.get(target)) is not None:
        fragment = unquote(parts.fragment)
        if fragment not in there.anchors and not fragment.startswith("__"):
            yield f"links to {link}, an anchor that is not there"
