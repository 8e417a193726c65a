"""Requests and results of runs, evaluations and drawings, as frozen records for commands, notebooks and schedulers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.inputs.manifest import RowDefaults
from pipeline.models.find import MINI
from pipeline.records import Failure, Sample
from pipeline.sampling.blending import Blend
from pipeline.scheduling.deadlines import Deadlines
from pipeline.settings import CheckpointGradients, Compile, InversionSettings, ModelSettings, Sampler
from pipeline.store.checkpoints import CHECKPOINT_SECONDS

if TYPE_CHECKING:
    from eval.nightly.history import Verdict
    from eval.scores.summary import Summary

PLACING_SECONDS, STALL_SECONDS = Deadlines().placing, Deadlines().stall
MOST_WORKERS, MOST_PER_WORKER, MOST_SLOTS_ASKED = 100_000, 1024, 1024
MOST_CONCEPTS = 1_000_000_000
MOST_SECONDS = 10.0 * 365 * 24 * 60 * 60
MOST_DAYS, MOST_KEPT, MOST_REPEATS = 36_500, 1000, 100
MOST_PICTURES, MOST_SAMPLER_STEPS = 10_000, 1000


class NotStartedError(Exception):
    """Nothing was started. The message says what is wrong with the request, manifest, model or cluster, and what to do."""


class NotComparedError(Exception):
    """The runs were scored, but cannot be compared as one night."""


class TooManyFailuresError(Exception):
    """More concepts failed than `Limits.max_failures` allows."""


def require(option: str, value: float | None, least: float, most: float, *, above: bool = False) -> None:
    """Raises ValueError if the value of a command-line option is not between `least` and `most`; None means not given.

    above: `least` itself is refused. NaN is always refused.
    """
    if value is None or (least <= value <= most and not (above and value == least)):
        return
    whole = "a whole number" if isinstance(value, int) else "a number"
    raise ValueError(
        f"{option} {value}: it takes {whole} {'above' if above else 'from'} {least:,g} {'up ' * above}to {most:,.12g}"
    )


class Listener:
    """Receives the messages of a run. This one ignores them; the one in jobs/cli/log.py prints them."""

    @property
    def live(self) -> bool:
        """Whether output goes to a terminal, where a progress line can be overwritten."""
        return False

    def say(self, event: str, text: str, **fields: Any) -> None:
        """event: a fixed name for programs. text: the message for people. fields: its figures."""

    def complain(self, event: str, text: str, **fields: Any) -> None:
        """Something went wrong."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a run's workers run. None: chosen from the cluster's resources.

    workers: the maximum number. slots: concepts that a worker trains at once. checkpoint_gradients: recompute activations in
    the backward pass to save memory; "auto" does so where this makes room for more slots. compile: the model's blocks, or
    capture CUDA graphs; "auto" does what is faster if the run is long enough.
    cpus_per_worker: CPU cores, and torch threads. ray_address: the cluster to join; None joins that of the submitted job, else
    starts a local Ray. shared_filesystem: all nodes see a local output path.
    Raises ValueError with the option, its value and the values allowed.
    """

    workers: int | None = None
    slots: int | None = None
    checkpoint_gradients: CheckpointGradients = "auto"
    compile: Compile = "auto"
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
    """Limits after which a run gives up a concept, a worker or itself. Times are in seconds.

    max_failures: the run stops when more concepts have failed. checkpoint_seconds: time between two checkpoints of a word.
    placing_seconds: longest wait of the first worker for a node. stall_seconds: longest time in which a worker finishes no
    step and no picture. concept_seconds: longest time for one attempt at a concept.
    Raises ValueError with the option, its value and the values allowed.
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
class Gate:
    """What a new word must be before it is public; see eval/nightly/acceptance.py.

    asked: words of this run pass the gate; if not, only those of a folder that has had a gate do.
    word_drop: of one word's reconstruction against the accepted one. least_covered: share of the way from the untrained word's
    pictures to real ones. night_drop: of all words learned again, as --fail-on-drop. keep_words: how many earlier accepted words
    of a concept are kept.
    Raises ValueError with the option, its value and the values allowed.
    """

    asked: bool = False
    word_drop: float = 0.05
    least_covered: float = 0.1
    night_drop: float = 0.01
    keep_words: int = 3

    def __post_init__(self) -> None:
        require("--word-drop", self.word_drop, 0, 1)
        require("--least-covered", self.least_covered, -1, 1)
        require("--night-drop", self.night_drop, 0, 1, above=True)
        require("--keep-words", self.keep_words, 0, MOST_KEPT)


