"""Draws the pictures of the manual from the program: `make docs`.

`graph.svg` has the nodes and edges of the compiled graph, `rule.svg` what the economic policy
decides at every confidence, `floors.svg` (house_picture.py) who imports whom. Grey on nothing:
they are read on light and on dark pages.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import floors
import house_picture

FOLDER = floors.ROOT / "docs" / "images"
PLACES = {
    "__start__": (45, 110),
    "draft": (190, 110),
    "self_check": (350, 110),
    "verify": (510, 110),
    "ask": (610, 35),
    "__end__": (715, 110),
    "route": (190, 200),
    "expert": (510, 200),
}
"""Where each node stands; a node that is not here has to be given a place."""
CALLED = {"__start__": "question", "__end__": "answer"}
HALF_WIDTH, HALF_HEIGHT = 45, 17
GREY, GREEN, AMBER = "#78909c", "#2e7d5b", "#b26a00"
HEAD = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"'
    ' aria-label="{label}" font-family="sans-serif" font-size="14" fill="{grey}">\n'
    '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7"'
    ' orient="auto"><path d="M0 0L8 4L0 8z"/></marker></defs>'
)


def head(width: int, height: int, label: str) -> str:
    """The beginning of a picture."""
    return HEAD.format(width=width, height=height, label=label, grey=GREY)


def graph() -> str:
    """The nodes of the compiled graph, and the ways between them."""
    from cascade import Cascade  # noqa: PLC0415 - only this picture needs it
    from cascade.testing import ScriptedModel  # noqa: PLC0415

    drawn = Cascade(ScriptedModel("a"), ScriptedModel("b")).graph.get_graph()
    ways = sorted({(edge.source, edge.target) for edge in drawn.edges})
    label = "The graph: " + ", ".join(f"{CALLED.get(a, a)} to {CALLED.get(b, b)}" for a, b in ways)
    lines = [head(770, 230, label)]
    lines += [_way(PLACES[a], PLACES[b], (b, a) in ways) for a, b in ways]
    for node in drawn.nodes:
        x, y = PLACES[node]
        lines.append(
            f'<rect x="{x - HALF_WIDTH}" y="{y - HALF_HEIGHT}" width="{2 * HALF_WIDTH}"'
            f' height="{2 * HALF_HEIGHT}" rx="8" fill="none" stroke="{GREY}"/>'
            f'<text x="{x}" y="{y + 5}" text-anchor="middle">{CALLED.get(node, node)}</text>'
        )
    return "\n".join([*lines, "</svg>", ""])


def _way(start: tuple[int, int], end: tuple[int, int], both: bool) -> str:
    """An arrow from the edge of one box to that of another; two that meet stand apart."""
    (x1, y1), (x2, y2) = start, end
    dx, dy = x2 - x1, y2 - y1
    aside = (8 if dy > 0 else -8) if both else 0
    reach = min(
        HALF_WIDTH / abs(dx) if dx else 1.0,
        HALF_HEIGHT / abs(dy) if dy else 1.0,
    )
    from_x, from_y = x1 + dx * reach + aside, y1 + dy * reach
    to_x, to_y = x2 - dx * reach + aside, y2 - dy * reach
    return (
        f'<line x1="{from_x:.0f}" y1="{from_y:.0f}" x2="{to_x:.0f}" y2="{to_y:.0f}"'
        f' stroke="{GREY}" marker-end="url(#tip)"/>'
    )


def rule(cost: float = 0.01, price_of_error: float = 0.05) -> str:
    """Dollars that accepting and escalating are expected to cost, and what is decided."""
    from cascade import EconomicPolicy  # noqa: PLC0415 - only this picture needs it

    left, right, bottom, top = 60, 560, 220, 20
    threshold = EconomicPolicy(price_of_error).threshold(Decimal(str(cost)))

    def at(confidence: float, dollars: float) -> str:
        x = left + (right - left) * confidence
        return f"{x:.0f},{bottom - (bottom - top) * dollars / price_of_error:.0f}"

    def line(dollars: Callable[[float], float], colour: str) -> str:
        points = f"{at(0, dollars(0))} {at(1, dollars(1))}"
        return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'

    def word(x: float, y: float, text: str, colour: str = GREY) -> str:
        return f'<text x="{x:.0f}" y="{y:.0f}" fill="{colour}">{text}</text>'

    x = left + (right - left) * threshold
    label = f"Escalate below a confidence of {threshold:.2f}, accept above"
    return "\n".join(
        [
            head(760, 260, label),
            f'<polyline points="{left},{top} {left},{bottom} {right},{bottom}" fill="none"'
            f' stroke="{GREY}"/>',
            line(lambda p: price_of_error * (1 - p), AMBER),
            line(lambda _: cost, GREEN),
            f'<line x1="{x:.0f}" y1="{top}" x2="{x:.0f}" y2="{bottom}" stroke="{GREY}"'
            ' stroke-dasharray="4"/>',
            word(left + 130, 55, "accepting: price of an error × (1 − p)", AMBER),
            word(
                right + 12, bottom - (bottom - top) * cost / price_of_error + 5, "escalating", GREEN
            ),
            word(x - 75, top + 12, "escalate"),
            word(x + 10, top + 12, "accept"),
            word(x - 14, bottom + 18, f"{threshold:.2f}"),
            word(left - 4, bottom + 18, "0"),
            word(right - 4, bottom + 18, "1"),
            word(right + 12, bottom + 18, "confidence p of the draft"),
            word(4, top + 5, f"${price_of_error}"),
            "</svg>",
            "",
        ]
    )


PICTURES: dict[str, Callable[[], str]] = {
    "floors.svg": house_picture.house,
    "graph.svg": graph,
    "rule.svg": rule,
}


def outdated(write: bool) -> list[Path]:
    """The pictures that are not as they should be; they are written anew if wanted."""
    found = []
    for name, draw in PICTURES.items():
        path, now = FOLDER / name, draw()
        if not path.exists() or path.read_text(encoding="utf-8") != now:
            found.append(path)
            if write:
                path.write_text(now, encoding="utf-8")
    return found
