"""A worker's node and its last lines of output, for the event of its loss.

Ray writes a worker's standard error to a file on its node. Each pulse carries the end of that file, so the driver has it even
when the node is gone. On the same machine the driver reads the file again after the loss and gets the very last lines.
"""

import os
import stat
from dataclasses import replace
from pathlib import Path

import ray

from pipeline.scheduling.worker_interface import Pulse

BYTES, LINES = 4_000, 20


def whereabouts(pulse: Pulse) -> Pulse:
    """The pulse with this process's node and output filled in. Runs in the worker."""
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
    """The last lines of a lost worker, from its file if it is on this machine, else from its last pulse."""
    if pulse is None:
        return ""
    # The file's name holds the worker's id, so a file of that name is of this worker.
    return (end_of(pulse.output_file) if pulse.output_file else "") or pulse.output


def _file_of_stderr() -> str:
    try:
        if stat.S_ISREG(os.fstat(2).st_mode):
            return str(Path("/proc/self/fd/2").readlink())
    except OSError:
        pass
    return ""
