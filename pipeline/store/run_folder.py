"""The run folder: the path of each output, and what counts as done.

An attempt writes everything under its own id. Its commit marker, created exclusively and last, makes the concept done. Only
files that a marker names are trusted. publish.py makes the tables from the markers.
"""

import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from pipeline.records import Failure
from pipeline.settings import ModelSettings
from pipeline.store.checkpoints import Checkpoint, decode_checkpoint, encode_checkpoint
from pipeline.store.damaged import DamagedFileError, object_of, say_damaged
from pipeline.store.locations import all_without_credentials
from pipeline.store.remote.object_stores import EXACTLY_ONCE
from pipeline.store.storage import Storage, StorageNotFoundError, StorageTooLargeError, scheme_of, without_credentials

Record = TypeVar("Record")

ATTEMPTS, COMMITTED, FAILED, CHECKPOINTS = "_attempts", "_committed", "_failed", "_checkpoints"
RUN = "run.json"
NO_VERSION, SECONDS_OF_A_PROBE = "999", 60.0
MOST_JSON = 5_000_000  # bytes; what we write has some thousands
# What a run writes there and a command may need, and what may be missing. Names to load are judged where they are loaded.
RECORDED: dict[str, Any] = {
    "model": object, "model_digest": str, "clip": object, "manifest": str, "protocol": str, "updated": str, "finished": bool,
    "settings": dict, "model_settings": dict, "settings.seed": int, "settings.steps": int, "settings.resolution": int | None,
}  # fmt: skip
OPTIONAL: dict[str, Any] = {"counts": dict, "seconds_until": dict, "protocol_settings": dict, "model_family": str}


@dataclass(frozen=True, slots=True)
class Marker:
    """The word of (concept, fingerprint) is done; its files are those of `attempt`, or already published."""

    concept: str
    fingerprint: str
    attempt: str
    steps: int
    seconds: float


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder at `storage`'s URL: every path in it, and what is kept under its internal names."""

    storage: Storage

    def word_path(self, concept: str) -> str:
        return f"words/{concept}.safetensors"

    def candidate_path(self, concept: str) -> str:
        """Of a word that is not public, or not yet; see catalogue/accepted.py."""
        return f"candidates/{concept}.safetensors"

    def grid_path(self, concept: str) -> str:
        return f"grids/{concept}.png"

    def attempt_path(self, concept: str, fingerprint: str, attempt: str, file: str) -> str:
        return f"{ATTEMPTS}/{concept}@{short(fingerprint)}@{attempt}@{file}"

    def committed(self) -> set[tuple[str, str]]:
        """(concept, short fingerprint) of every marker, by one listing."""
        return _keys(self.storage.names(COMMITTED))

    def failed(self) -> set[tuple[str, str]]:
        """(concept, short fingerprint) of every recorded failure, by one listing."""
        return _keys(self.storage.names(FAILED))

    def commit(self, marker: Marker) -> bool:
        """True if this attempt is the one that counts; False if another attempt committed the same word before."""
        path = f"{COMMITTED}/{_file(marker.concept, marker.fingerprint)}"
        return self.storage.create_exclusive(path, _json(asdict(marker)))

    def is_committed(self, concept: str, fingerprint: str) -> bool:
        return self.storage.exists(f"{COMMITTED}/{_file(concept, fingerprint)}")

    def marker(self, concept: str, fingerprint: str) -> Marker:
        """Raises DamagedFileError for one that is torn; StorageNotFoundError."""
        return self.marker_at(f"{COMMITTED}/{_file(concept, fingerprint)}")

    def marker_at(self, path: str) -> Marker:
        """A marker that is kept elsewhere. Raises as `marker`."""
        return _record(Marker, self.read_json(path), path)

    def withdraw(self, concept: str, fingerprint: str) -> None:
        """Undoes a commit; `fingerprint` may be the short one."""
        self.storage.delete(f"{COMMITTED}/{_file(concept, fingerprint)}")

    def checkpointed(self) -> list[str]:
        """The concepts that have a step checkpoint, by one listing."""
        return [name.removesuffix(".safetensors") for name in self.storage.names(CHECKPOINTS)]

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        self.storage.write_bytes(_checkpoint(checkpoint.concept), encode_checkpoint(checkpoint))

    def checkpoint(self, concept: str) -> Checkpoint | None:
        """The latest checkpoint, of whichever fingerprint; None if there is none."""
        try:
            checkpoint = decode_checkpoint(self.storage.read_bytes(_checkpoint(concept)))
        except StorageNotFoundError:
            return None
        if checkpoint is None:
            say_damaged(_checkpoint(concept), "no checkpoint of this version")
        return checkpoint

    def forget_checkpoint(self, concept: str) -> None:
        self.storage.delete(_checkpoint(concept))

    def record_failure(self, failure: Failure) -> None:
        """Records a failure. One at listing the images is recorded without a fingerprint, and the next plan lists them
        again. Any other failure without a fingerprint is not recorded, and the next run tries the concept again.
        """
        if failure.fingerprint or failure.stage == "images":
            path = f"{FAILED}/{_file(failure.concept, failure.fingerprint)}"
            self.write_json(path, asdict(failure))

    def failure(self, concept: str, fingerprint: str) -> Failure:
        """Raises DamagedFileError for one that is torn; StorageNotFoundError."""
        path = f"{FAILED}/{_file(concept, fingerprint)}"
        return _record(Failure, self.read_json(path), path)

    def forget_failure(self, concept: str, fingerprint: str) -> None:
        self.storage.delete(f"{FAILED}/{_file(concept, fingerprint)}")

    def write_json(self, path: str, content: dict[str, Any]) -> None:
        """Without credentials, whatever text they are in."""
        self.storage.write_bytes(path, _json(all_without_credentials(content, self.storage.options)))

    def read_json(self, path: str, at_most: int = MOST_JSON) -> dict[str, Any]:
        """Raises DamagedFileError, also for a file of more than `at_most` bytes, and StorageError."""
        shown = without_credentials(self.storage.join(path), self.storage.options)
        try:
            return object_of(self.storage.read_bytes(path, at_most), shown)
        except StorageTooLargeError as error:
            raise DamagedFileError(f"{shown} is damaged: {error}") from None

    def read_run(self, *needed: str) -> dict[str, Any]:
        """run.json, which holds these of RECORDED. Raises StorageError, and DamagedFileError for one that does not, as a stranger's
        or an old version's may.
        """
        content = self.read_json(RUN)
        shown = without_credentials(self.storage.join(RUN), self.storage.options)
        for name in (*needed, *(name for name in OPTIONAL if content.get(name) is not None)):
            value: Any = content
            for part in name.split("."):
                value = value.get(part, ...) if isinstance(value, dict) else ...
            if value is ... or not isinstance(value, (RECORDED | OPTIONAL)[name]):
                raise DamagedFileError(f"{shown}: its entry {name!r} is missing, or is not what a run writes there")
        if "model_settings" in needed and (
            odd := sorted(set(content["model_settings"]) - set(ModelSettings.__slots__))
        ):
            raise DamagedFileError(
                f"{shown}: its model_settings name {odd[0][:100]!r}, which this version does not know"
            )
        return content


