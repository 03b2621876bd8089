"""A Ray cluster of one node on this machine, and `serve run FILE` for each line of its input.

    python tests/service/ray_head.py FOLDER

Ray keeps its sockets and logs in FOLDER, whose path has to be short. It ends with its input.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import ray
from ray import serve
from ray.serve._private import api
from ray.serve.scripts import cli

from tests.servers.ray_node import PATIENCE_S, sparing


def main() -> None:
    start(sys.argv[1], num_cpus=2)
    api.HTTP_PROXY_TIMEOUT = PATIENCE_S
    for line in sys.stdin:
        cli(["run", "--non-blocking", line.strip()], prog_name="serve", standalone_mode=False)
    serve.shutdown()


def start(folder: str, **settings: Any) -> None:
    """A cluster of this process's own, also on a machine that does much else."""
    with sparing():
        ray.init(
            namespace="serve",
            include_dashboard=False,
            object_store_memory=80 * 2**20,
            logging_level=logging.WARNING,
            _temp_dir=folder,
            **settings,
        )


if __name__ == "__main__":
    main()
