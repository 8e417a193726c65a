"""A model put together of parts that do not belong together is told in one sentence when it is loaded, and not by every concept."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.models.find import ModelError, find_model
from pipeline.models.load import load_backbone
from tests.tiny_model import save_tiny_model, save_tiny_xl
from tests.tiny_transformers import FAMILIES, save_tiny

pytestmark = [pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning")]
FLOWS = [family for family in FAMILIES if family != "pixart"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    made = {family: save_tiny(family, tmp_path_factory.mktemp(family)) for family in FAMILIES}
    made["sd"] = save_tiny_model(tmp_path_factory.mktemp("sd"), "epsilon")
    return made | {"xl": save_tiny_xl(tmp_path_factory.mktemp("xl"))}


def with_part(tiny: Mapping[str, Path], place: str, taken: str, scratch: Path) -> Path:
    """The model of the family, with a part of another model in a part's place, each as FAMILY/PART."""
    (family, part), (other, others_part) = place.split("/"), taken.split("/")
    copy = Path(shutil.copytree(tiny[family], scratch / "model"))
    shutil.rmtree(copy / part)
    shutil.copytree(tiny[other] / others_part, copy / part)
    return copy


def stating(folder: Path, file: str, **entries: Any) -> Path:
    """An entry of None is taken out."""
    said = json.loads((folder / file).read_text()) | entries
    (folder / file).write_text(json.dumps({name: value for name, value in said.items() if value is not None}))
    return folder


