"""What a run is told, and what it gives back: frozen records, so that a command, a notebook and a scheduler ask alike."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.inputs.manifest import RowDefaults
from pipeline.models.find import MINI
from pipeline.records import Failure, Sample
from pipeline.scheduling.deadlines import Deadlines
from pipeline.settings import CheckpointGradients, InversionSettings, ModelSettings, Sampler
from pipeline.store.checkpoints import CHECKPOINT_SECONDS

if TYPE_CHECKING:
    from eval.nightly.history import Verdict
    from eval.scores.summary import Summary

PLACING_SECONDS, STALL_SECONDS = Deadlines().placing, Deadlines().stall
MOST_WORKERS, MOST_PER_WORKER, MOST_SLOTS_ASKED = 100_000, 1024, 1024
MOST_CONCEPTS = 1_000_000_000
MOST_SECONDS = 10.0 * 365 * 24 * 60 * 60
MOST_PICTURES, MOST_SAMPLER_STEPS = 10_000, 1000


class NotStartedError(Exception):
    """Nothing was started: what is wrong with the request, the manifest, the model or the cluster, and what to do."""


class NotComparedError(Exception):
    """The runs were scored, but cannot be put together into one night."""


class TooManyFailuresError(Exception):
    """More concepts failed than the person who started the run was ready to accept."""


def require(option: str, value: float | None, least: float, most: float, *, above: bool = False) -> None:
    """Raises ValueError for a number of the command line that is not from `least` to `most`; None is none.

    above: least itself is not taken. What is no number, and infinity, is never taken.
    """
    if value is None or (least <= value <= most and not (above and value == least)):
        return
    whole = "a whole number" if isinstance(value, int) else "a number"
    raise ValueError(
        f"{option} {value}: it takes {whole} {'above' if above else 'from'} {least:,g} {'up ' * above}to {most:,.12g}"
    )


class Listener:
    """What a caller hears while something runs. This one is deaf; jobs/cli/log.py prints."""

    @property
    def live(self) -> bool:
        """Whether the caller has a terminal, on which one line may be written over and over."""
        return False

    def say(self, event: str, text: str, **fields: Any) -> None:
        """event: one word that a program can look for. text: what a person reads. fields: the figures in it."""

    def complain(self, event: str, text: str, **fields: Any) -> None:
        """Something went wrong."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a run's workers run. None leaves it to the cluster.

    workers: at most so many. slots: concepts that each of them trains at once. checkpoint_gradients: whether activations are
    computed twice to save memory; "auto" where that buys slots.
    cpus_per_worker: also its torch threads. ray_address: of the cluster to join; without one, the job's own, else a local Ray.
    shared_filesystem: all nodes see a local output path.
    Raises ValueError naming the option, its value and what is taken.
    """

    workers: int | None = None
    slots: int | None = None
    checkpoint_gradients: CheckpointGradients = "auto"
    gpus_per_worker: float | None = None
    cpus_per_worker: float = 1
    ray_address: str | None = None
    shared_filesystem: bool = False

    def __post_init__(self) -> None:
        require("--workers", self.workers, 1, MOST_WORKERS)
        require("--slots", self.slots, 1, MOST_SLOTS_ASKED)
        require("--cpus-per-worker", self.cpus_per_worker, 0, MOST_PER_WORKER, above=True)
        require("--gpus-per-worker", self.gpus_per_worker, 0, MOST_PER_WORKER)
        gpus = self.gpus_per_worker
        if gpus is not None and gpus > 1 and not float(gpus).is_integer():
            raise ValueError(f"--gpus-per-worker {gpus}: above 1 it takes whole GPUs")


@dataclass(frozen=True, slots=True)
class Limits:
    """When a run gives something up. Times are in seconds.

    max_failures: the run stops when more concepts have failed. checkpoint_seconds: between two step checkpoints.
    placing_seconds: that the first worker may wait for a node. stall_seconds: that a worker may be without a step or a
    picture. concept_seconds: that a concept may take in one go.
    Raises ValueError naming the option, its value and what is taken.
    """

    max_failures: int | None = None
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    placing_seconds: float = PLACING_SECONDS
    stall_seconds: float = STALL_SECONDS
    concept_seconds: float | None = None

    def __post_init__(self) -> None:
        require("--max-failures", self.max_failures, 0, MOST_CONCEPTS)
        require("--checkpoint-seconds", self.checkpoint_seconds, 0, MOST_SECONDS)
        require("--placing-seconds", self.placing_seconds, 0, MOST_SECONDS, above=True)
        require("--stall-seconds", self.stall_seconds, 0, MOST_SECONDS, above=True)
        require("--concept-seconds", self.concept_seconds, 0, MOST_SECONDS, above=True)


@dataclass(frozen=True, slots=True)
class RunRequest:
    """All that a run is told.

    manifest: a path or any fsspec URL. output: the run folder, likewise; without one, beside the manifest or in runs/.
    model: a diffusers folder (path or URL), a hub id, or "mini". clip: an open_clip model that scores. protocol: which
    pictures are drawn and scored: the name of a shipped protocol, or the path of a .toml file.
    columns: our name of a manifest's column -> what this manifest calls it.
    settings: how a word is learned; None has the model's recipe. row_defaults: of manifest rows that do not say themselves.
    import_words: words come from files, by the column `word_file` or from `word_folder`, instead of being learned.
    skip_invalid: bad manifest rows become failures. retry_failed: what failed before with the same inputs is tried again.
    storage_options: keyword arguments for fsspec.
    """

    manifest: str
    output: str | None = None
    model: str = MINI
    clip: str = "mini"
    protocol: str = "quick"
    settings: InversionSettings | None = None
    model_settings: ModelSettings = field(default_factory=ModelSettings)
    columns: Mapping[str, str] = field(default_factory=dict)
    row_defaults: RowDefaults = field(default_factory=RowDefaults)
    import_words: bool = False
    word_folder: str | None = None
    skip_invalid: bool = False
    retry_failed: bool = False
    storage_options: Mapping[str, Any] = field(default_factory=dict)
    placement: Placement = field(default_factory=Placement)
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class RunResult:
    """A run that came to its end.

    url: of the run folder. done: concept -> fingerprint of its word. failures: concept -> why it has no word.
    """

    url: str
    done: Mapping[str, str]
    failures: Mapping[str, Failure]
    seconds: float

    @property
    def report(self) -> str:
        """URL of the report's page."""
        return f"{self.url.rstrip('/')}/report/index.html"


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """All that an evaluation is told.

    runs: URLs of run folders. protocol, clip: None takes each run's own; so does model, where the run names the shipped one.
    dino: "timm:ARCH:FILE", a second judge that sees pictures only. until_ci: half a width of an interval; a prompt's pictures
    are drawn in rounds only until its score is known to within it, 0 draws them all.
    history: URL of the folder of the nights before; None is history/ in the first run. night: its name, None is today's date.
    baseline: a night to compare with besides the last good one; None is the first good one.
    fail_on_drop: a loss of so much beyond chance makes the night a bad one. group_by: a column of the manifest.
    Raises ValueError naming the option, its value and what is taken.
    """

    runs: tuple[str, ...]
    protocol: str | None = None
    model: str | None = None
    clip: str | None = None
    dino: str | None = None
    until_ci: float = 0.0
    history: str | None = None
    night: str | None = None
    fail_on_drop: float | None = None
    group_by: str | None = None
    baseline: str | None = None
    storage_options: Mapping[str, Any] = field(default_factory=dict)
    ray_address: str | None = None

    def __post_init__(self) -> None:
        if self.fail_on_drop is not None and not 0 < self.fail_on_drop < 1:
            raise ValueError(f"--fail-on-drop {self.fail_on_drop}: it takes a similarity between 0 and 1, such as 0.01")
        if not 0 <= self.until_ci < 1:
            raise ValueError(f"--until-ci {self.until_ci}: it takes half a width of an interval, such as 0.005")


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """verdict: on the night. summaries: one a run. failures: words that could not be scored, and why."""

    verdict: "Verdict"
    summaries: "tuple[Summary, ...]"
    failures: tuple[Failure, ...]

    @property
    def good(self) -> bool:
        """Every word has a score, and the night is no worse than the last good one."""
        return self.verdict.good and not self.failures


