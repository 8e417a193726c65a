"""Fits a start file: to the words of finished runs, or to the model's own vocabulary."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cluster.addresses import ClusterError, joined_address
from cluster.session import Session, ray_session
from jobs.application.local_paths import local_paths
from jobs.application.phases import phase
from jobs.application.recorded import allowed
from jobs.application.requests import Listener, NotStartedError, require
from pipeline.models.find import MINI, Model, ModelError, find_model
from pipeline.scheduling.shared_paths import UnseenPathError, seen_everywhere
from pipeline.store.run_folder import RunFolder
from pipeline.store.storage import Storage, StorageError, without_credentials
from pipeline.training.start_file import StartFile, encode_start_file

if TYPE_CHECKING:
    from eval.starts.archive_fit import Fit, FittedMap
    from eval.starts.gain import Gain

MOST_MEASURED = 1_000


@dataclass(frozen=True, slots=True)
class FitRequest:
    """What a start file is fitted to, and where it goes.

    runs: URLs of run folders; () fits to the vocabulary of `model`. output: path or URL of the file.
    model, clip: None takes the runs' own, if they are the shipped ones. nouns: words of the vocabulary to fit to; () for all.
    measure: number of learned words that are learned again to measure the gain; 0 for none.
    Raises ValueError with the option, its value and the values allowed.
    """

    output: str
    runs: tuple[str, ...] = ()
    model: str | None = None
    clip: str | None = None
    nouns: tuple[str, ...] = ()
    measure: int = 8
    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    ray_address: str | None = None

    def __post_init__(self) -> None:
        require("--measure", self.measure, 0, MOST_MEASURED)
        if self.runs and self.nouns:
            raise ValueError("--nouns: words of the vocabulary are for --vocabulary, which takes no runs")


@dataclass(frozen=True, slots=True)
class FitResult:
    """url: of the file. digest: sha256 of its bytes. maps: what was fitted. gain: None where it was not measured."""

    url: str
    digest: str
    maps: "tuple[FittedMap, ...]"
    gain: "Gain | None"


def fit_starts(request: FitRequest, events: Listener | None = None) -> FitResult:
    """Raises NotStartedError before anything is written: no such run, words of different models or CLIPs, too few words."""
    events = events or Listener()
    options = request.storage_options
    try:
        place, name = _place_of(request)
        joined_address(request.ray_address)  # a mistyped one is told before runs are read
        runs = [RunFolder(Storage(url, options)) for url in request.runs]
        if not runs:
            model, clip = find_model(request.model or MINI, options), request.clip or MINI
            with phase(events, "fitting to the vocabulary"):
                fitted = _of_vocabulary(request, model, clip)
            return _write(place, name, fitted, None, events)
        model, clip = _common(runs, request)
        with phase(events, "fitting"):
            fit = _of_archive(runs, model, clip)
        for (kind, vectors), count in fit.left_out.items():
            said = f"{count} {kind}s of {vectors} vectors are too few for a map of their own; their words will start from words"
            events.say("left out", said)
        with phase(events, "learning words that were left out"):
            gain = _measured(request, runs, fit, model, clip)
        return _write(place, name, (fit.start, fit.maps), gain, events)
    except (ClusterError, ModelError, StorageError, UnseenPathError, OSError, ValueError) as error:
        raise NotStartedError(str(error)) from error


def _place_of(request: FitRequest) -> tuple[Storage, str]:
    """The folder of the file, and its name in it. Raises ValueError."""
    folder, _, name = request.output.rpartition("/")
    try:
        if not name:
            raise ValueError("it takes the name of a file, such as starts.safetensors")
        return Storage(folder or ".", request.storage_options), name
    except (StorageError, ValueError) as error:
        raise ValueError(f"--output {request.output}: {error}") from error


def _common(runs: list[RunFolder], request: FitRequest) -> tuple[Model, str]:
    """The model and the CLIP that all runs have in common. Raises ValueError, ModelError and StorageError."""
    made = [run.read_run("model", "model_digest", "clip", "settings", "model_settings") for run in runs]
    shown = [without_credentials(url, request.storage_options).rstrip("/") for url in request.runs]
    clip = allowed(made[0]["clip"], request.clip, "--clip", shown[0])
    model = find_model(allowed(made[0]["model"], request.model, "--model", shown[0]), request.storage_options)
    for url, each in zip(shown, made, strict=True):
        if each["model_digest"] != model.digest:
            raise ModelError(
                f"{url}: its words were learned on {each['model']!r} with weights {str(each['model_digest'])[:12]}, and "
                f"{model.name!r} has {model.digest[:12]}; fit a file for each model"
            )
    return model, clip


def _of_archive(runs: list[RunFolder], model: Model, clip: str) -> "Fit":
    from eval.starts.archive import read_archive
    from eval.starts.archive_fit import fit_archive

    return fit_archive(read_archive(runs, clip), model.name, model.digest, clip)


def _of_vocabulary(request: FitRequest, model: Model, clip: str) -> "tuple[StartFile, tuple[FittedMap, ...]]":
    with ray_session(request.ray_address) as session:
        arguments = (model.name, model.digest, clip, request.nouns, session.device)
        fitted: tuple[StartFile, tuple[FittedMap, ...]] = _in_a_worker(session, _fit_vocabulary, *arguments)
        return fitted


def _measured(request: FitRequest, runs: list[RunFolder], fit: "Fit", model: Model, clip: str) -> "Gain | None":
    count = min(request.measure, len(fit.guessed))
    if not count:
        return None
    chosen = [fit.guessed[place * len(fit.guessed) // count] for place in range(count)]
    with ray_session(request.ray_address) as session:
        paths = () if session.local else local_paths(model.name, clip)
        with seen_everywhere(runs[0].storage, paths):
            gain: Gain = _in_a_worker(
                session,
                _measure_gain,
                runs,
                chosen,
                model.name,
                model.digest,
                clip,
                session.device,
                dict(request.storage_options),
            )
            return gain


def _fit_vocabulary(*arguments: Any) -> Any:
    """In a Ray worker, as the driver imports no torch; so is the next."""
    from eval.starts.vocabulary import fit_vocabulary

    return fit_vocabulary(*arguments)


def _measure_gain(*arguments: Any) -> Any:
    from eval.starts.start_curve import measure_gain

    return measure_gain(*arguments)


def _in_a_worker(session: Session, work: Any, *arguments: Any) -> Any:
    import ray
    from ray.exceptions import RayTaskError

    task: Any = ray.remote(num_cpus=1, num_gpus=1 if session.device == "cuda" else 0, max_retries=3)(work)
    try:
        return ray.get(task.remote(*arguments))
    except RayTaskError as error:
        if isinstance(error.cause, ModelError | ValueError | OSError):
            raise error.cause from None
        raise


def _write(
    place: Storage, name: str, fitted: "tuple[StartFile, tuple[FittedMap, ...]]", gain: "Gain | None", events: Listener
) -> FitResult:
    start, maps = fitted
    data = encode_start_file(start)
    place.write_bytes(name, data)
    url = f"{without_credentials(place.url).rstrip('/')}/{name}"
    for each in maps:
        events.say(
            "map",
            f"map       {each.kind}s of {each.vectors} vector{'s' * (each.vectors > 1)}: {each.concepts} words, "
            f"{each.explained:.0%} of the variance of words left out, lambda {each.strength:.2g}",
            kind=each.kind, vectors=each.vectors, concepts=each.concepts, explained=each.explained, strength=each.strength,
        )  # fmt: skip
    if gain:
        events.say("gain", _said(gain), **{name: getattr(gain, name) for name in gain.__slots__})
    events.say("file", f"file      {url}: {len(data):,} bytes, fitted to {start.fitted_to} of {start.model}", url=url)
    return FitResult(url, hashlib.sha256(data).hexdigest(), maps, gain)


def _said(gain: "Gain") -> str:
    after = f"after {gain.steps} steps" if gain.steps is not None else f"not within {gain.most} steps"
    return (
        f"gain      {gain.concepts} words left out of the fit, no step taken: likeness {gain.fitted:.3f}, from their initializers "
        f"{gain.initializer:.3f}, real pictures {gain.real:.3f}; from their initializers words are as like {after}"
    )
