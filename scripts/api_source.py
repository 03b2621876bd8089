"""What the source says of a name: its signature, fields and methods, inherited ones as well.

Nothing is imported: it does not depend on the Python that reads, nor on what is installed.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import floors

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | ast.Assign | ast.AnnAssign
Function = ast.FunctionDef | ast.AsyncFunctionDef

SHOWN_DUNDERS = frozenset({"__init__", "__call__"})
WIDTH = 96
LONGEST_VALUE = 400
"""Of a constant; a longer one is a table of its own, not a promise."""

_WORD = re.compile(r"\b[A-Z]\w*\b")
_STRING = re.compile(r"'(?:[^'\\\n]|\\.)*'")


@dataclass(frozen=True)
class Found:
    """Where a name is defined, and how."""

    module: str
    name: str
    node: Definition

    @property
    def place(self) -> str:
        """The full name of the definition."""
        return f"{self.module}.{self.name}"


@dataclass
class Module:
    """The names of a module: what it defines, and from where it takes the rest."""

    name: str
    definitions: dict[str, Definition] = field(default_factory=dict)
    imported: dict[str, tuple[str, str]] = field(default_factory=dict)
    exported: tuple[str, ...] | None = None


@cache
def _paths() -> dict[str, Path]:
    return floors.modules()


@cache
def read(module: str) -> Module:
    """A module of the package, or an empty one where it is not of the package."""
    found = Module(module)
    path = _paths().get(module)
    if path is not None:
        fill(found, ast.parse(path.read_text(encoding="utf-8")).body)
    return found


def is_module(place: str) -> bool:
    """Whether a full name is that of a module of the package."""
    return place in _paths()


def fill(module: Module, body: list[ast.stmt]) -> None:
    """Add the names that statements at the top of a module bind."""
    for node in body:
        match node:
            case ast.ImportFrom(module=str(source), level=0, names=names):
                for alias in names:
                    module.imported[alias.asname or alias.name] = (source, alias.name)
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                module.definitions[node.name] = node
            case ast.Assign(targets=[ast.Name(id="__all__")], value=value):
                module.exported = tuple(ast.literal_eval(value))
            case ast.Assign(targets=[ast.Name(id=name)]):
                module.definitions[name] = node
            case ast.AnnAssign(target=ast.Name(id=name)):
                module.definitions[name] = node
            case ast.If() | ast.Try():
                fill(module, [*node.body, *node.orelse])


def find(module: str, name: str) -> Found | None:
    """The definition of a name as a module sees it, or None where it is not the package's."""
    here = read(module)
    if name in here.definitions:
        return Found(module, name, here.definitions[name])
    if name in here.imported:
        source, original = here.imported[name]
        if source.split(".")[0] == "cascade":
            return find(source, original)
    return None


def exported(module: str) -> tuple[str, ...]:
    """What the `__all__` of a module lists."""
    return read(module).exported or ()


def show(found: Found, name: str, public: frozenset[str]) -> str:
    """A definition as text: signature, fields, methods; one line each.

    Args:
        found: the definition.
        name: by what users call it.
        public: places of all public names: of its bases only those and foreign ones are shown.
    """
    node = found.node
    if isinstance(node, ast.ClassDef):
        return _class(found, name, public)
    if isinstance(node, ast.Assign | ast.AnnAssign):
        return _assigned(name, node)
    return _function(node, name)


def named(found: Found, text: str, public: frozenset[str] = frozenset()) -> dict[str, Found]:
    """The classes and types of the package that the text of a definition names."""
    is_class = isinstance(found.node, ast.ClassDef)
    owners = list(lineage(found, public)) if is_class else [found]
    modules = dict.fromkeys(owner.module for owner in owners)
    names: dict[str, Found] = {}
    for name in dict.fromkeys(_WORD.findall(_STRING.sub("", text))):
        for module in modules:
            there = find(module, name)
            if there is not None and not isinstance(there.node, Function):
                names[name] = there
                break
    return names


def fields(
    found: Found, public: frozenset[str] = frozenset()
) -> Iterator[tuple[Found, str, ast.AnnAssign]]:
    """The public fields of a class with who declares each: its bases' first, as they are read."""
    seen: dict[str, tuple[Found, ast.AnnAssign]] = {}
    for owner in reversed(list(lineage(found, public))):
        for node in _node(owner).body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                seen[node.target.id] = (owner, node)
    for name, (owner, node) in seen.items():
        if not name.startswith("_"):
            yield owner, name, node


def lineage(found: Found, public: frozenset[str] = frozenset()) -> Iterator[Found]:
    """A class and its bases within the package, nearest first, without those that are public:
    they are shown on their own.
    """
    yield found
    for base in _node(found).bases:
        above = _base(found, base)
        if above is not None and above.place not in public:
            yield from lineage(above, public)


def _base(found: Found, base: ast.expr) -> Found | None:
    bare = base.value if isinstance(base, ast.Subscript) else base
    above = find(found.module, bare.id) if isinstance(bare, ast.Name) else None
    return above if above is not None and isinstance(above.node, ast.ClassDef) else None


