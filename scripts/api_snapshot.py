"""What users rely on, as text that is compared at every change: tests/house/snapshots.

    python scripts/api_snapshot.py            writes all of it anew
    python scripts/api_snapshot.py --check    writes nothing, and fails on a difference
    python scripts/api_snapshot.py python cli     only these kinds

docs/compatibility.md says what is promised of each kind.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, Literal, get_args, get_origin

import api_source
import floors

FOLDER = floors.ROOT / "tests" / "house" / "snapshots"
RENEW = "python scripts/api_snapshot.py"
SHOWN_PATHS_NOT = ("/page/", "/login", "/logout", "/openapi.json")
"""Paths that only the page itself asks."""


def python() -> str:
    """The names of `cascade` and all that the manual imports, with the types that they name."""
    names = public_names()
    found = {place: api_source.find(*place.rsplit(".", 1)) for place in names}
    public = frozenset(there.place for there in found.values() if there is not None)
    parts: list[str] = []
    types: dict[str, str] = {}
    shown: dict[str, str] = {}
    for place, there in found.items():
        if there is None:
            raise LookupError(f"{place}: a document imports it, and the package does not define it")
        if (first := shown.setdefault(there.place, place)) != place:
            parts.append(f"# {place} is {first}")
            continue
        text = api_source.show(there, place.rpartition(".")[2], public)
        parts.append(f"# {place}\n{text}")
        types |= _types(there, text, public)
    aliases = [f"# {place}\n{types[place]}" for place in sorted(types)]
    return "\n\n".join([*parts, "# --- types that these name ---", *aliases]) + "\n"


def public_names() -> list[str]:
    """Full names: the face of the package, then what the manual and the examples import."""
    face = [f"cascade.{name}" for name in api_source.exported("cascade")]
    shown = {place for tree in _manual() for place in _imported(tree)}
    return face + sorted(shown - set(face))


def _manual() -> Iterator[ast.Module]:
    import make_docs  # noqa: PLC0415 - the other kinds need no documents
    import snippets  # noqa: PLC0415

    for path in make_docs.documents():
        for block in snippets.blocks(path.read_text(encoding="utf-8")):
            if block.language == "python":
                yield ast.parse(block.code)
    for path in sorted((floors.ROOT / "examples").glob("*.py")):
        yield ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted((floors.ROOT / "examples").glob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                yield ast.parse("".join(cell["source"]))


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "cascade":
            places = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (place for place in places if not api_source.is_module(place))


def _types(
    there: api_source.Found, text: str, public: frozenset[str], known: frozenset[str] = frozenset()
) -> dict[str, str]:
    """Aliases that a text names, and those that they name."""
    types: dict[str, str] = {}
    for name, alias in api_source.named(there, text, public).items():
        is_alias = isinstance(alias.node, ast.Assign | ast.AnnAssign)
        if is_alias and alias.place not in public | known | types.keys():
            types[alias.place] = api_source.show(alias, name, public)
            seen = known | types.keys()
            types |= _types(alias, types[alias.place], public, seen)
    return types


def packages() -> str:
    """What the packages below `cascade` export, by name."""
    parts = []
    for module, path in sorted(floors.modules().items()):
        below = path.name == "__init__.py" and module != "cascade"
        if below and (names := api_source.exported(module)):
            parts.append("\n".join([f"# {module}", *sorted(names, key=str.lower)]))
    return "\n\n".join(parts) + "\n"


def cli() -> str:
    """Commands with their arguments and options."""
    from typer.main import get_command  # noqa: PLC0415

    from cascade.cli import app  # noqa: PLC0415

    return "\n\n".join(_command(get_command(app), "cascade")) + "\n"


def _command(command: Any, path: str) -> Iterator[str]:
    shown = [parameter for parameter in command.params if parameter.name != "help"]
    lines = [f"  {_option(parameter)}" for parameter in shown]
    yield "\n".join([path, *sorted(lines)])
    for name, below in sorted(getattr(command, "commands", {}).items()):
        yield from _command(below, f"{path} {name}")


def _option(parameter: Any) -> str:
    spelled = " / ".join([", ".join(parameter.opts), *parameter.secondary_opts])
    is_option = parameter.param_type_name == "option"
    words = [spelled if is_option else f"[{parameter.name}]"]
    if not getattr(parameter, "is_flag", False):
        words.append(_taken(parameter.type_descriptor.annotation))
    words += ["required"] if parameter.required else []
    words += ["several"] if parameter.multiple or parameter.nargs != 1 else []
    words += [f"env {parameter.envvar}"] if parameter.envvar else []
    if parameter.default not in (None, False, (), "") and not callable(parameter.default):
        words.append(f"default {parameter.default}")
    return " ".join(words)


def _taken(annotation: Any) -> str:
    """What an option takes: its choices, or the name of a type."""
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return "|".join(str(member.value) for member in annotation)
    if get_origin(annotation) is Literal:
        return "|".join(map(str, get_args(annotation)))
    inner = [_taken(part) for part in get_args(annotation) if part is not type(None)]
    if inner:
        return "|".join(dict.fromkeys(inner))
    return str(getattr(annotation, "__name__", annotation))


def http() -> str:
    """Routes of the gateway with their parameters, and the fields of what goes in and comes out."""
    from cascade.service import ServiceConfig, create_app  # noqa: PLC0415 - needs the extra

    pair = {"tiers": [{"model": "ollama:small"}, {"model": "ollama:large"}]}
    here = {"cascades": {"example": pair}, "auth": False, "listen": {"host": "127.0.0.1"}}
    app = create_app(ServiceConfig.model_validate(here))
    schema = app.openapi()
    routes, bodies = [], set()
    for path, methods in sorted(schema["paths"].items()):
        if not path.startswith(SHOWN_PATHS_NOT):
            for method, said in sorted(methods.items()):
                routes.append(_route(method, path, said))
                bodies |= _references(said)
    models = _reachable(schema["components"]["schemas"], bodies)
    return "\n".join([*routes, "", *(_body(name, models[name]) for name in sorted(models))])


def _route(method: str, path: str, said: dict[str, Any]) -> str:
    query = [p["name"] for p in said.get("parameters", ()) if p["in"] == "query"]
    asked = "".join(f" ?{name}" for name in sorted(query))
    return f"{method.upper()} {path}{asked} -> {', '.join(sorted(said['responses']))}"


def _references(said: Any) -> set[str]:
    if isinstance(said, dict):
        own = {said["$ref"].rpartition("/")[2]} if isinstance(said.get("$ref"), str) else set()
        return own.union(*(_references(value) for value in said.values()))
    return set().union(*map(_references, said)) if isinstance(said, list) else set()


def _reachable(schemas: dict[str, Any], names: set[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    while names:
        name = names.pop()
        found[name] = schemas[name]
        names |= _references(schemas[name]) - found.keys()
    return found


def _body(name: str, schema: dict[str, Any]) -> str:
    required = set(schema.get("required", ()))
    fields = [f"  {f}{'' if f in required else '?'}" for f in sorted(schema.get("properties", ()))]
    short = ".".join(name.split("__")[-2:])  # of two of one name pydantic tells the modules
    return "\n".join([short, *fields, *(f"  {value}" for value in schema.get("enum", ())), ""])


def configuration() -> str:
    """Keys of a service's configuration with their types and defaults."""
    root = api_source.find("cascade.service.config", "ServiceConfig")
    assert root is not None
    types: dict[str, str] = {}
    lines = list(_keys(root, "", types))
    return "\n".join([*lines, "", *(types[name] for name in sorted(types)), ""])


