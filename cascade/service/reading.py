"""Reads a configuration file and the environment over it; errors name file, line and key."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, EnvSettingsSource
from pydantic_settings.exceptions import SettingsError

from cascade.errors import ConfigurationError
from cascade.service.config import ServiceConfig
from cascade.service.lines import (
    DuplicateKeyError,
    Place,
    at,
    line_of,
    shown,
    toml_lines,
    yaml_lines,
)

PREFIX = "CASCADE__"
"""Of environment variables that go over the file: `CASCADE__LISTEN__PORT=9000`."""

_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_PASSWORD = re.compile(r"(://[^/:@\s]*):[^@/\s]+@")


class _Environment(ServiceConfig, BaseSettings):
    """The configuration as pydantic-settings sees it, for the names of its variables."""

    model_config = BaseSettings.model_config | {"env_prefix": PREFIX, "env_nested_delimiter": "__"}


@dataclass(frozen=True, slots=True)
class Settings:
    """A configuration with where it came from.

    Attributes:
        config: what is run.
        path: its file.
        written: what stands in the file and the environment; secrets are still references.
    """

    config: ServiceConfig
    path: Path
    written: Mapping[str, Any] = field(repr=False)


def read_settings(
    path: str | Path,
    environment: Mapping[str, str] | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
) -> Settings:
    """The configuration of a file, `.yaml`, `.yml` or `.toml`.

    Args:
        path: the file. Calibrations, and a ledger of SQLite, are relative to its folder.
        environment: instead of the process's own. `CASCADE__…` go over the file's values;
            `${NAME}` in a value is replaced by a variable.
        overrides: go over both.

    Raises:
        ConfigurationError: with a line for each thing that is wrong.
    """
    path = Path(path)
    variables = os.environ if environment is None else environment
    document, lines = _parsed(path)
    said = _said_by(variables)
    written = _merged(_merged(document, said), overrides or {})
    problems: list[str] = []
    where = _Where(path, lines, said)
    resolved = _resolved(written, (), variables, where, problems)
    if problems:
        raise ConfigurationError("\n".join(problems))
    try:
        config = ServiceConfig.model_validate(resolved)
    except ValidationError as error:
        found = [_problem(e, resolved, written, where) for e in error.errors()]
        raise ConfigurationError("\n".join(dict.fromkeys(filter(None, found)))) from None
    return Settings(_beside(config, path.parent), path, written)


def _beside(config: ServiceConfig, folder: Path) -> ServiceConfig:
    """A ledger's relative file lies beside the configuration, from wherever it is started."""
    if config.ledger is None:
        return config
    scheme, separator, rest = config.ledger.url.partition(":///")
    if not separator or not scheme.startswith("sqlite") or rest.startswith("/"):
        return config
    url = f"{scheme}:///{folder / rest}" if rest else config.ledger.url
    return config.model_copy(update={"ledger": config.ledger.model_copy(update={"url": url})})


def masked(written: Any) -> Any:
    """What was written, without the passwords of addresses; secrets are references anyway."""
    if isinstance(written, Mapping):
        return {key: masked(value) for key, value in written.items()}
    if isinstance(written, list | tuple):
        return [masked(value) for value in written]
    return _PASSWORD.sub(r"\1:***@", written) if isinstance(written, str) else written


@dataclass(frozen=True, slots=True)
class _Where:
    path: Path
    lines: Mapping[Place, int]
    said: Mapping[str, Any]

    def told(self, place: Place, words: str) -> str:
        """A problem with its place."""
        if place and at(self.said, place) is not None:
            variable = PREFIX + "__".join(str(part).upper() for part in place)
            return f"{variable}: {words}"
        line = line_of(self.lines, place)
        start = f"{self.path}:{line}" if line is not None else str(self.path)
        return f"{start}: {shown(place)}: {words}" if place else f"{start}: {words}"


def _parsed(path: Path) -> tuple[dict[str, Any], Mapping[Place, int]]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: it is no UTF-8 text ({error.reason}).") from error
    ending = path.suffix.lower()
    if ending not in (".yaml", ".yml", ".toml"):
        raise ConfigurationError(f"{path}: a configuration ends in .yaml, .yml or .toml.")
    try:
        if ending == ".toml":
            return tomllib.loads(text), toml_lines(text)
        lines = yaml_lines(text)
        document = yaml.safe_load(text)
    except DuplicateKeyError as error:
        raise ConfigurationError(
            f"{path}:{error.line}: {error.key}: it stands here a second time; leave one."
        ) from error
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f":{error.problem_mark.line + 1}"
        raise ConfigurationError(f"{path}{line}: {error.problem or error}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path}{_line_in(error)}: {error}.") from error
    if not isinstance(document, dict):
        raise ConfigurationError(f"{path}: it needs keys, and `cascades` among them.")
    return document, lines


