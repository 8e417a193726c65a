"""Local paths that every machine at work on a run has to see.

A path that is right where the job was started may name nothing on another machine, or another folder. Whoever does not see
the paths says so before the first concept.
"""

import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pipeline.store.storage import Storage

PROBES = "_probes"


class UnseenPathError(RuntimeError):
    """A machine that should work does not see a path."""


@contextmanager
def seen_everywhere(folder: Storage, paths: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """What every worker has to see: `paths`, and a file in `folder` if that is local, there while the context lasts.

    A worker of each node of the cluster has looked for them before it yields. Raises UnseenPathError.
    """
    if not folder.is_local:
        refuse_blind_nodes(paths)
        yield tuple(paths)
        return
    probe = f"{PROBES}/{uuid.uuid4().hex}"  # whose name nobody else has: who sees it sees this very folder
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
    """Has a worker of each node of the cluster look for the paths. Raises UnseenPathError."""
    if not paths:
        return
    import ray  # here, as a job that has nothing to do does without
    from ray.exceptions import RayError, RayTaskError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # A head without CPUs runs no workers.
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    look = ray.remote(num_cpus=0, max_retries=0)(refuse_unseen)
    asked = [
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(paths)
        for node in nodes
    ]
    for answer in asked:
        try:
            ray.get(answer)
        except RayTaskError as error:
            raise UnseenPathError(str(error.cause)) from None
        except RayError:
            continue  # a node that has gone meanwhile
