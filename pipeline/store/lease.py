"""A lock among processes that share only a store, for read-modify-write of files.

A lease is a numbered file, and the highest number is the present holder. Once it is released or has expired, the next holder
creates the next number exclusively, so only one process succeeds. Clocks may differ by much less than SECONDS.
"""

import json
import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.store.damaged import DamagedFileError, object_of
from pipeline.store.storage import Storage, StorageNotFoundError, StorageTooLargeError

FOLDER = "_leases"
SECONDS = 120.0
POLL_SECONDS = 1.0
LONGEST_SECONDS, MOST_BYTES = (
    3600.0,
    10_000,
)  # a lease that ends later than this is not ours; leaves room for clocks that differ


class LeaseLostError(RuntimeError):
    """This process did not renew the lease in time, and another one took it over."""


@contextmanager
def lease(storage: Storage, name: str, seconds: float = SECONDS) -> Iterator[Callable[[], None]]:
    """Waits for the lease `name` and holds it. Yields `renew`, which the body calls before each of its writes.

    `renew` raises LeaseLostError if this process was suspended for longer than `seconds`.
    """
    mine = uuid.uuid4().hex
    number = _take(storage, name, mine, seconds)
    path = _path(name, number)

    def renew() -> None:
        if max(_numbers(storage, name), default=number) > number:
            raise LeaseLostError(
                f"the lease {name!r} of {storage!r} was taken over; the same command does what is left"
            )
        storage.write_bytes(path, _content(mine, time.time() + seconds))

    try:
        yield renew
    finally:
        storage.write_bytes(path, _content(mine, 0.0))


def _take(storage: Storage, name: str, mine: str, seconds: float) -> int:
    while True:
        numbers = sorted(_numbers(storage, name))
        latest = numbers[-1] if numbers else 0
        if not numbers or _is_over(storage, _path(name, latest)):
            number = latest + 1
            if not storage.create_exclusive(_path(name, number), _content(mine, time.time() + seconds)):
                continue
            if max(_numbers(storage, name)) > number:
                # Meanwhile others took this number, removed it and went on to higher ones.
                storage.delete(_path(name, number))
                continue
            for old in numbers:
                storage.delete(_path(name, old))
            return number
        time.sleep(POLL_SECONDS)


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
