"""What a run folder records of its model and of a run that was cut short, and what of that is believed.

Only models that ship with wordmint are loaded because run.json names them. A run folder may come from somebody else, and the
name of a model or judge decides which files are opened.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from jobs.application.requests import NotStartedError, TooManyFailuresError
from pipeline.models.find import MINI, Model, ModelError
from pipeline.scheduling.shared_paths import UnseenPathError
from pipeline.store.damaged import DamagedFileError
from pipeline.store.run_folder import RunFolder
from pipeline.store.storage import StorageError, StorageNotFoundError, without_credentials

LONGEST = 500  # characters of a reason
PACKAGES = ("ray", "torch", "diffusers", "transformers", "open_clip_torch", "pyarrow", "wordmint")


class UnnamedError(ValueError):
    """A run folder names a model or judge that does not ship with wordmint and that the command did not name."""


def allowed(recorded: object, given: str | None, option: str, url: str) -> str:
    """The name to load: the one `given` with `option`, else the one `recorded` in run.json if it ships with wordmint.

    url: of the run, without credentials. Raises UnnamedError.
    """
    if given:
        return given
    if recorded == MINI:
        return MINI
    raise UnnamedError(
        f"{url}/run.json names {str(recorded)[:200]!r} for {option}; what a run folder names is loaded only if it ships with "
        f"wordmint: if you trust it, say {option} {str(recorded)[:200]}"
    )


def refuse_changed(model: Model, made: Mapping[str, Any], url: str) -> None:
    """made: run.json's content; an older version's says nothing of scheduler and tokenizer. url: of the run, without credentials.

    Raises ModelError if the model is not the one that the run's words were learned on.
    """
    if made["model_digest"] != model.digest:
        raise ModelError(
            f"{url}: its words were learned on {model.name} with weights "
            f"{str(made['model_digest'])[:12]}; here it has {model.digest[:12]}, with which the words mean something else"
        )
    if made.get("model_config_digest", model.config_digest) != model.config_digest:
        raise ModelError(
            f"{url}: its words were learned on {model.name} with another scheduler or tokenizer than it has in {model.folder} now, "
            "with which they mean something else: put back its scheduler/ and tokenizer/, or learn the words anew with another "
            "--output"
        )


def recorded_run(run: RunFolder) -> dict[str, Any]:
    """run.json; {} for a new run, or one whose damaged file is written anew. Raises StorageError."""
    try:
        return run.read_json("run.json")
    except (StorageNotFoundError, DamagedFileError):
        return {}


def refuse_changed_since(run: RunFolder, model: Model) -> None:
    """Before more words are learned into the folder. Other weights have words of their own there; with the same weights,
    scheduler and tokenizer must be the same as well. Raises ModelError and StorageError.
    """
    made = recorded_run(run)
    if made.get("model_digest") == model.digest:
        refuse_changed(model, made, without_credentials(run.storage.url))


def versions() -> dict[str, str | None]:
    """Package -> its version, None if it is not installed."""
    return {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@dataclass(frozen=True, slots=True)
class Ending:
    """why: one line, "" for an interruption by the user. then: what to do."""

    why: str
    then: str


def ending_of(error: BaseException) -> Ending:
    said = without_credentials(" ".join(str(error).split()))[:LONGEST]
    if isinstance(error, KeyboardInterrupt):
        return Ending("", "the same command goes on from here")
    if isinstance(error, StorageError):
        return Ending(f"by its storage: {said}", "once the storage answers, the same command goes on from here")
    if isinstance(error, TooManyFailuresError):
        return Ending(said, "mend the failed concepts, or raise --max-failures; the words that are done are kept")
    if isinstance(error, NotStartedError | UnseenPathError):
        return Ending(said, "the same command would end like this again, until that is changed")
    return Ending(f"by an error, {type(error).__name__}: {said}", "the words that are done are kept")


def record_ending(run: RunFolder, error: BaseException, counts: Mapping[str, int]) -> None:
    """Writes it into progress.json, for status.py; not if the storage is what failed, and still does.

    counts: total, done and failed.
    """
    ending = ending_of(error)
    try:
        before = run.read_json("progress.json")
    except (StorageNotFoundError, DamagedFileError):
        before = {}
    except StorageError:
        return
    now = datetime.now(UTC).isoformat(timespec="seconds")
    content: dict[str, Any] = {
        **before,
        **counts,
        "state": "cut short",
        "why": ending.why,
        "then": ending.then,
        "updated": now,
    }
    try:
        run.write_json("progress.json", content)
    except StorageError:
        return
