"""One at a time, among processes that share nothing but a store: for work that reads a file and writes it anew.

A lease is a numbered file. The highest number holds; whoever finds it released or run out makes the next number, which
only one can, because it is created exclusively. Clocks that differ by much less than SECONDS do no harm.
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
LONGEST_SECONDS, MOST_BYTES = 3600.0, 10_000  # of what is a lease of ours, with room for clocks that differ


class LeaseLostError(RuntimeError):
    """Another process took the lease over, because this one had not renewed it in time."""


@contextmanager
def lease(storage: Storage, name: str, seconds: float = SECONDS) -> Iterator[Callable[[], None]]:
    """Waits until nobody else holds `name`, and holds it. The body calls what it is given before each of its writes.

    That call renews the lease, and raises LeaseLostError if this process had stood still for longer than `seconds`.
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
                # While this process looked, others took and tidied away this very number, and have gone on from there.
                storage.delete(_path(name, number))
                continue
            for old in numbers:
                storage.delete(_path(name, old))
            return number
        time.sleep(POLL_SECONDS)


def _is_over(storage: Storage, path: str) -> bool:
    """Also of a lease that says nothing, or that runs longer than any of ours: a damaged one, or a stranger's."""
    try:
        until = _until(storage, path)
        if until is None:
            time.sleep(POLL_SECONDS)  # where a file can be seen unfinished, its holder finishes it meanwhile
            until = _until(storage, path)
    except StorageNotFoundError:
        return False  # tidied away by the next holder: look again
    return until is None or not time.time() <= until


def _until(storage: Storage, path: str) -> float | None:
    try:
        until = float(object_of(storage.read_bytes(path, at_most=MOST_BYTES), path)["until"])
    except (DamagedFileError, StorageTooLargeError, KeyError, TypeError, ValueError):
        return None
    return until if until < time.time() + LONGEST_SECONDS else None


def _numbers(storage: Storage, name: str) -> list[int]:
    found = (re.fullmatch(re.escape(name) + r"-([0-9]{8,12})\.json", file) for file in storage.names(FOLDER))
    return [int(match[1]) for match in found if match]


def _path(name: str, number: int) -> str:
    return f"{FOLDER}/{name}-{number:08d}.json"


def _content(owner: str, until: float) -> bytes:
    return json.dumps({"owner": owner, "until": until}).encode()