def refused(folder: Path, said: str) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        load_backbone(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", [*FAMILIES, "sd", "xl"])
def test_parts_that_belong_together_are_loaded(family: str, tiny: Mapping[str, Path]) -> None:
    load_backbone(str(tiny[family]))


@pytest.mark.parametrize(
    ("place", "taken", "said"),
    [
        (
            "flux/text_encoder_2",
            "sd3/text_encoder_3",
            "states joint_attention_dim 32, and its text encoders give 80 numbers",
        ),
        (
            "flux/text_encoder",
            "sd3/text_encoder_2",
            "states pooled_projection_dim 32, and its text encoders give 48 numbers",
        ),
        (
            "sd3/text_encoder_3",
            "flux/text_encoder_2",
            "states joint_attention_dim 80, and its text encoders give 32 numbers",
        ),
        (
            "pixart/text_encoder",
            "sd3/text_encoder_3",
            "states caption_channels 32, and its text encoders give 80 numbers",
        ),
        (
            "sd/text_encoder",
            "xl/text_encoder_2",
            "unet/config.json states cross_attention_dim 32, .* text encoders give 48",
        ),
        (
            "xl/text_encoder",
            "xl/text_encoder_2",
            "unet/config.json states cross_attention_dim 80, .* text encoders give 96",
        ),
    ],
)
def test_a_text_encoder_of_another_width_is_told(
    place: str, taken: str, said: str, tiny: Mapping[str, Path], tmp_path: Path
) -> None:
    """Catches a model on which every concept fails with an error about matrices."""
    refused(with_part(tiny, place, taken, tmp_path), f"{said}.*: put the text encoders there that belong to this")


@pytest.mark.parametrize(
    ("place", "taken", "said"),
    [
        ("chroma/text_encoder", "sd/text_encoder", "states model_type 'clip_text_model', and this family has 't5'"),
        ("sana/text_encoder", "z_image/text_encoder", "states model_type 'qwen3', and this family has 'gemma2'"),
        ("z_image/text_encoder", "sana/text_encoder", "states model_type 'gemma2', and this family has 'qwen3'"),
        (
            "qwen_image/text_encoder",
            "z_image/text_encoder",
            "states model_type 'qwen3', and this family has 'qwen2_5_vl'",
        ),
        (
            "chroma/tokenizer",
            "sd/tokenizer",
            "states tokenizer_class 'CLIPTokenizer', and this family has 'T5Tokenizer'",
        ),
        (
            "sana/tokenizer",
            "pixart/tokenizer",
            "states tokenizer_class 'T5Tokenizer', and this family has 'GemmaTokenizer'",
        ),
        (
            "z_image/tokenizer",
            "sana/tokenizer",
            "tokenizer_class 'GemmaTokenizer', and this family has 'Qwen2Tokenizer'",
        ),
        (
            "flux/tokenizer_2",
            "flux/tokenizer",
            "tokenizer_class 'CLIPTokenizer', and this family has 'T5Tokenizer': put its own",
        ),
    ],
)
def test_a_text_encoder_or_tokenizer_of_another_kind_is_told(
    place: str, taken: str, said: str, tiny: Mapping[str, Path], tmp_path: Path
) -> None:
    """Catches prompts that are read as another vocabulary's words, without an error."""
    refused(with_part(tiny, place, taken, tmp_path), said)


@pytest.mark.parametrize("kind", ["T5TokenizerFast", "PreTrainedTokenizerFast", None])
def test_a_tokenizer_that_is_named_as_the_hub_names_it_is_loaded(
    kind: str | None, tiny: Mapping[str, Path], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(tiny["chroma"], tmp_path / "model"))
    load_backbone(str(stating(copy, "tokenizer/tokenizer_config.json", tokenizer_class=kind)))


@pytest.mark.parametrize("family", FLOWS)
def test_a_rectified_flow_without_its_shift_is_told(family: str, tiny: Mapping[str, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny[family], tmp_path / "model"))
    stating(copy, "scheduler/scheduler_config.json", shift=None, flow_shift=None, use_dynamic_shifting=None)
    refused(copy, "is a rectified flow without a shift: scheduler_config.json must state shift, flow_shift or")


@pytest.mark.parametrize("family", FLOWS)
def test_a_rectified_flow_with_the_scheduler_of_a_diffusion_is_told(
    family: str, tiny: Mapping[str, Path], tmp_path: Path
) -> None:
    """Catches words that are learned for the noise of a model that predicts a velocity."""
    copy = Path(shutil.copytree(tiny[family], tmp_path / "model"))
    betas = {"_class_name": "DDIMScheduler", "beta_schedule": "linear", "prediction_type": "epsilon"}
    stating(copy, "scheduler/scheduler_config.json", use_flow_sigmas=None, **betas)
    refused(copy, "its scheduler is one of a diffusion, and .* is a rectified flow: scheduler_config.json must be of a")


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"shift": "3"}, "states shift '3'; it must be a number above 0"),
        ({"shift": 0}, "states shift 0; it must be a number above 0"),
        ({"shift": float("nan")}, "states shift nan; it must be a number above 0"),
        ({"use_dynamic_shifting": True, "max_image_seq_len": 256}, "base_image_seq_len equal to max_image_seq_len"),
        ({"base_shift": float("inf")}, "states base_shift inf; it must be a number$"),
        ({"time_shift_type": "cubic"}, "time_shift_type 'cubic'; it must be 'exponential' or 'linear'"),
    ],
)
def test_a_shift_that_makes_no_sense_is_told(
    entries: dict[str, Any], said: str, tiny: Mapping[str, Path], tmp_path: Path
) -> None:
    """Catches times that are not numbers, found at the first step of every concept."""
    copy = Path(shutil.copytree(tiny["z_image"], tmp_path / "model"))
    refused(stating(copy, "scheduler/scheduler_config.json", **entries), said)


@pytest.mark.parametrize(
    ("stated", "said"),
    [("FluxImg2ImgPipeline", "is a FluxImg2ImgPipeline; this version knows"), (None, "names no class in")],
)
def test_an_unknown_family_is_told(stated: str | None, said: str, tiny: Mapping[str, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny["flux"], tmp_path / "model"))
    with pytest.raises(ModelError, match=f"{said}.*FluxPipeline"):
        find_model(str(stating(copy, "model_index.json", _class_name=stated)))