def doubt_of_exactly_once(storage: Storage) -> str:
    """Why two workers that finish one word at the same time may both take theirs for the one that counts; "" if they cannot.

    Raises StorageError for a folder that cannot be written.
    """
    probe = f"_writable-{uuid.uuid4().hex}"
    storage.write_bytes(probe, b"")
    try:
        twice = storage.create_exclusive(probe, b"")
        replaced = storage.replace(probe, b"x", NO_VERSION, probe, lambda: SECONDS_OF_A_PROBE)
    finally:
        storage.delete(probe)
    shown, then = without_credentials(storage.url), "run one driver at a time, or a training may be lost"
    if twice:
        return f"{shown} has no conditional writes (it created one file twice): {then}"
    if scheme_of(storage.url) not in EXACTLY_ONCE:
        tested = ", ".join(f"{scheme}://" for scheme in sorted(EXACTLY_ONCE - {"local"}))
        return f"{shown} was not tested for writers that race; {tested} were: {then}"
    if replaced:
        return f"{shown} does not compare versions when it replaces a file: {then}"
    return ""


def _record(kind: type[Record], content: Mapping[str, Any], path: str) -> Record:
    try:
        made = kind(**content)
    except TypeError as error:
        raise DamagedFileError(f"{path} is damaged: {error}") from None
    if not all(isinstance(getattr(made, name), str) for name in ("concept", "fingerprint")):
        raise DamagedFileError(f"{path} is damaged: its concept or its fingerprint is no text")
    return made


def _checkpoint(concept: str) -> str:
    return f"{CHECKPOINTS}/{concept}.safetensors"


def short(fingerprint: str) -> str:
    """A prefix of the fingerprint, long enough for file names."""
    return fingerprint[:16]


def shard_of(concept: str, shards: int) -> int:
    """Which part of a table holds the concept. It depends on the name alone, so all writers agree."""
    return int.from_bytes(hashlib.sha256(concept.encode()).digest()[:8], "big") % shards


def _file(concept: str, fingerprint: str) -> str:
    # "@" is not allowed in a concept's name, so the two halves can always be told apart.
    return f"{concept}@{short(fingerprint)}.json"


def _keys(names: Iterable[str]) -> set[tuple[str, str]]:
    return {(name.split("@")[0], name.split("@")[1].removesuffix(".json")) for name in names if "@" in name}


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
