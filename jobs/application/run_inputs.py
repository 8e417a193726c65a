"""What a run is made from: the manifest, protocol, model and settings of its request, read and found to fit together."""

from dataclasses import dataclass, replace

from eval.judges.outside_metric import OutsideMetric, find_metrics
from jobs.application.phases import phase
from jobs.application.requests import Listener, RunRequest
from jobs.application.starts.run_starts import Starts, find_starts
from pipeline.inputs.imported_words import with_words
from pipeline.inputs.manifest import Manifest, read_manifest
from pipeline.inputs.repeats import with_repeats
from pipeline.models.families import family_of
from pipeline.models.find import Model, find_model
from pipeline.protocols import Protocol, find_protocol
from pipeline.settings import InversionSettings
from pipeline.training.recipes import recipe_of, vectors_of


@dataclass(frozen=True, slots=True)
class RunInputs:
    """settings: the request's, or the model's recipe, as they enter fingerprints. starts: other than the initializers.
    metrics: from outside.
    """

    manifest: Manifest
    protocol: Protocol
    model: Model
    settings: InversionSettings
    starts: Starts
    metrics: tuple[OutsideMetric, ...] = ()


def read_inputs(request: RunRequest, events: Listener) -> RunInputs:
    """Raises ManifestError, ModelError, StorageError and ValueError."""
    options, settings = request.storage_options, request.settings or recipe_of(request.model)
    row_defaults = replace(request.row_defaults, vectors=request.row_defaults.vectors or vectors_of(request.model))
    with phase(events, "reading the manifest"):
        manifest = read_manifest(request.manifest, options, request.skip_invalid, row_defaults, request.columns)
    if request.import_words:
        manifest = with_words(manifest, request.word_folder, options)
    elif request.words_of_each > 1:
        manifest = with_repeats(manifest, request.words_of_each)
    settings.refuse_vectors(max((concept.vectors for concept in manifest.concepts), default=1))
    protocol = find_protocol(request.protocol)
    protocol.refuse_unsuited(manifest.concepts)
    with phase(events, "reading the model's files"):
        model = find_model(request.model, options)
    family = family_of(model.family)
    family.refuse_unsuited(protocol.sampler, settings.min_snr)
    if negative := next((concept.name for concept in manifest.concepts if concept.kind == "negative"), None):
        family.refuse_negative(f"{negative} is of the kind 'negative'")
    encoders = family.encoders_named(settings.encoders, settings.word_place)
    settings = replace(settings, encoders=encoders)
    if request.model_settings.offload_text_encoders and settings.word_place == "input":
        raise ValueError("--offload-text-encoders: words before a text encoder need it; add --word-place output")
    starts = find_starts(settings, request.start_file, model, manifest.concepts, options)
    metrics = find_metrics(request.metrics)
    return RunInputs(manifest, protocol, model, replace(settings, start_encoder=starts.digest), starts, metrics)
