"""What is left to do: every concept's fingerprint against the run folder's markers, before anything is scheduled."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pipeline.fingerprint import fingerprint
from pipeline.images import MAX_BYTES, ImageSetError, find_images
from pipeline.models import Model
from pipeline.records import Concept, Failure, Task
from pipeline.run_folder import RunFolder, short
from pipeline.settings import InversionSettings
from pipeline.storage import Storage, StorageError, StorageUnavailableError

READERS = 32  # threads: listing and reading images is waiting, mostly


@dataclass(frozen=True, slots=True)
class Plan:
    """tasks: to be done now. expected: concept -> fingerprint of every concept that could be looked at.
    failed: (fingerprint, failure) of those that failed before with the same inputs, or whose images cannot be listed.
    """

    tasks: tuple[Task, ...]
    expected: dict[str, str]
    failed: tuple[tuple[str, Failure], ...]

    @property
    def done(self) -> int:
        return (
            len(self.expected)
            - len(self.tasks)
            - sum(1 for _, failure in self.failed if failure.concept in self.expected)
        )


def plan(
    concepts: Sequence[Concept],
    run: RunFolder,
    model: Model,
    dtype: str,
    settings: InversionSettings,
    storage_options: dict[str, Any],
    *,
    retry_failed: bool = False,
) -> Plan:
    """Reads every image once, for its digest."""
    committed, failed_before = run.committed(), run.failed()
    tasks, expected, failed = [], {}, []

    def look(concept: Concept) -> tuple[tuple[str, ...], str] | Failure:
        try:
            urls = find_images(concept, storage_options)
            digests = [_digest(url, storage_options) for url in urls]
        except (ImageSetError, StorageError) as error:
            return Failure(concept.name, "images", str(error))
        return urls, fingerprint(concept, digests, model.digest, dtype, settings)

    with ThreadPoolExecutor(READERS) as readers:
        for concept, seen in zip(concepts, readers.map(look, concepts), strict=True):
            if isinstance(seen, Failure):
                failed.append(("", seen))
                continue
            urls, print_ = seen
            expected[concept.name] = print_
            key = (concept.name, short(print_))
            if key in committed:
                continue
            if key in failed_before and not retry_failed:
                failed.append((print_, run.failure(concept.name, print_)))
            else:
                tasks.append(Task(concept, print_, urls))
    return Plan(tuple(tasks), expected, tuple(failed))


def _digest(url: str, storage_options: dict[str, Any]) -> str:
    """Empty for a file that is not there or cannot serve: the worker sets it aside with its reason, and the concept goes on."""
    try:
        return hashlib.sha256(Storage(url, storage_options).read_bytes(at_most=MAX_BYTES)).hexdigest()
    except StorageUnavailableError:
        raise
    except StorageError:
        return ""
