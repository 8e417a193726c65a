"""A lock among processes that share only a store, for read-modify-write of files, and a fence against who held it before.

A lease is a numbered file, and the highest number is the present holder. Once it is released or has expired, the next holder
creates the next number exclusively, so only one process succeeds. Clocks may differ by much less than SECONDS.

A holder may be suspended, or its write held up, for longer than its lease lasts. So it works through a LeasedStorage, which writes
only over the version that it read: what the next holder wrote stays.
"""

import json
import re
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from pipeline.store.damaged import DamagedFileError, object_of
from pipeline.store.storage import (
    Storage,
    StorageError,
    StorageNotFoundError,
    StorageTooLargeError,
    scheme_of,
    without_credentials,
)

FOLDER = "_leases"
LOCK = f"{FOLDER}/lock"  # of local writers, for a moment
SECONDS = 120.0
DELETE_OVER = ("gs", "gcs")  # stores that delete a version, and no other
RENEWED = 1 / 8  # of a lease's time, after which it is renewed
POLL_SECONDS = 1.0
LONGEST_SECONDS = 3600.0  # a lease that ends later than this is not ours; leaves room for clocks that differ
MOST_BYTES = 10_000


class LeaseLostError(StorageError):
    """This process did not renew the lease in time, and another one took it over."""


class FileChangedError(StorageError):
    """A file was written by another process between our reading and our writing, although the lease is ours."""


class _Held:
    """A lease that this process has taken. Several threads may use it."""

    def __init__(self, storage: Storage, name: str, seconds: float) -> None:
        self._storage, self._name, self._seconds, self._mine = storage, name, seconds, uuid.uuid4().hex
        self._one_at_a_time, self._is_lost = threading.Lock(), False
        self._number = self._take()

    def left(self) -> float:
        """Seconds. Raises LeaseLostError when there are none."""
        left = self._until - time.time()
        if left <= 0:
            raise self._lost("ran out during a write")
        return left

    def renew(self, *, at_once: bool) -> None:
        """Renews the lease, if it was not renewed just now. Raises LeaseLostError if another process has taken it over."""
        with self._one_at_a_time:
            if not at_once and self._until - time.time() > self._seconds * (1 - RENEWED):
                return
            until = self._until
            if not self._is_lost and max(_numbers(self._storage, self._name), default=0) <= self._number:
                if time.time() < until:
                    self._storage.write_bytes(_path(self._name, self._number), self._content())
                # Once it has run out another process may be taking it, so it is renewed by taking it again.
                if time.time() < until or self._has_taken(self._number + 1):
                    return
            self._is_lost = True
            raise self._lost("was taken over")

    def release(self) -> None:
        with self._one_at_a_time:
            if not self._is_lost:
                self._storage.write_bytes(_path(self._name, self._number), _content(self._mine, 0.0))
            self._is_lost, self._until = True, 0.0

    def _take(self) -> int:
        while True:
            latest = max(_numbers(self._storage, self._name), default=0)
            if (not latest or _is_over(self._storage, _path(self._name, latest))) and self._has_taken(latest + 1):
                return latest + 1
            time.sleep(POLL_SECONDS)

    def _has_taken(self, number: int) -> bool:
        """Whether this process, of all that try, has made the lease of this number."""
        if not self._storage.create_exclusive(_path(self._name, number), self._content()):
            return False
        numbers = _numbers(self._storage, self._name)
        if max(numbers) > number:
            # Meanwhile others took this number, removed it and went on to higher ones.
            self._storage.delete(_path(self._name, number))
            return False
        self._number = number
        for old in numbers:
            if old < number:
                self._storage.delete(_path(self._name, old))
        return True

    def _content(self) -> bytes:
        self._until = time.time() + self._seconds
        return _content(self._mine, self._until)

    def _lost(self, what: str) -> LeaseLostError:
        shown = without_credentials(self._storage.url, self._storage.options)
        return LeaseLostError(f"the lease {self._name!r} of {shown} {what}; the same command does what is left")


@dataclass(frozen=True, slots=True, repr=False)
class LeasedStorage(Storage):
    """The folder of who holds leases. A file is replaced only if it is still the version that was read through this object.

    A file that was not read is replaced if it is still as it was when the lease was last known to be ours. So are files deleted, on
    local disk and Google; elsewhere after a look that the lease is ours, as files are created. All raise LeaseLostError. On stores
    without conditional writes, a write is given up when the lease runs out.
    """

    leases: tuple[_Held, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)  # of files as they were read

    def renew(self, *, at_once: bool = False) -> None:
        """Called by each of the other calls here; whoever works on for minutes without any calls it too."""
        for each in self.leases:
            each.renew(at_once=at_once)

    def read_bytes(self, path: str = "", at_most: int | None = None) -> bytes:
        self.renew()
        self.versions[path] = self.version(path)  # asked for first, so that it is never newer than the bytes
        return Storage.read_bytes(self, path, at_most)

    def write_bytes(self, path: str, data: bytes) -> None:
        """Raises FileChangedError if a process without the lease has written what was read."""
        read = self.versions.pop(path, None)
        while True:
            over = self.version(path) if read is None else read
            self.renew()  # known to be ours after the version was: so no later holder has written it
            if self.replace(path, data, over, LOCK, lambda: min(each.left() for each in self.leases)):
                return
            self.renew(at_once=True)
            if read is not None:
                shown = without_credentials(self.join(path), self.options)
                raise FileChangedError(
                    f"{shown} was changed by another process meanwhile; the same command does what is left"
                )

    def create_exclusive(self, path: str, data: bytes) -> bool:
        self.renew()
        return Storage.create_exclusive(self, path, data)

    def delete(self, path: str, over: str | None = None, lock: str = LOCK) -> None:
        read = self.versions.pop(path, None)
        if over is None and (self.is_local or scheme_of(self.url) in DELETE_OVER):
            over = self.version(path) if read is None else read
        self.renew()
        Storage.delete(self, path, over, lock)


@contextmanager
def lease(storage: Storage, *names: str, seconds: float = SECONDS) -> Iterator[LeasedStorage]:
    """Waits for these leases, one after the other, and holds them. What depends on them is read and written through the result."""
    with ExitStack() as held:
        leases: tuple[_Held, ...] = ()
        for name in names:
            leases += (_Held(storage, name, seconds),)
            held.callback(leases[-1].release)
        yield LeasedStorage(storage.url, storage.options, leases)


def _is_over(storage: Storage, path: str) -> bool:
    """True also for a damaged lease, and for one that runs longer than ours do and so is not ours."""
    try:
        until = _until(storage, path)
        if until is None:
            time.sleep(POLL_SECONDS)  # some file systems show unfinished files: wait for the holder to finish it
            until = _until(storage, path)
    except StorageNotFoundError:
        return False  # removed by the next holder: look again
    return until is None or not time.time() <= until


def _until(storage: Storage, path: str) -> float | None:
    try:
        until = float(object_of(storage.read_bytes(path, at_most=MOST_BYTES), path)["until"])
    except (DamagedFileError, StorageTooLargeError, KeyError, TypeError, ValueError, OverflowError):
        return None
    return until if until < time.time() + LONGEST_SECONDS else None


def _numbers(storage: Storage, name: str) -> list[int]:
    matches = (re.fullmatch(re.escape(name) + r"-([0-9]{8,30})\.json", file) for file in storage.names(FOLDER))
    return [int(match[1]) for match in matches if match]


def _path(name: str, number: int) -> str:
    return f"{FOLDER}/{name}-{number:08d}.json"


def _content(owner: str, until: float) -> bytes:
    return json.dumps({"owner": owner, "until": until}).encode()
