"""`cascade serve`: OpenAI's and Ollama's protocols in front of your cascades."""

from __future__ import annotations

import asyncio
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cascade.cli.console import err, out, print_json, reports_errors
from cascade.errors import ConfigurationError, MissingDependencyError

if TYPE_CHECKING:
    from cascade.service.reading import Settings

EXAMPLE = "Example: cascade serve cascade.yaml --check && cascade serve cascade.yaml"
STARTER = """\
# One cascade: a small model at home, a large one at a provider. docs/service.md has every key.
ledger: sqlite:///ledger.db
cascades:
  assistant:
    tiers:
      - model: ollama:qwen2.5:3b
        # What an hour in which it computes costs you; without it the saving is unknown, not zero.
        price: {per_hour: 0.40}
      - model: openai:gpt-5.1
        api_key_env: OPENAI_API_KEY
    threshold: 0.8
"""
NO_CONFIGURATION = {
    True: "name the configuration: `cascade serve cascade.yaml`.",
    False: "name the configuration; one to begin with: `cascade serve --example > cascade.yaml`.",
}
"""By whether there is one, which is not to be written over."""
PACKAGES = ("fastapi", "uvicorn", "pydantic_settings", "yaml", "prometheus_client", "sqlalchemy")


@reports_errors
def serve(
    config: Annotated[
        Path | None, typer.Argument(help="A .yaml or .toml file; see docs/service.md.")
    ] = None,
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Say what would run, and leave: 0 fine, 1, 2 not.")
    ] = False,
    host: Annotated[str | None, typer.Option(help="Listen here, instead of listen.host.")] = None,
    port: Annotated[int | None, typer.Option(help="Instead of listen.port; 0: a free one.")] = None,
    workers: Annotated[
        int, typer.Option(help="Processes on this port, with a ledger in PostgreSQL.")
    ] = 1,
    example: Annotated[
        bool, typer.Option("--example", help="Print a configuration to begin with, and leave.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="With --check: one JSON document.")] = False,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Ask for no key; on this machine's loopback only.")
    ] = False,
) -> None:
    """Serve cascades to OpenAI and Ollama clients, with keys, budgets and a page.

    SIGTERM finishes what runs and leaves; SIGHUP loads calibrations again.
    """
    if example:
        if config is not None or check or json:
            raise ConfigurationError("--example prints a configuration alone: leave the rest out.")
        out.print(STARTER, markup=False, end="")
        return
    if config is None:
        raise ConfigurationError(NO_CONFIGURATION[Path("cascade.yaml").exists()])
    if json and not check:
        raise ConfigurationError("--json goes with --check: give that too.")
    require_service()
    from cascade.service.reading import read_settings  # noqa: PLC0415 - heavy
    from cascade.service.workers import check_workers  # noqa: PLC0415 - heavy

    listen = {key: value for key, value in (("host", host), ("port", port)) if value is not None}
    overrides: dict[str, Any] = {"listen": listen} if listen else {}
    if no_auth:
        overrides["auth"] = False
    settings = read_settings(config, overrides=overrides)
    check_workers(settings.config, workers)
    if not check:
        _run(settings, workers)
        return
    _check(settings, json)


def _check(settings: Settings, json: bool) -> None:
    from cascade.service.checking import describe, reach_ledger  # noqa: PLC0415 - heavy

    lines = describe(settings)
    if not json:
        for line in lines:
            out.print(line, markup=False)
    asyncio.run(reach_ledger(settings))
    if json:
        config = settings.config
        print_json(
            {
                "file": settings.path,
                "listens": {"host": config.listen.host, "port": config.listen.port},
                "asks_for_keys": config.auth,
                "cascades": list(config.cascades),
                "description": lines,
            }
        )
    err.print(f"{settings.path}: fine", markup=False)


def _run(settings: Settings, workers: int) -> None:
    from cascade.service.server import bound  # noqa: PLC0415 - heavy
    from cascade.service.server import serve as run  # noqa: PLC0415 - heavy
    from cascade.service.workers import serve_with  # noqa: PLC0415 - heavy

    with bound(settings.config.listen):
        pass  # a port that is taken is said before anything is opened
    if workers == 1:
        run(settings.config, settings.path.parent)
    else:
        serve_with(settings.config, settings.path.parent, workers)


def require_service() -> None:
    """Refuse without what the service needs.

    Raises:
        MissingDependencyError: the extra `service` is not installed.
    """
    missing = [package for package in PACKAGES if find_spec(package) is None]
    if missing:
        raise MissingDependencyError(
            f'the service needs {", ".join(missing)}: pip install "agent-cascade[service]".'
        )
