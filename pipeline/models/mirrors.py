"""Copies a model from an object store to a node's disk, once for all processes of the node.

    ~/.cache/wordmint/models/<digest of the URL and of what the store says of every file>/    ($WORDMINT_CACHE in its place)

A model that was changed in its store has other identities and so another copy. What is copied has the digest that the
driver found; see load_backbone.
"""

import fcntl
import fnmatch
import hashlib
import json
import os
import posixpath
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.store.storage import Storage, StorageNotFoundError, without_credentials

AT_ONCE = 8  # files
WEIGHTS = ".safetensors"


def mirrored(url: str, options: Mapping[str, Any], wanted: Sequence[str], unwanted: Sequence[str]) -> Path:
    """The local folder with the URL's files that match a pattern of `wanted` and none of `unwanted`. A folder whose weights are all
    unwanted keeps them.

    If another process is copying, waits for it. An interrupted copy is started again.
    Raises StorageError; StorageNotFoundError where there is no such file.
    """
    store = Storage(url, options)
    fitting = {path: identity for path, identity in _identities(store).items() if _fits(path, wanted)}
    weighty = {posixpath.dirname(path) for path in fitting if path.endswith(WEIGHTS) and not _fits(path, unwanted)}
    files = {
        path: identity
        for path, identity in fitting.items()
        if not _fits(path, unwanted) or posixpath.dirname(path) not in weighty
    }
    if not files:
        raise StorageNotFoundError(f"{without_credentials(url)} holds nothing of a model in diffusers' layout")
    key = hashlib.sha256(json.dumps([url, sorted(files.items())]).encode()).hexdigest()
    return once(cache_folder() / key[:32], lambda folder: _copy(store, sorted(files), folder))


def mirrored_file(url: str, options: Mapping[str, Any]) -> Path:
    """The local copy of one file. Raises StorageError; StorageNotFoundError where there is no such file."""
    parent, _, name = url.rpartition("/")
    store = Storage(parent, options)
    known = store.identities()
    if name not in known:
        raise StorageNotFoundError(f"{without_credentials(url)}: there is no such file")
    key = hashlib.sha256(json.dumps([url, known[name]]).encode()).hexdigest()
    return once(cache_folder() / key[:32], lambda folder: store.download(name, folder / name)) / name


def once(folder: Path, fill: Callable[[Path], None]) -> Path:
    """The folder, filled by the first process of this machine that asks; the others wait. It is there whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _alone(folder.with_suffix(".lock")):
        if not folder.is_dir():
            partial = folder.with_name(f"{folder.name}.{uuid.uuid4().hex[:8]}.partial")
            try:
                partial.mkdir()
                fill(partial)
                partial.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return folder


def cache_folder() -> Path:
    return Path(os.environ.get("WORDMINT_CACHE") or Path.home() / ".cache" / "wordmint") / "models"


def _identities(store: Storage) -> dict[str, str | None]:
    """Path -> identity of the model's files: those of its folder and of the folders right inside."""
    paths = store.find()
    identities: dict[str, str | None] = {}
    for folder in sorted({posixpath.dirname(path) for path in paths}):
        identities |= {posixpath.join(folder, name): known for name, known in store.identities(folder).items()}
    return identities


def _fits(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(path, pattern) for pattern in patterns)


def _copy(store: Storage, paths: Sequence[str], folder: Path) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(lambda path: store.download(path, folder / path), paths))


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """A lock among all processes of this machine. It is released if its holder dies."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
