"""Checks a Ray address and a local Ray's folder before Ray is called, because Ray reports such faults only after minutes."""

import os
import re
import socket
from collections.abc import Mapping

AUTO = "auto"
CLIENT = "ray://"
ADDRESS = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):(?P<port>[0-9]{1,5})")
FORMS = "a job joins HOST:PORT, as in head:6379, the ray:// address of a cluster's client port, or auto"
SECONDS = 5.0  # for a head node to answer
LONGEST_SOCKET = 107  # bytes of a UNIX socket's path
# What Ray puts below the temporary folder, with a process id of seven digits.
SOCKET = "/ray/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store"


class ClusterError(Exception):
    """A cluster cannot be joined, or no local Ray can start. The message names the address or folder and what is expected."""


def joined_address(address: str | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """The address to join: the one given, else RAY_ADDRESS; None to start a local Ray. An empty address means none.

    Raises ClusterError for an address of an unknown form, and if nothing answers there.
    """
    for name, said in (("--ray-address", address), ("RAY_ADDRESS", environment.get("RAY_ADDRESS"))):
        if said and said.strip():
            return _checked(name, said.strip())
    return None


def _checked(name: str, address: str) -> str | None:
    if address == "local":
        return None
    if address == AUTO:
        return address
    if address.startswith(("http://", "https://")):
        raise ClusterError(
            f"{name} {address}: this is the address of a dashboard, to which jobs are handed with `ray job submit --address "
            f"{address}`; {FORMS}"
        )
    match = ADDRESS.fullmatch(address.removeprefix(CLIENT).partition("?")[0].rstrip("/"))
    if match is None or not 0 < int(match["port"]) < 65536:
        raise ClusterError(f"{name} {address}: this is no address of a Ray cluster; {FORMS}")
    try:
        socket.create_connection((match["host"].strip("[]"), int(match["port"])), SECONDS).close()
    except OSError as error:
        raise ClusterError(f"{name} {address}: nothing answers there ({error}); {FORMS}") from error
    return address


def refuse_long_folder(environment: Mapping[str, str] = os.environ) -> None:
    """Raises ClusterError if the temporary folder's path is too long for a local Ray's sockets."""
    name = next((name for name in ("RAY_TMPDIR", "TMPDIR") if environment.get(name)), None)
    if name is None:
        return
    folder = environment[name]
    if not fits_sockets(folder):
        raise ClusterError(
            f"{name} is {folder}, of {_length(folder)} bytes: a local Ray keeps its sockets there, and the system takes no name "
            f"above {LONGEST_SOCKET - len(SOCKET)}; set RAY_TMPDIR to a shorter folder, such as /tmp"
        )


def fits_sockets(folder: str) -> bool:
    """Whether the names of a local Ray's sockets in it are short enough for the system."""
    return _length(folder) <= LONGEST_SOCKET - len(SOCKET)


def _length(folder: str) -> int:
    return len(os.fsencode(folder.rstrip("/")))