def _class(found: Found, name: str, public: frozenset[str]) -> str:
    marks = "".join(f"@{ast.unparse(mark)}\n" for mark in _node(found).decorator_list)
    bases = ", ".join(dict.fromkeys(_bases(found, public)))
    lines = [f"{marks}class {name}({bases}):" if bases else f"{marks}class {name}:"]
    lines += [f"    {declared(field, node)}" for _, field, node in fields(found, public)]
    lines += [f"    self.{attribute}" for attribute in _attributes(found, public)]
    members: dict[str, str] = {}
    for owner in lineage(found, public):
        own = [_member(node) for node in _node(owner).body]
        members = dict(member for member in own if member is not None) | members
    for member in sorted(members, key=lambda member: (member != "__init__", member)):
        lines += [f"    {line}" for line in members[member].splitlines()]
    return "\n".join(lines) if len(lines) > 1 else f"{lines[0]} ..."


def _node(found: Found) -> ast.ClassDef:
    assert isinstance(found.node, ast.ClassDef)
    return found.node


def _bases(found: Found, public: frozenset[str]) -> Iterator[str]:
    """Bases that are public or foreign, and in place of others their bases: an inner class that
    shares code is no promise.
    """
    for base in _node(found).bases:
        above = _base(found, base)
        if above is not None and above.place not in public:
            yield from _bases(above, public)
        elif ast.unparse(base) != "ABC":
            yield ast.unparse(base)


def _attributes(found: Found, public: frozenset[str]) -> list[str]:
    """What `__init__` sets on the object, of this class or the first base that has one."""
    declared = {name for _, name, _ in fields(found)}
    for owner in lineage(found, public):
        for node in _node(owner).body:
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                written = {
                    inner.attr
                    for inner in ast.walk(node)
                    if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store)
                    if isinstance(inner.value, ast.Name) and inner.value.id == "self"
                }
                return sorted(n for n in written - declared if not n.startswith("_"))
    return []


def _member(node: ast.stmt) -> tuple[str, str] | None:
    """A public method, property or plain attribute of a class."""
    if isinstance(node, ast.Assign):
        (target, *_) = node.targets
        if isinstance(target, ast.Name) and _is_public(target.id):
            return target.id, _assigned(target.id, node)
        return None
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or not _is_public(node.name):
        return None
    kinds = {ast.unparse(mark) for mark in node.decorator_list}
    if "overload" in kinds or any(kind.endswith((".setter", ".deleter")) for kind in kinds):
        return None
    if kinds & {"property", "cached_property"}:
        return node.name, f"{node.name}: {_returned(node)}  # property"
    marks = "".join(f"@{kind}\n" for kind in sorted(kinds & {"classmethod", "staticmethod"}))
    return node.name, marks + _function(node, node.name)


def _is_public(name: str) -> bool:
    return name in SHOWN_DUNDERS or (not name.startswith("_") and name != "model_config")


def _function(node: Function, name: str) -> str:
    word = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    returned = _returned(node)
    parameters = list(_parameters(node.args))
    line = f"{word} {name}({', '.join(parameters)}) -> {returned}"
    if len(line) <= WIDTH:
        return line
    return "\n".join([f"{word} {name}(", *(f"    {p}," for p in parameters), f") -> {returned}"])


def _returned(node: Function) -> str:
    return "None" if node.returns is None else _annotation(node.returns)


def _parameters(given: ast.arguments) -> Iterator[str]:
    positional = [*given.posonlyargs, *given.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(given.defaults))
    for number, (argument, default) in enumerate(
        zip(positional, [*defaults, *given.defaults], strict=True)
    ):
        if number == 0 and argument.arg in ("self", "cls"):
            continue
        yield _parameter(argument, default)
        if number + 1 == len(given.posonlyargs):
            yield "/"
    if given.vararg is not None:
        yield f"*{_parameter(given.vararg, None)}"
    elif given.kwonlyargs:
        yield "*"
    for argument, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        yield _parameter(argument, default)
    if given.kwarg is not None:
        yield f"**{_parameter(given.kwarg, None)}"


def _parameter(argument: ast.arg, default: ast.expr | None) -> str:
    text = argument.arg
    if argument.annotation is not None:
        text += f": {_annotation(argument.annotation)}"
    if default is not None:
        text += f" = {ast.unparse(default)}" if argument.annotation else f"={ast.unparse(default)}"
    return text


def declared(name: str, node: ast.AnnAssign) -> str:
    """A field of a class as it is written."""
    text = f"{name}: {_annotation(node.annotation)}"
    return text if node.value is None else f"{text} = {ast.unparse(node.value)}"


def _annotation(node: ast.expr) -> str:
    """An annotation without the quotes that put off its evaluation."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return ast.unparse(node)


def _assigned(name: str, node: ast.Assign | ast.AnnAssign) -> str:
    text = name if isinstance(node, ast.Assign) else f"{name}: {_annotation(node.annotation)}"
    value = "" if node.value is None else ast.unparse(node.value)
    if value and len(value) <= LONGEST_VALUE:
        return f"{text} = {value}"
    if isinstance(node.value, ast.Dict):
        keys = [ast.unparse(key) for key in node.value.keys if key is not None]
        return f"{text} = {{{', '.join(keys)}}}"
    return text
