"""Every setting that changes a word, validated where it is made and saved with the output."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from pipeline.text_files import MOST_SENTENCE, is_one_line

CropMode = Literal["centre", "pad", "squash"]
EarlyStop = Literal["settled", "dvar", "off"]
Schedule = Literal["constant", "linear", "cosine"]
Start = Literal["words", "statistics", "nearest", "pictures", "fitted"]
Masks = Literal["off", "alpha", "sidecar"]
Norm = Literal["free", "vocabulary"]
Optimiser = Literal["adamw", "directional"]
WordPlace = Literal["input", "output"]
Sampler = Literal["ddim", "dpm++", "euler"]
FlowTimes = Literal["logit_normal", "uniform"]
Timesteps = Literal["spread", "uniform"]

# At these values an option is as if it were not there. They stay out of fingerprints, so that an option which is new
# does not undo the words of runs that knew nothing of it.
ABSENT: dict[str, object] = {
    "schedule": "constant", "warmup_steps": 0, "start": "words", "start_clip": "", "start_encoder": "",
    "templates": (), "captions": False,
    "masks": "off", "background": 0.0, "progressive": 0.0, "per_image": 0.0, "regularisation": 0.0, "min_snr": 0.0,
    "norm": "free", "norm_limit": 0.0, "flow_times": "logit_normal", "timesteps": "spread",
    "cross_initialised": False, "encoders": (), "optimiser": "adamw", "concentration": 1e-4,
    "word_place": "input",
}  # fmt: skip


# What fields are called in a sentence, where that is not their name.
SAID = {
    "warmup_steps": "warm-up steps",
    "templates": "template",
    "per_image": "per-image words",
    "min_snr": "min-SNR gamma",
}

CheckpointGradients = Literal["auto", "on", "off"]
FastMode = Literal["blocks", "graph"]
Compile = Literal["auto", "off", FastMode]
MOST_SLOTS = 64  # that a worker tries when it measures how many it should have
DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")


class SettingError(ValueError):
    """A setting that cannot be: its value and what is allowed. field: which one."""

    def __init__(self, field: str, value: object, allowed: str) -> None:
        super().__init__(f"{SAID.get(field, field.replace('_', ' '))} is {value!r}; it must be {allowed}")
        self.field = field


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """In what precision the parts of the frozen model are held, and where its autoencoder rests.

    dtype: of the U-Net; "auto" is float32 on CPUs, and on GPUs bfloat16, or float16 where they have none.
    text_encoder_dtype: "auto" is the U-Net's. The words themselves are float32 whatever they go through.
    first_stage_dtype: "auto" is float32, and beside a float16 U-Net float16 for those whose config says that they stand it.
    offload_first_stage: it rests in main memory but for the moments in which it encodes or decodes.
    offload_text_encoders: the same for the text encoders, which then take words behind them alone.
    """

    dtype: str = "auto"
    text_encoder_dtype: str = "auto"
    first_stage_dtype: str = "auto"
    offload_first_stage: bool = False
    offload_text_encoders: bool = False

    def __post_init__(self) -> None:
        for name in ("dtype", "text_encoder_dtype", "first_stage_dtype"):
            _require_one_of(name, getattr(self, name), DTYPES)

    @property
    def label(self) -> str:
        """How these tell words apart in fingerprints: as they were asked for, wherever they run."""
        others = (("first stage", self.first_stage_dtype), ("text encoders", self.text_encoder_dtype))
        return ", ".join([self.dtype, *(f"{part} {dtype}" for part, dtype in others if dtype != "auto")])

    def dtypes_on(self, device: str, has_bfloat16: bool = True) -> tuple[str, str]:
        """Of the U-Net and of the text encoders."""
        half = "bfloat16" if has_bfloat16 else "float16"
        unet = self.dtype if self.dtype != "auto" else ("float32" if device == "cpu" else half)
        return unet, unet if self.text_encoder_dtype == "auto" else self.text_encoder_dtype


@dataclass(frozen=True, slots=True)
class InversionSettings:
    """How a word is trained.

    steps: the budget of optimiser steps. batch_size: pictures a step.
    learning_rate: as the optimiser sees it; nothing rescales it. weight_decay: 0, because decay shrinks the word itself.
    schedule, warmup_steps: how the rate changes over the budget (schedules.py).
    resolution: side of the training pictures in pixels; None is the model's own.
    early_stop: by our criterion, "settled", by that of Voronov et al. 2023, "dvar", or not at all (early_stopping.py).
    seed: of every draw, together with the concept's name, the purpose and the step.

    start: from which vectors (start_vectors.py); start_clip: the CLIP that looks for the "nearest" words; start_encoder:
    digest of the start encoder that reads them off the "pictures", or of the start file that was "fitted", which the run fills in.
    templates: sentences in place of templates.py's, with "{}" where the word stands. captions: a .txt beside a picture is
    its sentence. masks, background: what of a picture counts, and by how much the rest does (weighting.py).

    progressive: share of the budget between a vector and the next; 0 trains all from the beginning. Gal et al. 2022,
    section 5.2: a second after 2,000 steps of 5,000, a third after 4,000, which is 0.4.
    per_image: share of the training prompts that hold, besides the word, one that belongs to the picture alone and is
    thrown away in the end (section 5.2; the authors' code: 0.25).
    regularisation: weight of the squared distance of a vector to its initializer's (section 5.2).
    min_snr: gamma of Hang et al. 2023, 5 in their paper; 0 for none.
    flow_times: how often a rectified flow is trained at which time (Esser et al. 2024, section 3.1); other models ignore it.
    cross_initialised: a word starts from what the text encoder makes of its initializer instead of the initializer's own
    vectors (Pang et al. 2023, "Cross Initialization"), and regularisation draws it there.
    timesteps: of a step's pictures, "spread" over all times, one from each interval, or each drawn by itself, "uniform".
    norm: "vocabulary" keeps every vector as long as the vocabulary's mean. norm_limit: at most so many times that; 0 for
    no limit.
    optimiser: "directional" learns a vector's direction at the vocabulary's mean length (directional.py; Kim et al. 2025).
    concentration: kappa of its prior, which draws a direction towards its initializer's; 0 for none.
    encoders: keys of the text encoders that the word is learned in, as word files have them (word_files.py); () for all. The
    others read the placeholder as plain text.
    word_place: "output" learns vectors that take the place of the text encoder's output instead of its input. They are kept
    at its usual length, and it reads each sentence once, without a gradient, the word as zeros (as OneTrainer has it).

    Raises ValueError naming the setting, its value and what is allowed.
    """

    steps: int = 200
    batch_size: int = 4
    learning_rate: float = 5e-3
    weight_decay: float = 0.0
    resolution: int | None = None
    crop: CropMode = "centre"
    flip: bool = True
    early_stop: EarlyStop = "settled"
    seed: int = 0
    minimum_images: int = 1
    schedule: Schedule = "constant"
    warmup_steps: int = 0
    start: Start = "words"
    start_clip: str = ""
    start_encoder: str = ""
    templates: tuple[str, ...] = ()
    captions: bool = False
    masks: Masks = "off"
    background: float = 0.0
    progressive: float = 0.0
    per_image: float = 0.0
    regularisation: float = 0.0
    min_snr: float = 0.0
    norm: Norm = "free"
    norm_limit: float = 0.0
    flow_times: FlowTimes = "logit_normal"
    timesteps: Timesteps = "spread"
    cross_initialised: bool = False
    encoders: tuple[str, ...] = ()
    optimiser: Optimiser = "adamw"
    concentration: float = 1e-4
    word_place: WordPlace = "input"

    def __post_init__(self) -> None:
        _require(0 <= self.steps <= 1_000_000, "steps", self.steps, "a whole number from 0 to 1,000,000")
        _require(1 <= self.batch_size <= 1024, "batch_size", self.batch_size, "a whole number from 1 to 1,024")
        _require(0 < self.learning_rate < 10, "learning_rate", self.learning_rate, "above 0 and below 10")
        _require(0 <= self.weight_decay < 1, "weight_decay", self.weight_decay, "from 0 up to, not including, 1")
        _require(
            self.resolution is None or (self.resolution % 8 == 0 and 32 <= self.resolution <= 2048),
            "resolution",
            self.resolution,
            "a multiple of 8 from 32 to 2,048",
        )
        for name, choices in (
            ("crop", CropMode), ("early_stop", EarlyStop), ("schedule", Schedule), ("start", Start), ("masks", Masks),
            ("norm", Norm), ("flow_times", FlowTimes), ("timesteps", Timesteps),
            ("optimiser", Optimiser), ("word_place", WordPlace),
        ):  # fmt: skip
            _require_one_of(name, getattr(self, name), get_args(choices))
        _require(0 <= self.seed < 2**63, "seed", self.seed, "from 0 to 2^63 - 1")
        _require(self.minimum_images >= 1, "minimum_images", self.minimum_images, "at least 1")
        _require(
            0 <= self.warmup_steps < max(self.steps, 1),
            "warmup_steps",
            self.warmup_steps,
            f"from 0 to below {self.steps} steps",
        )
        _require(
            bool(self.start_clip) == (self.start == "nearest"),
            "start_clip",
            self.start_clip,
            "the name of a CLIP where the start is 'nearest', and nowhere else",
        )
        _require(
            not self.start_encoder or self.start in ("pictures", "fitted"),
            "start_encoder",
            self.start_encoder,
            "empty where the start is neither 'pictures' nor 'fitted'",
        )
        for template in self.templates:
            _require(
                template.count("{}") == 1 and is_one_line(template) and len(template) <= MOST_SENTENCE,
                "templates",
                template,
                f"one line of at most {MOST_SENTENCE:,} characters with one {{}} where the word stands",
            )
        _require(0 <= self.background < 1, "background", self.background, "from 0 up to, not including, 1")
        _require(self.background == 0 or self.masks != "off", "background", self.background, "0 without masks")
        _require(0 <= self.progressive < 1, "progressive", self.progressive, "from 0 up to, not including, 1")
        _require(0 <= self.per_image <= 1, "per_image", self.per_image, "a share from 0 to 1")
        for name, value in (
            ("regularisation", self.regularisation),
            ("min_snr", self.min_snr),
            ("norm_limit", self.norm_limit),
            ("concentration", self.concentration),
        ):
            _require(0 <= value < math.inf, name, value, "0 or above")
        _require(
            not self.cross_initialised or self.start == "words",
            "start",
            self.start,
            "'words' with cross initialisation",
        )
        _require(self.norm == "free" or not self.norm_limit, "norm_limit", self.norm_limit, "0 where the norm is fixed")
        held = (("weight_decay", 0), ("norm", "free"), ("norm_limit", 0))
        if self.optimiser == "directional":
            self._require_at((*held, ("regularisation", 0)), "with the directional optimiser")
        if self.word_place == "output":
            behind = "with a word behind the text encoder"
            self._require_at((*held, ("cross_initialised", False)), behind)
            _require(self.start in ("words", "fitted"), "start", self.start, f"words or a start file {behind}")
        if self.optimiser != "directional" and self.concentration != ABSENT["concentration"]:
            raise SettingError(
                "concentration", self.concentration, f"{ABSENT['concentration']} without the directional optimiser"
            )

    def _require_at(self, values: tuple[tuple[str, object], ...], where: str) -> None:
        for name, without in values:
            value = getattr(self, name)
            _require(value == without, name, value, f"{without} {where}")

    def refuse_vectors(self, vectors: int) -> None:
        """Raises ValueError for a word of so many vectors that the last ones would never be trained."""
        if (vectors - 1) * self.progressive >= 1:
            raise ValueError(
                f"progressive is {self.progressive}: the last of {vectors} vectors would join after the budget's end; it "
                f"must be below {1 / (vectors - 1):g} for so many"
            )

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def fingerprinted(self) -> dict[str, Any]:
        """Those that enter a fingerprint: all but the options that are as if they were not there."""
        return {name: value for name, value in self.as_dict().items() if name not in ABSENT or value != ABSENT[name]}


def _require_one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    *others, last = choices
    _require(value in choices, name, value, f"{', '.join(others)} or {last}")


def _require(holds: bool, field: str, value: object, allowed: str) -> None:
    if not holds:
        raise SettingError(field, value, allowed)