@dataclass(frozen=True, slots=True)
class RunRequest:
    """Everything that defines a run.

    manifest: a path or any fsspec URL. output: path or URL of the run folder; None puts it beside the manifest or in runs/.
    model: a diffusers folder (path or URL), a hub id, or "mini". clip: the open_clip model that scores. protocol: decides which
    pictures are drawn and scored; the name of a shipped protocol, or the path of a .toml file.
    columns: our column name -> the manifest's.
    settings: how a word is learned; None uses the model's recipe. row_defaults: for manifest rows that leave a value out.
    start_file: path or URL of the start file that words start from, where settings.start is "fitted".
    import_words: words are read from files, named in the column `word_file` or found in `word_folder`, instead of learned.
    skip_invalid: invalid manifest rows become failures. retry_failed: concepts that failed with the same inputs are retried.
    only_this_manifest: words that only other manifests of the run folder list retire too. retired_days: how long the word of
    a row that is gone is kept. gate: new words pass it before they are public; a folder keeps it.
    accepted_failures: how many concepts, or which, may fail without making the run a bad one.
    repeats: words of each concept, each from draws of its own; see pipeline/inputs/repeats.py. choose: as many, of which the
    best is public; see eval/nightly/choosing.py.
    metrics: from outside, as module:function or entry points of `wordmint.metrics`; see eval/judges/outside_metric.py.
    keep_features: of all pictures and texts, in picture_features/.
    storage_options: keyword arguments for fsspec.
    Raises ValueError with the option, its value and the values allowed.
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
    start_file: str | None = None
    import_words: bool = False
    word_folder: str | None = None
    skip_invalid: bool = False
    retry_failed: bool = False
    only_this_manifest: bool = False
    retired_days: int = 30
    accepted_failures: int | frozenset[str] = 0
    gate: Gate = field(default_factory=Gate)
    metrics: tuple[str, ...] = ()
    keep_features: bool = False
    repeats: int = 1
    choose: int = 1
    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    placement: Placement = field(default_factory=Placement)
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        require("--retired-days", self.retired_days, 0, MOST_DAYS)
        for option, number in (("--repeats", self.repeats), ("--choose", self.choose)):
            require(option, number, 1, MOST_REPEATS)
            if number > 1 and self.import_words:
                raise ValueError(f"{option} {number}: an imported word is not trained, so there is nothing to repeat")
            if number > 1 and self.gate.asked:
                raise ValueError(f"{option} {number}: not with a gate, which takes every word for a concept of its own")

    @property
    def words_of_each(self) -> int:
        """How many words of each concept are learned."""
        return max(self.repeats, self.choose)


@dataclass(frozen=True, slots=True)
class RunResult:
    """The result of a finished run.

    url: of the run folder. done: concept -> fingerprint of its word. failures: concept -> why it has no word.
    accepted: the request's `accepted_failures`. retired: concepts whose row is gone and whose word is kept.
    held: concept -> why its new word is not public, of those that the gate held back today.
    """

    url: str
    done: Mapping[str, str]
    failures: Mapping[str, Failure]
    seconds: float
    accepted: int | frozenset[str] = 0
    retired: frozenset[str] = frozenset()
    held: Mapping[str, str] = field(default_factory=dict)

    @property
    def unaccepted(self) -> dict[str, Failure]:
        """The failures that make the run a bad one: all of them if there are more than the accepted number."""
        if isinstance(self.accepted, int):
            return dict(self.failures) if len(self.failures) > self.accepted else {}
        return {name: failure for name, failure in self.failures.items() if name not in self.accepted}

    @property
    def report(self) -> str:
        """URL of the report's page."""
        return f"{self.url.rstrip('/')}/report/index.html"


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """Everything that defines an evaluation.

    runs: URLs of run folders. protocol: None takes each run's own. clip, model: None takes each run's own, if it is the shipped
    one. dino: "timm:ARCH:FILE", a second judge that sees pictures only. vqa: the folder of a vision-language model.
    until_ci: half the width of a 95 % interval; a prompt's
    pictures are drawn in rounds until the interval of its score is that narrow; 0 draws them all.
    history: URL of the folder of earlier nights; None is history/ in the first run. night: its name; None is today's date.
    baseline: a night to compare with besides the last good one; None is the first good one.
    fail_on_drop: a loss of this size, beyond chance, makes the night a bad one. group_by: a column of the manifest.
    metrics: from outside, as RunRequest's. keep_features: of all pictures and texts, in picture_features/.
    Raises ValueError with the option, its value and the values allowed.
    """

    runs: tuple[str, ...]
    protocol: str | None = None
    model: str | None = None
    clip: str | None = None
    dino: str | None = None
    vqa: str | None = None
    until_ci: float = 0.0
    history: str | None = None
    night: str | None = None
    fail_on_drop: float | None = None
    group_by: str | None = None
    baseline: str | None = None
    metrics: tuple[str, ...] = ()
    keep_features: bool = False
    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    ray_address: str | None = None

    def __post_init__(self) -> None:
        if self.fail_on_drop is not None and not 0 < self.fail_on_drop < 1:
            raise ValueError(f"--fail-on-drop {self.fail_on_drop}: it takes a similarity between 0 and 1, such as 0.01")
        if not 0 <= self.until_ci < 1:
            raise ValueError(f"--until-ci {self.until_ci}: it takes half the width of an interval, such as 0.005")


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """verdict: the comparison with earlier nights. summaries: one a run. failures: words that could not be scored, and why."""

    verdict: "Verdict"
    summaries: "tuple[Summary, ...]"
    failures: tuple[Failure, ...]

    @property
    def good(self) -> bool:
        """Every word has a score, and the night is no worse than the last good one."""
        return self.verdict.good and not self.failures


