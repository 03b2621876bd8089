"""Ray's own processes on this machine: those that it needs, and time for them to start."""

from __future__ import annotations

import inspect
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from ray._private import services
from ray._private.node import Node
from ray._private.parameter import RayParams
from ray._raylet import persist_port

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

NEEDLESS = {"no_monitor": True, "include_log_monitor": False}
"""Nobody adds machines to a cluster of one, and logs are read where they are."""


@contextmanager
def sparing() -> Iterator[None]:
    """A cluster that this process starts meanwhile has a node without needless processes, each of
    which would import Ray, and starts also on a machine that does much else."""
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

    def changed(self: RayParams, *args: Any, **given: Any) -> None:
        params(self, *args, **{**given, **ports, **NEEDLESS})

    def told(*args: Any, **given: Any) -> Any:
        said = inspect.signature(begin).bind(*args, **given).arguments
        persist_port(said["session_dir"], said["node_id"], LISTENING, ports[LISTENING])
        return begin(*args, **given)

    with (
        mock.patch.object(services, "get_node", patient),
        mock.patch.object(services, "start_raylet", told),
        mock.patch.object(RayParams, "__init__", changed),
        mock.patch.object(Node, "start_api_server"),  # of a dashboard that there is not
    ):
        yield


def _free_ports(n: int) -> list[int]:
    with ExitStack() as stack:
        taken = [stack.enter_context(socket.socket()) for _ in range(n)]
        for each in taken:
            each.bind(("", 0))
        return [int(each.getsockname()[1]) for each in taken]
