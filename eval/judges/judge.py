"""What scoring asks of a judge, and how one is loaded by its name.

mini, FOLDER, MODEL:WEIGHTS, hf-hub:ORG/NAME    clip.py
timm:ARCHITECTURE:FILE                          dino.py
transformers:FOLDER                             transformers_folder.py
vqa:FOLDER                                      vision_language.py
outline                                         outline.py
"""

import typing
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

TIMM, TRANSFORMERS, VQA, OUTLINE = "timm:", "transformers:", "vqa:", "outline"

Features = npt.NDArray[np.float32]
Picture = Image.Image | npt.NDArray[np.uint8]


class ImageScorer(typing.Protocol):
    """A judge of pictures: a CLIP, or a model that reads no texts, such as DINO.

    name: the model's name as given. fingerprint: sha256 of the weights and settings that its features depend on.
    """

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    def encode_images(self, pictures: Sequence[Picture]) -> Features:
        """Pictures, PIL or uint8 (H, W, 3), of any sizes -> (N, D), rows of length one."""
        ...


@typing.runtime_checkable
class ClipScorer(ImageScorer, typing.Protocol):
    """The part of a CLIP that scoring uses."""

    def encode_texts(self, texts: Sequence[str]) -> Features:
        """-> (N, D), rows of length one."""
        ...


@typing.runtime_checkable
class PinsTokenizer(ImageScorer, typing.Protocol):
    """A judge whose tokenizer its fingerprint does not cover. tokenizer_digest: sha256 of the tokenizer's files and settings."""

    tokenizer_digest: str


@typing.runtime_checkable
class RefusesLong(typing.Protocol):
    """A judge that says which texts it cannot read whole."""

    def refuse_long(self, texts: Sequence[str]) -> None:
        """Raises ValueError."""
        ...


@typing.runtime_checkable
class AnsweringJudge(typing.Protocol):
    """A model that answers whether a picture shows a text (vision_language.py)."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    def probabilities(self, pictures: Sequence[Picture], texts: Sequence[str]) -> Features:
        """Of "yes" for each picture and its own text: (N,), in [0, 1]."""
        ...


# Of whatever kind: its name and its fingerprint are recorded beside its scores.
Judge = ImageScorer | AnsweringJudge


def load_judge(name: str, device: str = "cpu") -> Judge:
    """Loads a judge of any kind by its name."""
    if name.startswith(VQA):
        from eval.judges.vision_language import load_vision_language

        return load_vision_language(name, device)
    return load_scorer(name, device)


def load_scorer(name: str, device: str = "cpu") -> ImageScorer:
    """Loads a judge of pictures by its name.

    The libraries that it needs are imported here: that takes seconds, and the driver loads no judge.
    """
    if name == OUTLINE:
        from eval.judges.outline import OutlineScorer

        return OutlineScorer()
    if name.startswith(TRANSFORMERS):
        from eval.judges.transformers_folder import load_transformers

        return load_transformers(name, device)
    if name.startswith(TIMM):
        from eval.judges.dino import load_timm

        return load_timm(name, device)
    from eval.judges.clip import load_clip

    return load_clip(name, device)
