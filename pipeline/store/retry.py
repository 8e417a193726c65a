"""Faults of a store: passing ones are retried, all others are explained at once.

Every repeatable call goes through `keep_trying`. It raises only StorageErrors, which name the URL and hold no credentials.
"""

import asyncio
import errno
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from pipeline.logged_events import log_event
from pipeline.store.locations import without_credentials
from pipeline.text_files import visible

ATTEMPTS = 6
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.25, 10.0
TRANSIENT_STATUSES = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
TRANSIENT_ERRNOS = frozenset({errno.EBUSY, errno.EREMOTEIO, errno.ECONNRESET, errno.EPIPE, errno.ETIMEDOUT})
CONNECTION_FAULTS = frozenset(
    {
        "botocore.ConnectionError",
        "botocore.HTTPClientError",
        "botocore.IncompleteReadError",
        "botocore.ResponseParserError",
        "aiohttp.ClientConnectionError",
        "aiohttp.ClientPayloadError",
        "requests.ConnectionError",  # gcsfs raises these two for answers that it did not get
        "requests.Timeout",
        "google.TransportError",
    }
)
LASTING = (FileNotFoundError, PermissionError, FileExistsError, IsADirectoryError, NotADirectoryError)

_log = logging.getLogger(__name__)
T = TypeVar("T")
# Jitter must differ between processes and affects no result, so this generator is seeded by the system.
_jitter = np.random.default_rng()


class StorageError(OSError):
    """A file could not be read, written or listed, and trying again would not help."""


class StorageNotFoundError(StorageError, FileNotFoundError):
    """There is no such file, folder or bucket."""


class StorageTooLargeError(StorageError):
    """The file is larger than the reader takes."""


class StorageUnavailableError(StorageError):
    """The store answered in none of the attempts, so nothing is known about the file."""


def keep_trying(action: str, url: str, options: Mapping[str, Any], call: Callable[[], T]) -> T:
    """The call's result. Passing faults are retried up to ATTEMPTS times with growing, jittered waits.

    action: a verb for the message ("cannot read ..."). Raises StorageUnavailableError when all attempts failed, and
    another StorageError at the first fault that retrying cannot help.
    """
    failed = f"cannot {action} {visible(without_credentials(url, options))}"
    said = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            wait = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** (attempt - 1))
            time.sleep(wait * _jitter.uniform(0.5, 1.0))
        try:
            return call()
        # Every store has its own exceptions. One that is not known to be passing is reported at once.
        except Exception as error:  # noqa: BLE001
            said = without_credentials(f"{type(error).__name__}: {error}", options)
            if not _is_transient(error):
                # "from None", because the original's text may hold credentials.
                raise _explained(error, failed, said) from None
    cause = f"{failed}: no answer in {ATTEMPTS} attempts ({said})"
    log_event(_log, "store_unavailable", cause, "what needed the file fails")
    raise StorageUnavailableError(f"{cause}. Check the endpoint and the network, then run the same command again.")


def http_status(error: BaseException | None) -> int | None:
    """The HTTP status behind an exception: botocore keeps it in a response, other clients in an attribute."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, Mapping):
            return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0) or None
        for name in ("status", "code", "status_code"):
            if isinstance(value := getattr(error, name, None), int):
                return value
        error = error.__cause__
    return None


def _is_transient(error: Exception) -> bool:
    if isinstance(error, LASTING):
        return False
    status = http_status(error)
    if status is not None:
        return status in TRANSIENT_STATUSES
    if isinstance(error, ConnectionError | TimeoutError | asyncio.TimeoutError):
        return True
    # botocore and aiohttp have their own connection errors. They are compared by name, so neither needs importing.
    if {f"{kind.__module__.split('.')[0]}.{kind.__name__}" for kind in type(error).__mro__} & CONNECTION_FAULTS:
        return True
    return isinstance(error, OSError) and error.errno in TRANSIENT_ERRNOS


def _explained(error: Exception, failed: str, said: str) -> StorageError:
    if isinstance(error, StorageError):
        return error
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return StorageNotFoundError(f"{failed}: there is no such file, folder or bucket. Check the spelling.")
    if (
        isinstance(error, PermissionError)
        or type(error).__name__ == "NoCredentialsError"
        or http_status(error) in (401, 403)
    ):
        return StorageError(f"{failed}: access denied ({said}). Check the credentials and what they may do there.")
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return StorageError(f"{failed}: no space is left there. Free some and run the same command again.")
    if isinstance(error, IsADirectoryError):
        return StorageError(f"{failed}: it is a folder, not a file.")
    return StorageError(f"{failed}: {said}")
