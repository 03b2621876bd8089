"""`python -m cascade.service cascade.yaml`: runs a service; `cascade serve` does the same."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from cascade.errors import CascadeError, ConfigurationError


def main() -> None:
    """Run a service, or say what would run."""
    parser = argparse.ArgumentParser(prog="python -m cascade.service")
    parser.add_argument("config", help="the configuration, cascade.yaml")
    parser.add_argument("--check", action="store_true", help="say what would run, and leave")
    parser.add_argument("--no-auth", action="store_true", help="ask for no key, on loopback only")
    parser.add_argument("--port", type=int, help="instead of listen.port")
    parser.add_argument("--workers", type=int, default=1, help="processes on this port")
    given = parser.parse_args()
    from cascade.service import describe, read_config, serve  # noqa: PLC0415 - heavy

    overrides: dict[str, Any] = {"auth": False} if given.no_auth else {}
    if given.port is not None:
        overrides["listen"] = {"port": given.port}
    try:
        configured = read_config(given.config, overrides=overrides)
        if given.check:
            sys.stdout.write("\n".join(describe(configured)) + "\n")
        else:
            serve(configured, workers=given.workers)
    except CascadeError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2 if isinstance(error, ConfigurationError) else 1)


if __name__ == "__main__":
    main()
