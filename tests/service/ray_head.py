"""A Ray cluster of one node on this machine, and `serve run FILE` for each line of its input.

    python tests/service/ray_head.py FOLDER

Ray keeps its sockets and logs in FOLDER, whose path has to be short. It ends with its input.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import ray
from ray import serve
from ray._private import services
from ray.serve.scripts import cli

PATIENCE_S = 300.0
"""For its own processes to start; Ray gives them half a minute, whatever else a machine does."""


def main() -> None:
    start(sys.argv[1], num_cpus=2)
    for line in sys.stdin:
        cli(["run", "--non-blocking", line.strip()], prog_name="serve", standalone_mode=False)
    serve.shutdown()


def start(folder: str, **settings: Any) -> None:
    """A cluster of this process's own."""
    known, until = services.get_node, time.monotonic() + PATIENCE_S

    def patient(*where: Any) -> Any:
        while True:
            try:
                return known(*where)
            except RuntimeError:  # it is not there yet
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)

    services.get_node = patient
    try:
        ray.init(
            namespace="serve",
            include_dashboard=False,
            object_store_memory=80 * 2**20,
            logging_level=logging.WARNING,
            _temp_dir=folder,
            **settings,
        )
    finally:
        services.get_node = known


if __name__ == "__main__":
    main()
