"""invert_all.py with a worker that records every optimiser step it takes: python -m tests.counted_job MANIFEST ..."""

import os
import sys
import time
from pathlib import Path
from unittest import mock

from jobs.invert_all import main
from pipeline.scheduling import continuous_batch
from pipeline.scheduling.worker_process import WorkerProcess
from pipeline.training.inversion import train_step

STEPS = "steps-taken"


class CountedWorker(WorkerProcess):
    """Leaves a line `<time> <concept> <step>` in `steps-taken/<pid>` of the run folder before each step of each concept."""

    def load(self) -> int:
        folder = Path(self.settings.run.storage.url) / STEPS
        folder.mkdir(exist_ok=True)
        record = (folder / str(os.getpid())).open("a", buffering=1)
        original = train_step

        def counted(backbone: object, slots: list[object]) -> object:
            for slot in slots:
                record.write(f"{time.time()} {slot.concept.name} {slot.step}\n")  # type: ignore[attr-defined]
            return original(backbone, slots)  # type: ignore[arg-type]

        slots = super().load()  # it measures with steps that belong to no concept
        mock.patch.object(continuous_batch, "train_step", counted).start()
        return slots


if __name__ == "__main__":
    sys.exit(main(worker=CountedWorker))
