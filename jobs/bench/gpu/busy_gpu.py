"""How busy the GPU is: NVML's utilisation, which nvidia-smi asks for five times a second."""

import contextlib
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch


@dataclass(slots=True)
class Busy:
    """samples: (seconds since the beginning, utilisation from 0 to 1)."""

    samples: list[tuple[float, float]] = field(default_factory=list)

    def share(self, first: float, last: float) -> float | None:
        """The mean between two moments; None where nothing was heard."""
        some = [share for at, share in self.samples if first <= at <= last]
        return round(float(np.mean(some)), 3) if some else None


@contextmanager
def watched() -> Iterator[Busy]:
    """Watches this process's first GPU; nothing on a machine without a GPU or nvidia-smi."""
    busy = Busy()
    with contextlib.ExitStack() as until_the_end:
        if torch.cuda.is_available():
            which = f"--id=GPU-{torch.cuda.get_device_properties(0).uuid}"
            told = [which, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop-ms=200"]
            with contextlib.suppress(OSError):
                watcher = subprocess.Popen(["nvidia-smi", *told], stdout=subprocess.PIPE, text=True)
                listener = threading.Thread(target=_listen, args=(watcher, busy, time.monotonic()), daemon=True)
                listener.start()
                until_the_end.enter_context(watcher)
                until_the_end.callback(listener.join)
                until_the_end.callback(watcher.terminate)
        yield busy


def _listen(watcher: subprocess.Popen[str], busy: Busy, began: float) -> None:
    for line in watcher.stdout or ():
        if line.strip().isdigit():  # "[N/A]" where the driver does not say
            busy.samples.append((time.monotonic() - began, float(line) / 100))
