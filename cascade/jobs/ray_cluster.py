"""The Ray cluster on which a job runs: one that is there, or one of its own on this machine."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Any

from cascade.errors import ConfigurationError, MissingDependencyError

__all__ = ["cluster", "require_ray"]

ATTEMPTS = 3
CONNECT_S = 10

OBJECT_STORE_BYTES = 128 * 2**20
"""Of a cluster of its own: what is under way are texts of some hundred rows."""


def require_ray() -> Any:
    """Ray, which is an extra.

    Raises:
        MissingDependencyError: it is not installed.
    """
    if find_spec("ray") is None or find_spec("pandas") is None:
        raise MissingDependencyError(
            'a job on Ray needs Ray Data: pip install "agent-cascade[ray]", or leave --engine out.'
        )
    import ray  # noqa: PLC0415 - an extra

    return ray


@contextmanager
def cluster(address: str | None, cores: float) -> Iterator[Any]:
    """Ray, connected to a cluster.

    Args:
        address: of a cluster; None for the one that this process is connected to already or that
            `RAY_ADDRESS` names, and where there is none, for one on this machine that ends with
            the block. That has no dashboard, tells nobody of its use, listens to nobody without
            its key, and leaves no files.
        cores: how many a cluster of its own says to have.

    Raises:
        ConfigurationError: the cluster cannot be reached.
        MissingDependencyError: Ray is not installed.
    """
    ray = require_ray()
    if ray.is_initialized():
        if address is not None:
            raise ConfigurationError(
                f"address={address!r}: this process is connected to a Ray cluster already; leave "
                "the address out to use that."
            )
        yield ray
        return
    address = address or os.environ.get("RAY_ADDRESS")
    if address is None:
        with _own(ray, cores):
            yield ray
        return
    _check_reachable(address)
    try:
        ray.init(address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _unreachable(address, error) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Where nobody listens, Ray would try for minutes, and end the process then."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "://" in address:
        return  # `auto`, or an address in another form
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        raise _unreachable(address, error) from error


def _unreachable(address: str, error: Exception) -> ConfigurationError:
    return ConfigurationError(
        f"the Ray cluster at {address} cannot be reached ({error}): give the address that "
        "`ray start` says, host:6379, or none for a cluster on this machine."
    )


@contextmanager
def _own(ray: Any, cores: float) -> Iterator[None]:
    folder = tempfile.mkdtemp(prefix="ray-")
    said = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_TOKEN": _key(),
        "RAY_BACKEND_LOG_LEVEL": "fatal",
        "RAY_enable_worker_prestart": "0",  # processes that nobody asks for
        "RAY_prestart_worker_first_driver": "0",
    }
    with _environment(said):
        try:
            _start(ray, max(1, round(cores)), folder)
            yield
        finally:
            ray.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


def _start(ray: Any, cores: int, folder: str) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            ray.init(
                "local",
                num_cpus=cores,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                log_to_driver=False,
                logging_level="ERROR",
                _temp_dir=folder,
            )
        except Exception as error:
            # Ray gives itself 30 s, which a machine with much else to do may not keep.
            ray.shutdown()
            if attempt == ATTEMPTS:
                raise ConfigurationError(f"Ray does not start on this machine: {error}") from error
        else:
            return


@cache
def _key() -> str:
    """Else Ray writes one into the home directory. Ray reads it once in a process."""
    return secrets.token_hex(32)


@contextmanager
def _environment(said: Mapping[str, str]) -> Iterator[None]:
    added = {name: value for name, value in said.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