@dataclass(frozen=True, slots=True)
class PictureRequest:
    """Pictures of prompts with learned words in them.

    run: URL of the run folder whose words these are. word_files: URLs of words of other runs. count: pictures a prompt.
    seed: of the noise. steps: denoising steps. output: folder for the pictures; None is generated/ in the run.
    model: that the words were learned on; None takes the run's own if that is the shipped one.
    Raises ValueError naming the option, its value and what is taken.
    """

    run: str
    prompts: tuple[str, ...]
    word_files: tuple[str, ...] = ()
    count: int = 4
    seed: int = 0
    sampler: Sampler = "dpm++"
    steps: int = 20
    guidance: float = 5.0
    output: str | None = None
    model: str | None = None
    storage_options: Mapping[str, Any] = field(default_factory=dict)
    ray_address: str | None = None

    def __post_init__(self) -> None:
        require("--count", self.count, 1, MOST_PICTURES)
        require("--seed", self.seed, 0, 2**63 - 1)
        require("--steps", self.steps, 1, MOST_SAMPLER_STEPS)
        require("--guidance", self.guidance, 0, 100)


@dataclass(frozen=True, slots=True)
class PictureResult:
    """url: of the folder that the pictures are in. samples: the pictures, in the order of the prompts."""

    url: str
    samples: tuple[Sample, ...]
