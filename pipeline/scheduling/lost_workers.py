"""What happens to the concepts of a worker that was lost.

Three rules. A fault of the concept itself comes back as a Failure at once. A crash, an out-of-memory kill or a missed deadline
costs each concept of the worker one of its LIVES, unless its checkpoint has advanced since its last loss. A preempted machine
costs nothing.
"""

from collections import Counter, deque
from collections.abc import Iterable

from ray.exceptions import RayError

from pipeline.records import Concept, Failure
from pipeline.scheduling.deadlines import Overdue
from pipeline.store.checkpoints import Checkpoint
from pipeline.store.run_folder import RunFolder
from pipeline.store.storage import StorageError

LIVES = 3


class Retries:
    """Which concepts are tried again, which of them alone, and which have failed.

    A lost worker interrupts all of its concepts, and one of them may be the cause. So each concept without progress is
    tried again alone on a worker. That finds the cause and spares the others.
    """

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._again: deque[Concept] = deque()
        self._suspects: deque[Concept] = deque()
        self._crashes: Counter[str] = Counter()
        self._steps: dict[str, int] = {}  # of the checkpoint at the last loss
        self._boots_lost = 0
        self.ever_started = False
        self.restarts = 0

    def charge(self, concept: Concept, error: RayError | Overdue) -> Failure | None:
        """Queues the concept again, or returns its Failure when no lives are left."""
        name = concept.name
        self.restarts += 1
        if getattr(error, "preempted", False) or self._moved_on(name):
            self._again.append(concept)
            return None
        self._crashes[name] += 1
        if self._crashes[name] < LIVES:
            self._suspects.append(concept)
            return None
        reason = f"broke off {LIVES} times, the last time with: {last_line(error)}"
        return Failure(name, "worker", reason, LIVES, self._fingerprint(name))

    def forget(self, concept: Concept) -> None:
        self._crashes.pop(concept.name, None)
        self._steps.pop(concept.name, None)

    def again(self) -> Concept | None:
        return self._again.popleft() if self._again else None

    def suspect(self) -> Concept | None:
        return self._suspects[0] if self._suspects else None

    def take(self, suspect: Concept) -> None:
        self._suspects.remove(suspect)

    def any_suspect(self, concepts: Iterable[Concept]) -> bool:
        return any(self._crashes[concept.name] for concept in concepts)

    def worker_started(self) -> None:
        self._boots_lost, self.ever_started = 0, True

    def worker_never_started(self, error: RayError | Overdue, workers: int) -> str | None:
        """The reason to give up, once so many workers in a row were lost at start-up that it cannot be chance."""
        self._boots_lost += not getattr(error, "preempted", False)
        enough = max(LIVES, 2 * workers) if self.ever_started else LIVES
        return last_line(error) if self._boots_lost >= enough else None

    def _moved_on(self, name: str) -> bool:
        checkpoint = self._checkpoint(name)
        step = checkpoint.step if checkpoint else 0
        moved = step > self._steps.get(name, 0)
        self._steps[name] = max(step, self._steps.get(name, 0))
        return moved

    def _fingerprint(self, name: str) -> str:
        """The fingerprint in its last checkpoint. Without one it is unknown, and the next run tries the concept again."""
        checkpoint = self._checkpoint(name)
        return checkpoint.fingerprint if checkpoint else ""

    def _checkpoint(self, name: str) -> Checkpoint | None:
        try:
            return self._run.checkpoint(name)
        except StorageError:
            return None  # the store cannot be reached: count it as no progress


def last_line(error: BaseException) -> str:
    """A remote error's text is a traceback; its last line is what a person wants."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else repr(error)
