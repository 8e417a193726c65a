"""The records that stages hand to each other, all frozen. Failure is for a concept that could not go on.

manifest -> Concept -> ImageSet -> Word -> Sample -> Score -> report
"""

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Literal

import numpy as np

Kind = Literal["object", "style", "negative"]
# Between a prompt and its negative prompt, in one text; as AUTOMATIC1111 writes both into its pictures.
AGAINST = "\nNegative prompt: "
# Ends the name of a text encoder for the vectors of a word that stands behind it: in the place of its output.
OUT = "_out"
Stage = Literal["manifest", "images", "model", "inversion", "sampling", "scoring", "worker"]


@dataclass(frozen=True, slots=True)
class Concept:
    """One row of the manifest: what to learn, and from which pictures.

    name: unique, `[A-Za-z0-9][A-Za-z0-9._-]*`, at most 128 characters; names every output.
    images: absolute URLs or paths, each a file, a folder or a glob.
    placeholder: the new word as it is written in prompts, `<name>` unless the manifest says otherwise.
    initializer: the words whose embeddings the new word starts from; None means the mean of the vocabulary.
    noun: the manifest's `class`, the coarse noun ("cat"), if it gives one.
    kind: "negative" for a word of the negative prompt, learned from pictures to be avoided.
    captions: file name of a picture -> its sentence, with "{}" or the placeholder where the word stands.
    word_file: URL of a word that somebody else learned, to be brought in as it is; None for one to be learned.
    line: where the row stands in the manifest, counted from 1 with the header as line 1.
    carried: the manifest's other columns, as text.
    """

    name: str
    images: tuple[str, ...]
    placeholder: str
    _: KW_ONLY
    initializer: str | None = None
    noun: str | None = None
    kind: Kind = "object"
    vectors: int = 1
    line: int = 0
    carried: Mapping[str, str] = field(default_factory=dict)
    word_file: str | None = None
    captions: Mapping[str, str] = field(default_factory=dict)


Role = Literal["picture", "caption", "mask", "word"]


@dataclass(frozen=True, slots=True)
class Source:
    """One file of a concept.

    identity: the file's version in its store (ETag, or time of change) with its size; None if the store gives none that is
    reliable. The same identity means the same bytes.
    digest: sha256 of its bytes in hex; "" if they were not read yet or cannot be read.
    role: picture, caption, mask, or "word" (learned by another trainer). picture: for a caption or mask, the URL of the
    picture it belongs to.
    """

    url: str
    identity: str | None = None
    digest: str = ""
    role: Role = "picture"
    picture: str = ""


@dataclass(frozen=True, slots=True)
class Done:
    """A committed word, with the steps and seconds of its training."""

    concept: str
    fingerprint: str
    steps: int
    seconds: float


@dataclass(frozen=True, slots=True)
class RejectedImage:
    """A file that cannot be used as a training image. reason: a sentence for its owner."""

    url: str
    reason: str


@dataclass(frozen=True, slots=True)
class ImageSet:
    """A concept's training images, upright, on white, square.

    pixels: uint8 (N, R, R, 3). urls, digests: N each, in the order of `pixels`; a digest is the sha256 of the file's bytes.
    sources: all files of the concept, with rejected pictures, captions and masks.
    captions: N, None for a picture without one; () if captions are off. masks: uint8 (N, R, R), 255 where the concept is;
    None if masks are off.
    """

    pixels: np.ndarray
    urls: tuple[str, ...]
    digests: tuple[str, ...]
    rejected: tuple[RejectedImage, ...] = ()
    sources: tuple[Source, ...] = ()
    captions: tuple[str | None, ...] = ()
    masks: np.ndarray | None = None


StoppedBy = Literal["steps", "settled", "dvar", "imported"]


