"""Which models a run folder may name, and whether the model is still the one that its words were learned on.

Only models that ship with wordmint are loaded because run.json names them. A run folder may come from somebody else, and the
name of a model or judge decides which files are opened.
"""

from collections.abc import Mapping
from typing import Any

from pipeline.models.find import MINI, Model, ModelError
from pipeline.store.damaged import DamagedFileError
from pipeline.store.run_folder import RunFolder
from pipeline.store.storage import StorageNotFoundError, without_credentials


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
