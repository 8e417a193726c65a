"""Files of a run folder that are empty, cut, or not what their name says: told by name, and never the end of a run.

A file that can be made again counts as absent. Our own writes are whole or not there; what tears a file is a full disk, a
power cut, a copy that was broken off, or a stranger.
"""

import json
import logging
from typing import Any

from pipeline.store.retry import StorageError

_log = logging.getLogger(__name__)


class DamagedFileError(StorageError):
    """The file is there, and is not what it should be."""


def object_of(data: bytes, path: str) -> dict[str, Any]:
    """The JSON object that a file holds. path: for the message. Raises DamagedFileError."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(
            f"{path} is damaged: {len(data):,} bytes that are not JSON ({str(error)[:100]})"
        ) from None
    if not isinstance(found, dict):
        raise DamagedFileError(f"{path} is damaged: it holds no JSON object")
    return found


def say_damaged(path: str, said: str) -> None:
    """Tells whoever runs this that a damaged file counts as absent."""
    _log.warning("%s is damaged (%s), and counts as absent", path, said[:200])