def _line_in(error: Exception) -> str:
    found = re.search(r"line (\d+)", str(error))
    return f":{found[1]}" if found else ""


def _said_by(variables: Mapping[str, str]) -> Mapping[str, Any]:
    """What the environment says, as nested values."""
    mine = {name: value for name, value in variables.items() if name.startswith(PREFIX)}
    for name in mine:
        first = name.removeprefix(PREFIX).partition("__")[0].lower()
        if first not in ServiceConfig.model_fields:
            hint = _nearest(first, ServiceConfig.model_fields)
            raise ConfigurationError(f"{name}: there is no key {first!r}{hint}.")
    if not mine:
        return {}
    source = EnvSettingsSource(_Environment, env_prefix=PREFIX, env_nested_delimiter="__")
    source.env_vars = {name.lower(): value for name, value in mine.items()}
    try:
        return source()
    except SettingsError as error:
        raise ConfigurationError(
            f"{PREFIX}…: {error}: lists and mappings are written as JSON."
        ) from error


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    both = dict(under)
    for key, value in over.items():
        below = both.get(key)
        if key == "ledger" and isinstance(below, str) and isinstance(value, Mapping):
            below = {"url": below}
        nested = isinstance(below, Mapping) and isinstance(value, Mapping)
        both[key] = _merged(below, value) if nested else value  # type: ignore[arg-type]
    return both


def _resolved(
    value: Any, place: Place, variables: Mapping[str, str], where: _Where, problems: list[str]
) -> Any:
    """The value with each `${NAME}` replaced."""
    if isinstance(value, Mapping):
        items = value.items()
        return {k: _resolved(v, (*place, str(k)), variables, where, problems) for k, v in items}
    if isinstance(value, list):
        return [_resolved(v, (*place, n), variables, where, problems) for n, v in enumerate(value)]
    if not isinstance(value, str):
        return value
    if place[-1:] == ("api_key",) and not _REFERENCE.fullmatch(value):
        problems.append(
            where.told(place, "a key in clear text: write api_key_env: NAME, or ${NAME}.")
        )
    problems += [
        where.told(place, f"the environment variable {name} is not set.")
        for name in _REFERENCE.findall(value)
        if not variables.get(name)
    ]
    return _REFERENCE.sub(lambda found: variables.get(found[1], ""), value)


def _fitted(location: tuple[str | int, ...], data: Any) -> Place:
    """Pydantic's way without the names of types that it puts between: those in the data."""
    place: Place = ()
    for position, part in enumerate(location):
        last = position == len(location) - 1
        inside = at(data, place)
        exists = at(data, (*place, part)) is not None
        if exists or (last and isinstance(inside, Mapping) and "[" not in str(part)):
            place = (*place, part)
    return place


def _problem(error: ErrorDetails, resolved: Any, written: Any, where: _Where) -> str:
    """One error with its place; empty for one that only follows from those within."""
    place = _fitted(error["loc"], resolved)
    if error["type"] == "too_short" and at(resolved, place):
        return ""
    # What came from a variable may be a secret.
    secret = "${" in str(at(written, place))
    return where.told(place, _words(error, show=not secret))


def _words(error: ErrorDetails, *, show: bool) -> str:
    kind = error["type"]
    if kind == "extra_forbidden":
        name = str(error["loc"][-1])
        return f"there is no such key{_nearest(name, _names_at(error['loc'][:-1]))}"
    if kind == "missing":
        return "it is missing"
    if kind == "too_short":
        return "it is empty; give at least one"
    if kind == "string_pattern_mismatch":
        return "a name has letters, digits and . _ : - and begins with one of the first two"
    words = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    given = error.get("input")
    short = show and isinstance(given, str | int | float | bool) and kind != "value_error"
    return f"{words}, not {given!r}" if short else words


def _names_at(location: tuple[str | int, ...]) -> list[str]:
    """The keys that are allowed at a place."""
    model: type[BaseModel] = ServiceConfig
    for part in location:
        if isinstance(part, str) and part in model.model_fields:
            model = next(_models_in(model.model_fields[part].annotation), model)
    return list(model.model_fields)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _nearest(name: str, names: Any) -> str:
    close = difflib.get_close_matches(name, list(names), 1, 0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(names)}"
