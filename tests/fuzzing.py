"""A reader fed with broken files in a process of its own: it has to answer each with a record or an error that is ours."""

import multiprocessing
import resource
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

SLOWEST = 10  # seconds for one file
LENGTHS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)


def mutated(whole: Sequence[bytes], draw: np.random.Generator) -> bytes:
    """One of the whole files with up to eight things done to it: bytes changed, cut out, doubled, swapped for another's."""
    data = bytearray(whole[int(draw.integers(len(whole)))])
    for _ in range(draw.integers(1, 9)):
        # Half of all changes are among the first bytes, where files say what they are.
        within = min(len(data), 400) if draw.random() < 0.5 else len(data)
        at = int(draw.integers(within + 1))
        length = int(draw.integers(1, 33))
        match draw.integers(6):
            case 0:
                data[at : at + 1] = draw.bytes(1)
            case 1:
                del data[at : at + length]
            case 2:
                data[at:at] = data[at : at + length]
            case 3:
                data[at : at + 4] = LENGTHS[draw.integers(len(LENGTHS))].to_bytes(
                    4, ("little", "big")[draw.integers(2)]
                )
            case 4:
                other = whole[int(draw.integers(len(whole)))]
                there = int(draw.integers(len(other) + 1))
                data[at : at + length] = other[there : there + length]
            case 5:
                if draw.random() < 0.2:
                    del data[at:]
    return bytes(data)


def fuzz(
    read: Callable[[bytes], object],
    errors: tuple[type[Exception], ...],
    whole: Sequence[bytes],
    seconds: float,
    megabytes: int,
) -> int:
    """How many files were read. AssertionError for another error than those, for a file that takes over ten seconds, and
    for a process that grew by more than `megabytes`.

    read: a function of a module, as the process imports it.
    """
    here, there = multiprocessing.get_context("spawn").Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=_fuzz, args=(read, errors, whole, seconds, there))
    process.start()
    there.close()
    try:
        answer: dict[str, Any] = here.recv() if here.poll(seconds + 120) else {"failed": "no answer: it hangs"}
    except EOFError:
        process.join()
        answer = {"failed": f"the process died, exit code {process.exitcode}"}
    finally:
        process.kill()
        process.join()
    assert "failed" not in answer, f"{answer['failed']}\n{answer.get('data')!r}"
    assert answer["grown"] <= megabytes, f"it grew by {answer['grown']:.0f} MB"
    return int(answer["files"])


def _fuzz(
    read: Callable[[bytes], object],
    errors: tuple[type[Exception], ...],
    whole: Sequence[bytes],
    seconds: float,
    answer: Connection,
) -> None:
    for data in whole:
        read(data)
    before, files, draw = _peak(), 0, np.random.default_rng(0)
    signal.signal(signal.SIGALRM, _give_up)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        data = mutated(whole, draw)
        signal.alarm(SLOWEST)
        try:
            read(data)
        except errors:
            pass
        except BaseException:  # noqa: BLE001 - that is what is looked for
            answer.send({"failed": traceback.format_exc(), "data": data})
            return
        finally:
            signal.alarm(0)
        files += 1
    answer.send({"files": files, "grown": _peak() - before})


def _peak() -> float:
    """Megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _give_up(*_: object) -> None:
    raise TimeoutError(f"one file takes more than {SLOWEST} s")