@dataclass(frozen=True, slots=True)
class PictureRequest:
    """A request for pictures of prompts with learned words in them.

    run: URL of the run folder with the words. word_files: URLs of word files of other runs. count: pictures per prompt.
    best_of: how many are drawn for each that is kept; judge: the CLIP that chooses them, None for the shipped one.
    negative: the negative prompt of all pictures, such as a negative word.
    blends: further words, each between two of these or of the blends before it.
    seed: of the noise. steps: denoising steps. guidance: guidance scale. output: folder for the pictures; None is generated/ in
    the run. model: the one that the words were learned on; None takes the run's own, if it is the shipped one.
    Raises ValueError with the option, its value and the values allowed.
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
    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    ray_address: str | None = None
    blends: tuple[Blend, ...] = ()
    negative: str = ""
    best_of: int = 1
    judge: str | None = None

    def __post_init__(self) -> None:
        require("--count", self.count, 1, MOST_PICTURES)
        require("--best-of", self.best_of, 1, MOST_PICTURES)
        if self.judge is not None and self.best_of == 1:
            raise ValueError(f"--judge {self.judge}: it chooses among the pictures of --best-of, which is 1")
        require("--seed", self.seed, 0, 2**63 - 1)
        require("--steps", self.steps, 1, MOST_SAMPLER_STEPS)
        require("--guidance", self.guidance, 0, 100)


@dataclass(frozen=True, slots=True)
class PictureResult:
    """url: of the folder with the pictures. samples: the pictures, in the order of the prompts."""

    url: str
    samples: tuple[Sample, ...]
