"""The frame of a page: one HTML file with its style, that asks no other host for anything."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from string import Template


def document(title: str, body: str, style: str = "") -> str:
    """A whole page.

    Args:
        title: as plain text.
        body: HTML between the ends of `main`.
        style: CSS of this page alone, after that of all pages.
    """
    template = files("cascade").joinpath("_page.html").read_text(encoding="utf-8")
    return Template(template).substitute(title=escape(title), body=body, style=style)


def card(label: str, value: str, note: str, *, css: str = "card") -> str:
    """A figure with what it is and what to know about it."""
    return (
        f'<div class="{css}"><div class="label">{escape(label)}</div>'
        f'<div class="value">{escape(value)}</div><div class="note">{escape(note)}</div></div>'
    )


def grid(heads: Sequence[str], rows: Iterable[Sequence[str]], strong: int | None = None) -> str:
    """A table; `strong` is the place of the row that stands out."""

    def row(cells: Sequence[str], tag: str, css: str = "") -> str:
        inner = "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells)
        return f"<tr{css}>{inner}</tr>"

    lines = list(rows)
    place = None if strong is None else range(len(lines))[strong]
    body = "".join(row(cells, "td", ' class="sum"' * (i == place)) for i, cells in enumerate(lines))
    return f'<div class="wide"><table>{row(heads, "th")}{body}</table></div>'
