"""Which concepts a run folder is about: one list a manifest, written anew by each run before it starts anything.

    _manifests/<digest of the manifest's name>.json

A concept is listed while any manifest's latest list has it. So two manifests may share a run folder, and a run of some rows,
from a file of its own, takes nothing away from the others'. A folder of an older version has no list, and is reported as before.
"""

import hashlib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.logged_events import log_event
from pipeline.store.damaged import DamagedFileError
from pipeline.store.run_folder import RunFolder
from pipeline.text_files import visible

_log = logging.getLogger(__name__)
FOLDER = "_manifests"
MOST_LIST = 150_000_000  # bytes, of a manifest of a million concepts


@dataclass(frozen=True, slots=True)
class ManifestList:
    """One manifest as its latest run found it.

    manifest: as it was given to the run, without credentials; "" for a damaged list. concepts: the names of its rows, the bad
    ones too. types: carried column -> one of `carried.TYPES` or "text".
    """

    manifest: str
    concepts: tuple[str, ...]
    types: Mapping[str, str] = field(default_factory=dict)


def write_list(run: RunFolder, one: ManifestList) -> None:
    run.write_json(_path(one.manifest), asdict(one))


def forget_others(run: RunFolder, manifest: str) -> None:
    """Removes the lists of all other manifests."""
    for path in _paths(run):
        if path != _path(manifest):
            run.storage.delete(path)


def has_lists(run: RunFolder) -> bool:
    """False for a folder of an older version."""
    return bool(_paths(run))


def read_lists(run: RunFolder, but: str | None = None) -> tuple[ManifestList, ...]:
    """() for a folder of an older version. but: a manifest whose list is not read.

    What a damaged list named cannot be known, so it counts as one without a manifest that lists every word: nothing retires
    until the next run of its manifest writes it anew.
    """
    left_out = None if but is None else _path(but)
    return tuple(_read(run, path) for path in _paths(run) if path != left_out)


def _read(run: RunFolder, path: str) -> ManifestList:
    try:
        return _list(run.read_json(path, MOST_LIST), path)
    except DamagedFileError as error:
        cause = f"{path} is damaged ({visible(str(error)[:200])})"
        log_event(_log, "file_damaged", cause, "until its manifest runs again no word retires")
        return ManifestList("", tuple(sorted({name for name, _ in run.committed()})))


def listed(lists: Iterable[ManifestList]) -> frozenset[str]:
    """The concepts of all manifests."""
    return frozenset(name for one in lists for name in one.concepts)


def _list(content: Mapping[str, Any], path: str) -> ManifestList:
    try:
        manifest, concepts, types = content["manifest"], content["concepts"], content["types"]
    except KeyError as error:
        raise DamagedFileError(f"{path} is damaged: {error!r}") from None
    # Taken for a list without names, anything else would retire every word.
    if not (isinstance(manifest, str) and isinstance(concepts, list) and isinstance(types, dict)):
        raise DamagedFileError(f"{path} is damaged: it is not what a run writes there")
    if not all(isinstance(each, str) for each in (*concepts, *types.values())):
        raise DamagedFileError(f"{path} is damaged: a name in it is no text")
    return ManifestList(manifest, tuple(concepts), types)


def _paths(run: RunFolder) -> list[str]:
    return [f"{FOLDER}/{name}" for name in run.storage.names(FOLDER) if name.endswith(".json")]


def _path(manifest: str) -> str:
    return f"{FOLDER}/{hashlib.sha256(manifest.encode()).hexdigest()[:16]}.json"
