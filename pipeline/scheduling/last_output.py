"""Where a worker runs, and the last lines that it wrote: what a person wants to read when it is lost.

Ray leads a worker's standard error into a file of its node. A pulse carries the file's end, so that it is known wherever the
driver runs; a driver on the same machine reads the file once more when the worker is lost, and misses nothing.
"""

import os
import stat
from dataclasses import replace
from pathlib import Path

import ray

from pipeline.scheduling.worker_interface import Pulse

BYTES, LINES = 4_000, 20


def whereabouts(pulse: Pulse) -> Pulse:
    """The pulse with this process's node and output. To be called in the worker."""
    file = _file_of_stderr()
    node = str(ray.get_runtime_context().get_node_id())[:8]
    return replace(pulse, node=node, output_file=file, output=end_of(file))


def end_of(file: str) -> str:
    """The last lines of the file, "" where it cannot be read."""
    try:
        with Path(file).open("rb") as opened:
            opened.seek(max(0, os.fstat(opened.fileno()).st_size - BYTES))
            lines = opened.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-LINES:])


def last_output(pulse: Pulse | None) -> str:
    """Of a worker that was lost, from its last pulse."""
    if pulse is None:
        return ""
    # The file's name holds the worker's id, so that no other machine has one of that name.
    return (end_of(pulse.output_file) if pulse.output_file else "") or pulse.output


def _file_of_stderr() -> str:
    try:
        if stat.S_ISREG(os.fstat(2).st_mode):
            return str(Path("/proc/self/fd/2").readlink())
    except OSError:
        pass
    return ""
