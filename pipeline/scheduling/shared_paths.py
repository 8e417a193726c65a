"""Checks that every machine of a run sees the same local paths.

A path of the machine where the job was started may not exist on another machine, or be another folder there. Each node checks
before the first concept.
"""

import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pipeline.store.storage import Storage

PROBES = "_probes"


class UnseenPathError(RuntimeError):
    """A node of the cluster does not see a path that it needs."""


@contextmanager
def seen_everywhere(folder: Storage, paths: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yields the paths that every worker must see: `paths`, and a probe file in `folder` if that is local.

    A task on each node checks them first. The probe file is removed at the end. Raises UnseenPathError.
    """
    if not folder.is_local:
        refuse_blind_nodes(paths)
        yield tuple(paths)
        return
    probe = f"{PROBES}/{uuid.uuid4().hex}"  # a unique name: a machine that sees it sees this very folder
    folder.write_bytes(probe, b"")
    try:
        wanted = (*paths, folder.join(probe))
        refuse_blind_nodes(wanted)
        yield wanted
    finally:
        folder.delete(probe)


def refuse_unseen(paths: Sequence[str]) -> None:
    """Raises UnseenPathError for paths that cannot be read on this machine."""
    if missing := [path for path in paths if not os.access(path, os.R_OK)]:
        raise UnseenPathError(
            f"the machine {os.uname().nodename} does not see {', '.join(missing)}: use a folder that all machines of the "
            "cluster see, or an object store's URL"
        )


def refuse_blind_nodes(paths: Sequence[str]) -> None:
    """Runs refuse_unseen on each node of the cluster. Raises UnseenPathError."""
    if paths:
        on_every_node(refuse_unseen, paths, UnseenPathError)


def on_every_node(look: Callable[[Any], None], given: Any, refused: type[Exception]) -> None:
    """Runs look(given) on each node of the cluster. Raises `refused` with the text of what it raises there."""
    import ray  # imported here: a job with nothing to do starts no Ray
    from ray.exceptions import RayError, RayTaskError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # A head without CPUs runs no workers.
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    task: Any = ray.remote(num_cpus=0, max_retries=0)(look)
    asked = [
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(given)
        for node in nodes
    ]
    for answer in asked:
        try:
            ray.get(answer)
        except RayTaskError as error:
            raise refused(str(error.cause)) from None
        except RayError:
            continue  # a node that has gone meanwhile
