"""The reference of the service: its keys and its routes, from the lists that are promised."""

from __future__ import annotations

import re

import api_snapshot
import floors

KEYS = re.compile(r"<!-- generated: configuration -->\n(.*?)<!-- end of generated -->", re.DOTALL)
ROUTE = re.compile(r"^(?P<method>[A-Z]+) (?P<path>/\S*) ?(?P<query>\?.*?)? ?-> (?P<statuses>.*)$")
CONFIGURATION = """# Configuration

One file, YAML or TOML; environment variables go over it, with `__` between the parts of a key:
`CASCADE__LISTEN__PORT=9000` ([the service](../service.md#configuration)).
"""
HTTP = """# HTTP

The routes of `cascade serve` with the statuses that they answer, and the fields of what goes in and
comes out; `?` marks what may be missing. What each means is in
[what clients may send](../gateway.md) and [the service](../service.md). A running service has the
same as OpenAPI at `/openapi.json`.

| route | query | statuses |
|---|---|---|
"""


def pages() -> dict[str, str]:
    """The pages by their file names."""
    service = (floors.ROOT / "docs" / "service.md").read_text(encoding="utf-8")
    found = KEYS.search(service)
    if found is None:
        raise LookupError("docs/service.md has no generated part 'configuration'")
    return {"configuration.md": CONFIGURATION + found[1], "http.md": http()}


def http() -> str:
    """Routes as a table, and each body with its fields."""
    text = (api_snapshot.FOLDER / "http.txt").read_text(encoding="utf-8")
    first, *bodies = text.strip().split("\n\n")
    rows = []
    for line in first.splitlines():
        route = ROUTE.match(line)
        if route is None:
            raise LookupError(f"{line!r} in http.txt is no route")
        query = f"`{route['query']}`" if route["query"] else ""
        rows.append(f"| `{route['method']} {route['path']}` | {query} | {route['statuses']} |")
    parts = [HTTP + "\n".join(rows) + "\n"]
    for body in bodies:
        name, *fields = body.splitlines()
        shown = "\n".join(field.removeprefix("  ") for field in fields)
        parts.append(f"## {name}\n\n```text\n{shown}\n```\n" if fields else f"## {name}\n")
    return "\n".join(parts)
