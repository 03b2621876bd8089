"""The reference of the API, from signatures and docstrings as they stand in the source.

One page a module, for the names that are promised: those of `cascade`, and those that the manual
and the examples import (docs/compatibility.md).
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator

import api_snapshot
import api_source
import floors

SECTION = re.compile(r"^(Args|Returns|Raises|Attributes|Yields|Example|Note):\s*$")
ENTRY = re.compile(r"^(?P<names>\*{0,2}[\w.]+(?:, \*{0,2}[\w.]+)*): +(?P<text>.*)$")
BULLET = re.compile(r"^\s*(?:[-*]|\d+\.) ")
CALLED = {"Args": "Arguments"}
START = "index.md"


def pages() -> dict[str, str]:
    """The pages by their file names."""
    modules: dict[str, list[api_source.Found]] = {}
    places = {}
    for place in (place for place in api_snapshot.public_names() if "__" not in place):
        module, _, name = place.rpartition(".")
        found = api_source.find(module, name)
        if found is None:
            raise LookupError(f"{place}: a document imports it, and the package does not define it")
        modules.setdefault(module, []).append(found)
        places[found.place] = place
    public = frozenset(places)
    written = {f"{module}.md": _module(module, modules[module], public) for module in modules}
    return {START: _start(modules), **written}


def _start(modules: dict[str, list[api_source.Found]]) -> str:
    lines = [
        "# The API",
        "",
        "The names that are promised: those of `cascade`, and those that this manual and the",
        "examples import ([what stays as it is](../compatibility.md)). The",
        "[command line](../cli.md), the [configuration](configuration.md) and the routes of the",
        "[service](http.md) have pages of their own.",
        "",
        "| module | names |",
        "|---|---|",
    ]
    for module, found in modules.items():
        names = [f"[`{there.name}`]({module}.md#{module}.{there.name})" for there in found]
        lines.append(f"| [`{module}`]({module}.md) | {', '.join(names)} |")
    return "\n".join(lines) + "\n"


def _module(module: str, found: list[api_source.Found], public: frozenset[str]) -> str:
    source = floors.modules()[module].read_text(encoding="utf-8")
    parts = [f"# {module}\n\n{text(ast.get_docstring(ast.parse(source)) or '')}"]
    in_order = sorted(found, key=lambda there: there.name.lower())
    parts += [_name(module, there, public) for there in in_order]
    return "\n".join(parts)


def _name(module: str, found: api_source.Found, public: frozenset[str]) -> str:
    place = f"{module}.{found.name}"
    code = api_source.show(found, found.name, public)
    parts = [f"## `{found.name}` {{ #{place} }}\n", f"```python\n{code}\n```\n"]
    node = found.node
    if isinstance(node, ast.Assign | ast.AnnAssign):
        return "\n".join(parts)
    parts.insert(1, text(ast.get_docstring(node) or ""))
    for name, method in _methods(found, public):
        said = text(ast.get_docstring(method) or "")
        parts.append(f"### `{found.name}.{name}` {{ #{place}.{name} }}\n\n{said}")
    return "\n".join(parts)


def _methods(
    found: api_source.Found, public: frozenset[str]
) -> Iterator[tuple[str, api_source.Function]]:
    """Public methods and properties that say something, the nearest of each name."""
    if not isinstance(found.node, ast.ClassDef):
        return
    seen: set[str] = set()
    for owner in api_source.lineage(found, public):
        assert isinstance(owner.node, ast.ClassDef)
        for node in owner.node.body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if node.name.startswith("_") or node.name in seen or not ast.get_docstring(node):
                continue
            seen.add(node.name)
            yield node.name, node


def text(docstring: str) -> str:
    """A docstring as Markdown: its sections become lists."""
    lines = inspect.cleandoc(docstring).splitlines()
    written: list[str] = []
    while lines:
        line = lines.pop(0)
        section = SECTION.match(line)
        if section is None:
            if BULLET.match(line) and written and not BULLET.match(written[-1]):
                written.append("")
            written.append(line)
            continue
        body: list[str] = []
        while lines and (not lines[0].strip() or lines[0].startswith(" ")):
            body.append(lines.pop(0))
        title = CALLED.get(section[1], section[1])
        written += ["", f"**{title}**", "", *_entries(inspect.cleandoc("\n".join(body))), ""]
    return "\n".join([*written, ""])


def _entries(body: str) -> list[str]:
    """`name: what it is` of a section as a list; another text as it is."""
    found: list[str] = []
    for line in body.splitlines():
        entry = ENTRY.match(line)
        if entry is not None:
            names = ", ".join(f"`{name}`" for name in entry["names"].split(", "))
            found.append(f"- {names}: {entry['text']}")
        elif line.strip() and found:
            found[-1] += f" {line.strip()}"
        elif line.strip():
            found.append(line)
    return found
