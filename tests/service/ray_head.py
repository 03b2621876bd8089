"""A Ray cluster of one node on this machine, and `serve run FILE` for each line of its input.

    python tests/service/ray_head.py FOLDER

Ray keeps its sockets and logs in FOLDER, whose path has to be short. It ends with its input.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import ray
from ray import serve
from ray.serve.scripts import cli

TRIES = 4
"""Ray gives its own processes half a minute to start, whatever else the machine does."""


def main() -> None:
    folder = sys.argv[1]
    for attempt in range(TRIES):
        try:
            start(Path(folder) / str(attempt))
            break
        except Exception as error:
            if attempt == TRIES - 1 or "timed out during startup" not in str(error):
                raise
            ray.shutdown()
    for line in sys.stdin:
        cli(["run", "--non-blocking", line.strip()], prog_name="serve", standalone_mode=False)
    serve.shutdown()


def start(folder: Path) -> None:
    ray.init(
        namespace="serve",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=80 * 2**20,
        logging_level=logging.WARNING,
        _temp_dir=str(folder),
    )


if __name__ == "__main__":
    main()
