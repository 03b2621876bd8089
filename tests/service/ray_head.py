"""A Ray cluster of one node on this machine, and `serve run FILE` for each line of its input.

    python tests/service/ray_head.py FOLDER

Ray keeps its sockets and logs in FOLDER, whose path has to be short. It ends with its input.
"""

from __future__ import annotations

import inspect
import logging
import socket
import sys
import time
from contextlib import ExitStack
from typing import Any
from unittest import mock

import ray
from ray import serve
from ray._private import services
from ray._private.parameter import RayParams
from ray._raylet import persist_port
from ray.serve.scripts import cli

PATIENCE_S = 300.0
"""For its own processes to start; Ray gives them half a minute, whatever else a machine does."""

PORTS = (
    "dashboard_agent_listen_port",
    "metrics_agent_port",
    "metrics_export_port",
    "runtime_env_agent_port",
)
"""Of its agents. Where they choose themselves, the node waits 15 s for their choice, and dies."""

LISTENING = "dashboard_agent_listen_port"
"""And waits as long for this one to say that it listens there."""


def main() -> None:
    start(sys.argv[1], num_cpus=2)
    for line in sys.stdin:
        cli(["run", "--non-blocking", line.strip()], prog_name="serve", standalone_mode=False)
    serve.shutdown()


def start(folder: str, **settings: Any) -> None:
    """A cluster of this process's own, also on a machine that does much else."""
    known, params, until = services.get_node, RayParams.__init__, time.monotonic() + PATIENCE_S
    begin = services.start_raylet
    ports = dict(zip(PORTS, _free_ports(len(PORTS)), strict=True))

    def patient(*where: Any) -> Any:
        while True:
            try:
                return known(*where)
            except RuntimeError:  # it is not there yet
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)

    def with_ports(self: RayParams, *args: Any, **given: Any) -> None:
        params(self, *args, **{**given, **ports})

    def told(*args: Any, **given: Any) -> Any:
        said = inspect.signature(begin).bind(*args, **given).arguments
        persist_port(said["session_dir"], said["node_id"], LISTENING, ports[LISTENING])
        return begin(*args, **given)

    with (
        mock.patch.object(services, "get_node", patient),
        mock.patch.object(services, "start_raylet", told),
        mock.patch.object(RayParams, "__init__", with_ports),
    ):
        ray.init(
            namespace="serve",
            include_dashboard=False,
            object_store_memory=80 * 2**20,
            logging_level=logging.WARNING,
            _temp_dir=folder,
            **settings,
        )


def _free_ports(n: int) -> list[int]:
    with ExitStack() as stack:
        taken = [stack.enter_context(socket.socket()) for _ in range(n)]
        for each in taken:
            each.bind(("", 0))
        return [int(each.getsockname()[1]) for each in taken]


if __name__ == "__main__":
    main()
