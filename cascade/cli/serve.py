"""`cascade serve`: OpenAI's and Ollama's protocols in front of your cascades."""

from __future__ import annotations

import asyncio
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cascade.cli.console import err, out, reports_errors
from cascade.errors import MissingDependencyError

if TYPE_CHECKING:
    from cascade.service.reading import Settings

EXAMPLE = "Example: cascade serve cascade.yaml --check && cascade serve cascade.yaml"
PACKAGES = ("fastapi", "uvicorn", "pydantic_settings", "yaml", "prometheus_client", "sqlalchemy")


@reports_errors
def serve(
    config: Annotated[Path, typer.Argument(help="A .yaml or .toml file; see docs/service.md.")],
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Say what would run, and leave: 0 fine, 1, 2 not.")
    ] = False,
    host: Annotated[str | None, typer.Option(help="Listen here, instead of listen.host.")] = None,
    port: Annotated[int | None, typer.Option(help="Instead of listen.port; 0: a free one.")] = None,
    workers: Annotated[
        int, typer.Option(help="Processes on this port, with a ledger in PostgreSQL.")
    ] = 1,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Ask for no key; on this machine's loopback only.")
    ] = False,
) -> None:
    """Serve cascades to OpenAI and Ollama clients, with keys, budgets and a page.

    SIGTERM finishes what runs and leaves; SIGHUP loads calibrations again.
    """
    require_service()
    from cascade.service.checking import describe, reach_ledger  # noqa: PLC0415 - heavy
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
    for line in describe(settings):
        out.print(line, markup=False)
    asyncio.run(reach_ledger(settings))
    err.print(f"{config}: fine", markup=False)


def _run(settings: Settings, workers: int) -> None:
    from cascade.service.server import serve as run  # noqa: PLC0415 - heavy
    from cascade.service.workers import serve_with  # noqa: PLC0415 - heavy

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