def _keys(section: api_source.Found, place: str, types: dict[str, str]) -> Iterator[str]:
    for owner, name, node in api_source.fields(section):
        line = f"{place}{api_source.declared(name, node)}"
        yield line
        for word, there in api_source.named(owner, ast.unparse(node.annotation)).items():
            if isinstance(there.node, ast.ClassDef):
                yield from _keys(there, f"{place}{name}{_mark(node)}.", types)
            else:
                types[word] = api_source.show(there, word, frozenset())


def _mark(node: ast.AnnAssign) -> str:
    text = ast.unparse(node.annotation)
    return ".NAME" if text.startswith("Mapping[") else "[]" if text.startswith("tuple[") else ""


def environment() -> str:
    """Environment variables that the package reads."""
    texts = (path.read_text(encoding="utf-8") for path in floors.modules().values())
    found = {
        name
        for text in texts
        if any(word in text for word in ("environ", "getenv", "envvar"))
        for node in ast.walk(ast.parse(text))
        for name in _variables(node)
    }
    return "\n".join([*sorted(found), "CASCADE__SECTION__KEY", ""])


def _variables(node: ast.AST) -> Iterator[str]:
    """Names in `os.environ.get("X")`, `os.environ["X"]`, `os.getenv("X")`, `envvar="X"`."""
    given: list[ast.expr] = []
    if isinstance(node, ast.Call):
        if ast.unparse(node.func) in ("os.environ.get", "os.getenv", "environ.get", "getenv"):
            given = node.args[:1]
        given = [*given, *(word.value for word in node.keywords if word.arg == "envvar")]
    elif isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("environ"):
        given = [node.slice]
    for value in given:
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield value.value


