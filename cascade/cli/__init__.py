"""The command line, `cascade`."""

import sys


def main() -> None:
    """Run the command line."""
    try:
        from cascade.cli.program import app  # noqa: PLC0415 - Ctrl-C may come while it loads

        app()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
