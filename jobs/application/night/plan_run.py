"""What a run would do, by name, and how long it would take; nothing is started or written."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from cluster.destination import default_output
from jobs.application.night.catalogue import look_at
from jobs.application.night.rates import Rate, rate_of
from jobs.application.phases import phase
from jobs.application.progress import duration
from jobs.application.recorded import recorded_run, refuse_changed_since
from jobs.application.requests import Listener, NotStartedError, RunRequest
from jobs.application.run_inputs import RunInputs, read_inputs
from pipeline.inputs.manifest import ManifestError
from pipeline.models.find import ModelError
from pipeline.records import Concept, Failure, Source
from pipeline.scheduling.planning import plan
from pipeline.settings import ABSENT, ModelSettings
from pipeline.store.catalogue.retired import retired_words
from pipeline.store.parts import part_path, read_layout, read_table
from pipeline.store.run_folder import RunFolder, shard_of
from pipeline.store.storage import Storage, StorageError, without_credentials

SHOWN = 20  # names of a list in the log; the JSON log has them all
SAID_FILES = 3
OF_A_WORD = ["concept", "placeholder", "initializer", "kind", "vectors", "sources"]


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """What the request would do.

    url: of the run folder, without credentials. new: concepts that were never tried. changed: concept -> what has changed, a few
    words each. again: concepts that failed and would be tried again. gone: words that would retire. returned: retired words that
    would be done again without training. failed: concepts that are not tried, and why. done: concepts with their word.
    respelled: those of `done` that would get another placeholder.
    workers: assumed for the seconds. seconds: from the start to the report. money: at `price` an hour and worker; None without one.
    columns: the manifest's own, which are carried.
    """

    url: str
    new: tuple[str, ...]
    changed: Mapping[str, tuple[str, ...]]
    again: tuple[str, ...]
    gone: tuple[str, ...]
    returned: tuple[str, ...]
    failed: Mapping[str, Failure]
    done: tuple[str, ...]
    rate: Rate
    workers: int
    seconds: float
    price: float | None = None
    columns: frozenset[str] = frozenset()
    respelled: tuple[str, ...] = ()

    @property
    def to_learn(self) -> int:
        """How many words would be learned."""
        return len(self.new) + len(self.changed) + len(self.again)

    @property
    def money(self) -> float | None:
        """In the currency of `price`."""
        return None if self.price is None else self.seconds / 3600 * min(self.workers, self.to_learn) * self.price


def plan_run(request: RunRequest, price: float | None = None, events: Listener | None = None) -> PlannedRun:
    """price: of one worker's hour. events: is told how far the pictures are read, if that lasts.

    Raises NotStartedError if the run could not be started.
    """
    events = events or Listener()
    try:
        inputs = read_inputs(request, events)
        run = RunFolder(Storage(request.output or default_output(request.manifest), request.storage_options))
        refuse_changed_since(run, inputs.model)
        return _planned(request, inputs, run, price, events)
    except (ManifestError, ModelError, StorageError, ValueError) as error:
        raise NotStartedError(str(error)) from error


def _planned(
    request: RunRequest, inputs: RunInputs, run: RunFolder, price: float | None, events: Listener
) -> PlannedRun:
    made = recorded_run(run)
    with phase(events, "reading the pictures") as counts:
        planned = plan(
            inputs.manifest.concepts, run, inputs.model, request.model_settings.label, inputs.settings,
            dict(run.storage.options), retry_failed=request.retry_failed,
            retired={(word.concept, word.short) for word in retired_words(run)},
            step=counts.of("looked at the pictures of", "concepts"),
        )  # fmt: skip
    catalogue = look_at(run, inputs.manifest, planned, only_this_manifest=request.only_this_manifest)
    words = _words(run, planned.files)
    settings = _changed_settings(made, request, inputs)
    changed, again = {}, []
    for concept in planned.left:
        if concept.name in words:
            files = planned.files[concept.name]
            changed[concept.name] = _changes(concept, words[concept.name], files, settings)
        elif concept.name in planned.files:
            again.append(concept.name)
    rate = rate_of(made, inputs.settings)
    workers = request.placement.workers or rate.workers
    return PlannedRun(
        without_credentials(run.storage.url),
        tuple(each.name for each in planned.left if each.name not in planned.files),
        changed,
        tuple(again),
        tuple(sorted(catalogue.gone)),
        tuple(sorted(catalogue.returned)),
        {each.concept: each for each in (*inputs.manifest.failures, *planned.failed)},
        tuple(sorted(planned.done)),
        rate,
        workers,
        rate.seconds(len(planned.left), workers),
        price,
        frozenset(name for concept in inputs.manifest.concepts for name in concept.carried),
        tuple(sorted(planned.respelled)),
    )


def _words(run: RunFolder, names: Collection[str]) -> dict[str, dict[str, Any]]:
    """Concept -> a row of its word as it was learned, for those that have one in the table."""
    if not names:
        return {}
    parts = read_layout(run)["embeddings"]
    rows_of: dict[str, dict[str, Any]] = {}
    for number in sorted({shard_of(name, parts) for name in names}):
        table = read_table(run, part_path("embeddings", number, parts), OF_A_WORD)
        rows = [] if table is None else table.to_pylist()
        rows_of |= {row["concept"]: row for row in rows if row["concept"] in names}
    return rows_of


def _changes(
    concept: Concept, word: Mapping[str, Any], files: Sequence[Source], settings: Sequence[str]
) -> tuple[str, ...]:
    """What has changed since the word was learned. settings: those of the whole run."""
    before = {source["url"]: source["digest"] for source in word["sources"] or ()}
    now = {without_credentials(source.url): source.digest for source in files}
    said = [
        f"{_name(url)} {'is new' if url not in before else 'is gone' if url not in now else 'has changed'}"
        for url in sorted(before.keys() | now.keys())
        if before.get(url) != now.get(url)
    ]
    if len(said) > SAID_FILES:
        said = [*said[:SAID_FILES], f"{len(said) - SAID_FILES} more files"]
    own = (
        ("placeholder", word["placeholder"], concept.placeholder),
        ("initializer", word["initializer"], concept.initializer or ""),
        ("kind", word["kind"], concept.kind), ("vectors", len(word["vectors"]), concept.vectors),
    )  # fmt: skip
    said += [f"{name} {old} -> {new}" for name, old, new in own if old != new]
    return (*said, *settings) or ("captions, or settings of an earlier run",)


def _changed_settings(made: Mapping[str, Any], request: RunRequest, inputs: RunInputs) -> list[str]:
    """Those that the last run had otherwise. made: run.json."""
    if not made:
        return []
    now = json.loads(json.dumps(inputs.settings.as_dict()))
    before = {**json.loads(json.dumps(ABSENT)), **made.get("settings", {})}
    said = [f"setting {name} {before.get(name)} -> {value}" for name, value in now.items() if before.get(name) != value]
    dtype = ModelSettings(**made.get("model_settings", {})).label
    if dtype != request.model_settings.label:
        said.append(f"dtype {dtype} -> {request.model_settings.label}")
    if made.get("model_digest") != inputs.model.digest:
        said.append(f"model {made.get('model')} -> {inputs.model.name}, weights {inputs.model.digest[:12]}")
    return said


def _name(url: str) -> str:
    return PurePosixPath(url.rpartition("://")[2]).name


def lines_of_plan(planned: PlannedRun) -> list[str]:
    """The plan as lines of text."""
    said = [f"plan      {planned.url}; nothing is started"]
    for title, names in (("new", planned.new), ("again", planned.again)):
        said += [f"{title:<9} {len(names)}{_listed(names)}"] if names else []
    for title, reasons in (
        ("changed", {name: ", ".join(why) for name, why in planned.changed.items()}),
        ("failed", {name: failure.reason for name, failure in planned.failed.items()}),
    ):
        if reasons:
            said.append(f"{title:<9} {len(reasons)}" + (", not tried again" if title == "failed" else ""))
            said += [f"  {name}: {why}" for name, why in sorted(reasons.items())[:SHOWN]]
            said += [f"  and {len(reasons) - SHOWN} more"] if len(reasons) > SHOWN else []
    named = (
        ("gone", planned.gone), ("returned", planned.returned), ("respelled", planned.respelled), ("done", planned.done)
    )  # fmt: skip
    for title, names in named:
        said += [f"{title:<9} {len(names)}{_listed(names)}"] if names else []
    if not planned.to_learn:
        return [*said, "time      no word to learn"]
    workers = f"{planned.workers} worker{'s' * (planned.workers != 1)}"
    said.append(f"time      about {duration(planned.seconds)} with {workers}: {planned.rate.source}")
    if planned.money is not None:
        said.append(f"money     about {planned.money:,.2f}, at {planned.price:g} an hour and worker")
    return said


def _listed(names: Sequence[str]) -> str:
    return f": {', '.join(names[:SHOWN])}" + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
