"""One run of the driver with scripted workers, and what it said."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from pipeline.protocols import PROTOCOLS
from pipeline.records import Concept, Done, Failure
from pipeline.scheduling.deadlines import Deadlines
from pipeline.scheduling.driver import Driver, Progress, Resources
from pipeline.scheduling.worker_interface import WorkerSettings
from pipeline.settings import InversionSettings
from pipeline.store.events import EventLog
from pipeline.store.run_folder import RunFolder
from pipeline.store.storage import Storage
from tests.scripted_worker import ScriptedWorker


class ScriptedRun:
    def __init__(self, folder: Path, names: list[str], worker: type[ScriptedWorker] = ScriptedWorker) -> None:
        self.folder = RunFolder(Storage(str(folder)))
        self.names, self.worker = names, worker
        self.results: dict[str, Done | Failure] = {}
        self.seen: list[Progress] = []
        self.report: Callable[[Progress], None] = self.seen.append
        self.log = EventLog(self.folder)

    def go(
        self, workers: int = 2, slots: int = 2, deadlines: Deadlines | None = None, gpus: float = 0
    ) -> tuple[str, str] | None:
        settings = WorkerSettings(
            model="none", model_digest="", device="cpu", threads=1, slots=slots,
            inversion=InversionSettings(), protocol=PROTOCOLS["quick"], run=self.folder, storage_options={},
        )  # fmt: skip
        driver = Driver(
            settings,
            Resources(workers, 1, gpus),
            self._record,
            self.report,
            deadlines or Deadlines(),
            self.worker,
            self.log.record,
        )
        return driver.run((Concept(name, (), f"<{name}>") for name in self.names), len(self.names))

    def _record(self, concept: Concept, result: Done | Failure) -> None:
        assert concept.name not in self.results, "settled twice"
        self.results[concept.name] = result

    @property
    def failures(self) -> dict[str, Failure]:
        return {name: result for name, result in self.results.items() if isinstance(result, Failure)}

    @property
    def calls(self) -> Counter[str]:
        return self._calls_by(0)

    @property
    def calls_by_process(self) -> Counter[str]:
        return self._calls_by(1)

    @property
    def processes(self) -> int:
        return len(self.calls_by_process)

    def _calls_by(self, part: int) -> Counter[str]:
        """Of the names of the files that calls leave."""
        return Counter(path.name.split("@")[part] for path in (Path(self.folder.storage.url) / "calls").iterdir())


def quick(count: int) -> list[str]:
    return [f"quick-{number}" for number in range(count)]