@dataclass(frozen=True, slots=True)
class Word:
    """A learned word.

    vectors: text encoder ("text_encoder", in SDXL also "text_encoder_2", in the paper's model "bert") -> float32 (V, D); for a
    word behind a text encoder its name with OUT.
    initial: the vectors it started from, same shapes.
    learning_rate: the rate that the optimiser used.
    stopped_by: "steps" (the budget ran out), "settled" or "dvar" (early_stopping.py), or "imported": not learned here at all.
    loss: the validation loss at the end. seconds: from admission to the last step.
    stated: of an imported word, what its file says of it: title, date, tags and more.
    """

    concept: str
    placeholder: str
    vectors: Mapping[str, np.ndarray]
    initial: Mapping[str, np.ndarray]
    initializer: str
    steps: int
    stopped_by: StoppedBy
    learning_rate: float
    loss: float
    seconds: float
    stated: Mapping[str, str] = field(default_factory=dict)


SampleKind = Literal["training", "reconstruction", "edit", "untrained", "noun", "wordless"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture of a concept.

    kind: "training" (a training image as the model saw it), "reconstruction" (the protocol's plain prompt), "edit" (one of its
    other prompts), "untrained" (any of those prompts with the word as it was before training; without a negative word where the
    concept is one), "noun" (the plain prompt with
    the concept's class or initializer in the word's place), "wordless" (the plain prompt with nothing there).
    prompt: as it was sampled, placeholder included; "" for training images.
    stated: the prompt with the placeholder left out, which is what text similarity is scored against.
    png: the encoded picture.
    """

    concept: str
    kind: SampleKind
    prompt: str
    stated: str
    index: int
    seed: int
    png: bytes


@dataclass(frozen=True, slots=True)
class Score:
    """One metric of one concept at one prompt, with its floor and ceiling.

    metric: its name in eval/scores/metric_table.py, where its unit, floor and ceiling are described.
    value: the mean over `n` images; low, high: its 95 % interval over the images.
    floor, ceiling: the value of an untrained word and of real images. covered: (value - floor) / (ceiling - floor).
    floor_noun, floor_wordless: the value of the plain prompt's pictures with the class or initializer in the word's place,
    and with nothing there; nan if those were not drawn.
    metric_version: of a metric from outside, its digest; None for ours.
    """

    concept: str
    prompt: str
    metric: str
    value: float
    n: int
    low: float
    high: float
    floor: float
    ceiling: float
    covered: float
    floor_noun: float = math.nan
    floor_wordless: float = math.nan
    metric_version: str | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """A concept without a word. stage: where it failed. reason: a sentence for the owner of the manifest.

    fingerprint: "" when it failed before its images could be read.
    """

    concept: str
    stage: Stage
    reason: str
    attempts: int = 1
    fingerprint: str = ""


EventKind = Literal[
    "worker_lost", "worker_not_started", "call_broken_off", "checkpoint_not_written", "picture_rejected", "diverged",
    "out_of_memory", "not_compiled", "file_damaged", "store_unavailable", "phase",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Event:
    """Something that went wrong during a run, or a phase of a worker's start.

    time: UTC, ISO 8601. worker: short id of the actor; node: its machine; concept: its name; each "" if there is none.
    cause: what happened. action: what is done about it. seconds: duration of a phase. output: last lines of a lost worker.
    """

    time: str
    kind: EventKind
    cause: str
    action: str = ""
    worker: str = ""
    node: str = ""
    concept: str = ""
    seconds: float | None = None
    output: str = ""

    @property
    def sentence(self) -> str:
        """One line for a log: what happened, where, why, and what is done about it."""
        where = ", ".join(
            f"{name} {value}"
            for name, value in (("concept", self.concept), ("worker", self.worker), ("node", self.node))
            if value
        )
        took = "" if self.seconds is None else f" ({self.seconds:.1f} s)"
        said = f"{self.kind.replace('_', ' ')}: {self.cause}{took}" + (f"; {self.action}" if self.action else "")
        return f"{said} [{where}]" if where else said
