"""What becomes of a question when a fault strikes: every fault × every place, over real HTTP.

    python benchmarks/fault_table.py

A server on this machine speaks OpenAI's and Ollama's protocols and spoils its replies as
`tests/servers/faults.py` says. Each fault strikes the small model, the large one, and a check that
costs a call, in both protocols, in whole replies and in streams; each call may be tried twice. The
table says who answered, and how the last call that met the fault stands in the ledger.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.faults.cells import PLACES, Place, Seen, cells, see

COLUMNS = ("fault", "what is wrong", "small model", "large model", "a check", "its entry")
HEAD = (f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|")


def table(all_seen: Sequence[Seen]) -> str:
    """The table in Markdown, a part for each group of faults."""
    parts = []
    for group, seen in groupby(all_seen, lambda seen: seen.cell.fault.group):
        parts.append("\n".join([f"### {group.capitalize()}", "", *HEAD, *_rows(list(seen))]))
    return "\n\n".join(parts)


def _rows(all_seen: Sequence[Seen]) -> Iterator[str]:
    """One row for each fault; cuts that come to the same stand together."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for name, group in groupby(all_seen, lambda seen: seen.cell.fault.name):
        seen = list(group)
        fault = seen[0].cell.fault
        ends = tuple(_who(seen, place) for place in PLACES)
        rows.setdefault((fault.meaning, *ends, _entry(seen)), []).append(name)
    for (meaning, *told), names in rows.items():
        yield "| " + " | ".join((", ".join(names), meaning, *told)) + " |"


def _who(all_seen: Sequence[Seen], place: Place) -> str:
    """Who answered, where it struck this place."""
    return _by_form(all_seen, place, lambda seen: seen.user) or "–"


def _entry(all_seen: Sequence[Seen]) -> str:
    """How the last call that met the fault stands in the ledger."""

    def last(seen: Seen) -> str:
        entry = seen.of(seen.cell.place)[-1]
        if entry.cost_usd is None:
            return f"{entry.outcome}, cost unknown"
        return f"{entry.outcome}, {'$0' if entry.cost_usd == 0 else 'cost counted'}"

    found = [_by_form(all_seen, place, last) for place in PLACES]
    return " / ".join(dict.fromkeys(filter(None, found)))


def _by_form(all_seen: Sequence[Seen], place: Place, say: Callable[[Seen], str]) -> str:
    """What is said of the cells of a place, once where streams are no different."""
    here = [seen for seen in all_seen if seen.cell.place == place]
    said = {
        form: " or ".join(dict.fromkeys(say(s) for s in here if s.cell.form == form))
        for form in ("plain", "stream")
    }
    known = {form: words for form, words in said.items() if words}
    if len(set(known.values())) <= 1:
        return next(iter(known.values()), "")
    return f"{known['plain']}; streamed: {known['stream']}"


def main() -> None:
    """Print the table, and how much was asked."""
    logging.getLogger("cascade").setLevel(logging.ERROR)
    world = see(cells())
    print(table(world.all_seen))
    calls = sum(len(seen.calls) for seen in world.all_seen)
    print(
        f"\n{len(world.all_seen)} questions, {calls} calls, {world.seconds:.0f} s; "
        f"{len(world.elsewhere)} requests elsewhere, {len(world.hanging)} calls, "
        f"{len(world.tasks)} tasks, {max(0, world.sockets)} sockets left",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