def artifacts() -> str:
    """Steps of the databases' schemas, and the fields of files that outlive a version."""
    from cascade.ledger.store.migrations import LEDGER, TYPES  # noqa: PLC0415 - needs the extra
    from cascade.teaching.schema import TEACHING  # noqa: PLC0415

    parts = []
    for schema in (LEDGER, TEACHING):
        steps = [f"{number} {m.name} {_digest(m)}" for number, m in enumerate(schema.steps, 1)]
        parts.append("\n".join([f"# {schema.table}: steps, which are never edited", *steps]))
    parts.append(f"# types of the columns {_digest(TYPES)}")
    return "\n\n".join([*parts, *(_file(module, name) for module, name in FILES)]) + "\n"


FILES = (
    ("cascade.confidence.calibration", "Calibration"),
    ("cascade.evaluation.transcripts", "Transcript"),
    ("cascade.evaluation.transcripts", "Outcome"),
    ("cascade.jobs.records", "Record"),
    ("cascade.models.recording", "Header"),
    ("cascade.policies.reuse", "Reuse"),
)
"""Records whose JSON is kept in files."""


def _digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def _file(module: str, name: str) -> str:
    found = api_source.find(module, name)
    assert found is not None, f"{module}.{name}"
    lines = [api_source.declared(field, node) for _, field, node in api_source.fields(found)]
    return "\n".join([f"# {module}.{name}", *lines])


KINDS: dict[str, Callable[[], str]] = {
    "artifacts": artifacts,
    "cli": cli,
    "configuration": configuration,
    "environment": environment,
    "http": http,
    "packages": packages,
    "python": python,
}


def difference(kind: str) -> str:
    """How the present differs from what was promised, as a diff; empty where it does not."""
    path = FOLDER / f"{kind}.txt"
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = difflib.unified_diff(
        before.splitlines(), KINDS[kind]().splitlines(), "promised", "now", lineterm="", n=2
    )
    return "\n".join(lines)


def main(words: list[str]) -> int:
    """Write, or with `--check` compare."""
    check = "--check" in words
    kinds = [word for word in words if not word.startswith("-")] or list(KINDS)
    changed = {kind: text for kind in kinds if (text := difference(kind))}
    for kind, text in changed.items():
        print(f"{kind}:\n{text}\n" if check else f"{kind}.txt is written")
        if not check:
            FOLDER.mkdir(parents=True, exist_ok=True)
            (FOLDER / f"{kind}.txt").write_text(KINDS[kind](), encoding="utf-8")
    if not changed:
        print("nothing has changed")
    return 1 if changed and check else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
