"""Stable Diffusion in one file: the same weights and words as its folder, offline, and every other file told for what it is."""

import functools
import json
import math
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import open_clip
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from jobs.application.local_paths import absolute_name, local_paths
from pipeline.models.base import Backbone
from pipeline.models.families import FAMILIES
from pipeline.models.find import ModelError, find_model
from pipeline.models.load import load_backbone
from pipeline.models.single_file import configured
from pipeline.models.single_file.clip_vocabulary import WORDS, merges, vocabulary
from pipeline.models.single_file.contents import FIRST_INPUT, KINDS, TELLING, read_contents
from pipeline.models.single_file.conversion import converted, empty_part
from pipeline.records import Concept, Word
from pipeline.settings import InversionSettings
from pipeline.training.inversion import new_slot, train_step
from tests.published_names import published
from tests.single_file import save_single_file
from tests.test_documents import ROOT
from tests.tiny_model import AUTOENCODER, PIXELS, load_pipeline

PICTURES = np.random.default_rng(1).integers(0, 256, (3, PIXELS, PIXELS, 3), np.uint8)
SETTINGS = InversionSettings(steps=3, early_stop="off", batch_size=2, learning_rate=5e-3)
OF_KIND = {"sd-1": "epsilon_model", "sd-2-v": "velocity_model", "sd-xl": "xl_model"}


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setenv("WORDMINT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(params=sorted(OF_KIND))
def both(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """(the file, the folder) of the same tiny model; its configurations take the place of those that are shipped."""
    made = make_both(request.param, request.getfixturevalue(OF_KIND[request.param]), tmp_path)
    monkeypatch.setattr(configured, "CONFIGS", tmp_path / "configs")
    return made


@pytest.fixture(scope="module")
def first_made(epsilon_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_both("sd-1", epsilon_model, tmp_path_factory.mktemp("first"))[0]


@pytest.fixture
def first(first_made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a tiny Stable Diffusion 1, to be changed."""
    monkeypatch.setattr(configured, "CONFIGS", first_made.parent / "configs")
    return Path(shutil.copy(first_made, tmp_path))


def make_both(kind: str, model: Path, scratch: Path) -> tuple[Path, Path]:
    theirs = load_pipeline(model)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        whole = AUTOENCODER | {"mid_block_add_attention": True}  # as the published ones
        theirs.vae = AutoencoderKL(**whole, scaling_factor=0.7)
    theirs.save_pretrained(scratch / "folder")
    shutil.copytree(scratch / "folder", scratch / "configs" / kind, ignore=shutil.ignore_patterns("*.safetensors"))
    return save_single_file(theirs, scratch / "model.safetensors", second=kind.startswith("sd-2")), scratch / "folder"


def learn(backbone: Backbone) -> Word:
    slot = new_slot(Concept("truck", (), "<truck>", initializer="fire truck", vectors=2), PICTURES, backbone, SETTINGS)
    while not (ended := train_step(backbone, [slot])):
        pass
    ((_, word),) = ended
    assert isinstance(word, Word)
    return word


def change(file: Path, changed: Callable[[dict[str, Any]], object], **metadata: str) -> Path:
    tensors = load_file(file)
    changed(tensors)
    save_file(tensors, file, metadata or None)
    return file


def add_one(tensors: dict[str, Any], prefix: str) -> None:
    tensors[min(name for name in tensors if name.startswith(prefix))].view(-1)[:1].add_(1)


def refused(file: Path, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        load_backbone(str(file))


def test_a_word_learned_on_the_file_is_that_of_the_folder_bit_for_bit(both: tuple[Path, Path]) -> None:
    """Catches a tensor that is lost, swapped or turned on its way, and a configuration that differs."""
    file, folder = both
    of_file, of_folder = load_backbone(str(file)), load_backbone(str(folder))
    assert of_file.weights_digest() == of_folder.weights_digest()
    word, wanted = learn(of_file), learn(of_folder)
    assert word.vectors.keys() == wanted.vectors.keys()
    for name, vectors in wanted.vectors.items():
        assert word.vectors[name].tobytes() == vectors.tobytes()
        assert (vectors != wanted.initial[name]).any()


def test_a_file_in_a_store_is_copied_once_and_is_the_same_model(first: Path) -> None:
    fsspec.filesystem("memory").put(str(first), "/models/sd.safetensors")
    found, here = find_model("memory://models/sd.safetensors"), find_model(str(first))
    assert (found.digest, found.family, found.config_digest) == (here.digest, here.family, here.config_digest)
    assert found.file is not None
    copied = found.file.stat().st_mtime_ns
    again = find_model("memory://models/sd.safetensors")
    assert again.file == found.file
    assert again.file.stat().st_mtime_ns == copied
    with pytest.raises(ModelError, match="there is no such file"):
        find_model("memory://models/other.safetensors")


def test_a_relative_path_is_the_same_file_wherever_workers_run(first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(first.parent)
    assert absolute_name(first.name) == str(first) == find_model(first.name).name
    assert local_paths(find_model(first.name).name) == (str(first),)


def test_the_digest_has_what_is_loaded_and_nothing_else(first: Path) -> None:
    """Catches words that are learned anew for moving averages in the file, and words of other weights taken for done."""
    plain = find_model(str(first)).digest
    unused = {
        "model_ema.diffusion_modelinput_blocks00weight": torch.ones(2), "betas": torch.ones(2),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.zeros(1, 3, dtype=torch.int64),
        "cond_stage_model.logit_scale": torch.ones(()), "cond_stage_model.transformer.text_projection.weight": torch.ones(2, 2),
        "first_stage_model.loss.logvar": torch.ones(()),
    }  # fmt: skip
    change(first, lambda tensors: tensors.update(unused), format="pt")
    assert find_model(str(first)).digest == plain
    load_backbone(str(first))
    for prefix in ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer."):
        change(first, functools.partial(add_one, prefix=prefix))
        assert find_model(str(first)).digest != plain
        plain = find_model(str(first)).digest
    with pytest.raises(ModelError, match="the nodes do not have the same model"):
        load_backbone(str(first), digest="0" * 64)


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("model.diffusion_model.time_embed.0.weight", r"unet: the file lacks time_embedding\.linear_1\.weight"),
        ("model.diffusion_model.middle_block.1.norm.bias", r"unet: the file lacks mid_block\.attentions\.0\.norm\.bias"),
        ("first_stage_model.decoder.mid.attn_1.q.weight", r"vae: the file lacks decoder\.mid_block\.attentions\.0\.to_q"),
        ("cond_stage_model.transformer.text_model.final_layer_norm.bias", r"text_encoder: the file lacks final_layer_norm"),
        ("model.diffusion_model.", "is a Stable Diffusion without its U-Net"),
        ("first_stage_model.", "a Stable Diffusion 1.x, has no vae"),
        ("cond_stage_model.", "a Stable Diffusion 1.x, has no text_encoder"),
    ],
)  # fmt: skip
def test_weights_that_are_missing_are_named(gone: str, said: str, first: Path) -> None:
    """Catches a model that a library completes with random numbers."""
    change(first, lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith(gone)])
    refused(first, said)


@pytest.mark.parametrize(
    "more",
    [
        "model.diffusion_model.cc_projection.weight", "model.diffusion_model.input_blocks.1.0.extra.weight",
        "model.diffusion_model.input_blocks.2.0.op.extra", "model.diffusion_model.label_emb.0.0.weight",
        "first_stage_model.extra.weight", "first_stage_model.decoder.mid.attn_1.extra.weight",
        "cond_stage_model.transformer.text_model.encoder.layers.7.mlp.fc1.bias",
        "model.diffusion_model.middle_block.0.in_layers.2.weight.absmax",
    ],
)  # fmt: skip
def test_weights_that_the_model_does_not_have_are_named(more: str, first: Path) -> None:
    """Catches another architecture, or an adapter merged halfway, that is loaded as if it were plain."""
    change(first, lambda tensors: tensors.update({more: torch.ones(4, 4)}))
    refused(first, f"the file has .*{more.rpartition('.')[2]}.*, which this model does not have")


def test_weights_of_another_size_are_named(first: Path) -> None:
    change(first, lambda tensors: tensors.update({"model.diffusion_model.out.0.bias": torch.ones(3)}))
    refused(first, r"weights of another size: conv_norm_out\.bias of \(3,\) for \(16,\)")


OTHERS: dict[str, tuple[dict[str, tuple[int, ...]], str]] = {
    "LoRA": ({"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": (4, 4)}, "is a LoRA; single files are read"),
    "ControlNet": ({"control_model.time_embed.0.weight": (4, 4), "control_model.input_hint_block.0.bias": (4,)}, "is a ControlNet"),
    "ControlNet with its model": ({"control_model.time_embed.0.weight": (4, 4), FIRST_INPUT: (4, 4, 3, 3)}, "is a ControlNet"),
    "word": ({"clip_l": (1, 4), "clip_g": (1, 5)}, r"is a word \(an embedding\)"),
    "Flux": ({"model.diffusion_model.double_blocks.0.img_mlp.0.bias": (4,)}, "is a Flux;.*give a folder"),
    "SD3": ({"model.diffusion_model.joint_blocks.0.x_block.mlp.fc1.bias": (4,)}, "is a Stable Diffusion 3;"),
    "VAE": ({"decoder.conv_in.weight": (4, 4), "encoder.conv_in.weight": (4, 4)}, r"is an autoencoder \(VAE\) alone"),
    "part": ({"down_blocks.0.resnets.0.conv1.weight": (4, 4)}, "is one part of a model in diffusers' layout; name its folder"),
    "inpainting": ({FIRST_INPUT: (4, 9, 3, 3)}, "is an inpainting model: its U-Net takes 9 channels, not the 4 of a picture"),
    "pix2pix": ({FIRST_INPUT: (4, 8, 3, 3)}, "is a model that edits pictures"),
    "depth": ({FIRST_INPUT: (4, 5, 3, 3)}, "is a model that draws by depth"),
    "refiner": (
        {FIRST_INPUT: (4, 4, 3, 3), "conditioner.embedders.0.model.text_projection": (4, 4)}, "is the refiner of Stable Diffusion",
    ),
    "Playground": ({FIRST_INPUT: (4, 4, 3, 3), "edm_mean": (4,)}, "is a Playground 2.5"),
    "velocity XL": (
        {FIRST_INPUT: (4, 4, 3, 3), "v_pred": (0,), "conditioner.embedders.1.model.ln_final.bias": (4,)},
        "says that it predicts the velocity, which is read of Stable Diffusion 2.x only",
    ),
    "U-Net alone": ({FIRST_INPUT: (4, 4, 3, 3)}, "a Stable Diffusion 1.x, has no vae"),
    "something": ({"a": (2,)}, "is of no model that is known; single files are read of Stable Diffusion 1.x, 2.x and XL"),
    "nothing": ({}, "is of no model that is known"),
}  # fmt: skip


@pytest.mark.parametrize("what", OTHERS)
def test_another_kind_of_file_is_told_for_what_it_is(what: str, tmp_path: Path) -> None:
    shapes, said = OTHERS[what]
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, tmp_path / "file.safetensors")
    refused(tmp_path / "file.safetensors", said)


@pytest.mark.parametrize("ending", ["ckpt", "pt", "bin"])
@pytest.mark.parametrize("place", ["", "memory://models"])
def test_a_pickle_is_refused_with_the_line_that_converts_it(ending: str, place: str, tmp_path: Path) -> None:
    """Catches code run from somebody's checkpoint; it is not even fetched from a store."""
    (tmp_path / f"model.{ending}").write_bytes(b"\x80\x02cos\nsystem\n")
    name = f"{place or tmp_path}/model.{ending}"
    with pytest.raises(
        ModelError, match=rf"pickled weights can run code.*from_single_file\('{name}'\).save_pretrained"
    ):
        find_model(name)


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_file_that_broke_off_is_refused(kept: int, first: Path) -> None:
    first.write_bytes(first.read_bytes()[:kept])
    refused(first, "is no whole .safetensors file")


def test_weights_that_are_not_finite_are_named(first: Path) -> None:
    change(first, lambda tensors: tensors["model.diffusion_model.out.0.bias"].fill_(torch.nan))
    refused(first, "weight conv_norm_out.bias of UNet2DConditionModel is not finite")


def test_quantised_weights_are_refused_and_half_precision_is_loaded(first: Path) -> None:
    change(first, lambda tensors: tensors.update({name: value.half() for name, value in tensors.items()}))
    load_backbone(str(first))
    change(first, lambda tensors: tensors.update({FIRST_INPUT: tensors[FIRST_INPUT].char()}))
    refused(first, r"is quantised \(tensors of I8\); take it in float16 or bfloat16")


BIAS = {TELLING: torch.tensor([0.2, -0.2])}
FLAT = {TELLING: torch.tensor([0.01, -0.01])}


@pytest.mark.parametrize(
    ("more", "metadata", "velocity"),
    [
        ({}, {}, True), ({"global_step": torch.tensor(875_000)}, {}, False), ({"global_step": torch.tensor(140_000)}, {}, True),
        (BIAS, {}, True), (FLAT, {}, False), ({TELLING: FLAT[TELLING].bfloat16()}, {}, False),
        ({TELLING: BIAS[TELLING].bfloat16()}, {}, True), ({TELLING: BIAS[TELLING].half()}, {}, True),
        (BIAS, {"modelspec.prediction_type": "epsilon"}, False), (FLAT, {"modelspec.prediction_type": "v"}, True),
    ],
)  # fmt: skip
def test_what_a_second_version_predicts_is_told_by_its_file(
    more: dict[str, torch.Tensor], metadata: dict[str, str], velocity: bool, tmp_path: Path
) -> None:
    """By its metadata; else its step, as diffusers' _legacy_load_scheduler does; else its biases, as ComfyUI's SD20 does."""
    names = (FIRST_INPUT, "cond_stage_model.model.ln_final.bias", "first_stage_model.quant_conv.bias")
    file = tmp_path / "two.safetensors"
    save_file({name: torch.zeros(4, 4, 3, 3) for name in names} | more, file, metadata or None)
    kind = read_contents(file).kind
    assert kind.configs == ("sd-2-v" if velocity else "sd-2")
    scheduler = json.loads((configured.configured(kind) / "scheduler/scheduler_config.json").read_text())
    assert scheduler["prediction_type"] == ("v_prediction" if velocity else "epsilon")


PUBLISHED = dict(published())


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_shipped_configurations_are_those_of_the_published_files(name: str, tmp_path: Path) -> None:
    """Every weight of every part, in its shape, is in a published file, and nothing of the file is left. No number is loaded."""
    stored, end = {}, 0
    for key, shape in PUBLISHED[name].items():
        stored[key] = {"dtype": "F16", "shape": shape, "data_offsets": [end, end + 2 * math.prod(shape)]}
        end += 2 * math.prod(shape)
    said = {"__metadata__": {"modelspec.prediction_type": "v"}} if name == "sd-2-v" else {}
    header = json.dumps({**said, **stored}).encode()
    file = tmp_path / f"{name}.safetensors"
    with file.open("wb") as opened:
        opened.write(len(header).to_bytes(8, "little") + header)
        opened.truncate(8 + len(header) + end)  # of which the disk holds nothing
    contents = read_contents(file)
    assert contents.kind.configs == name
    family = FAMILIES[contents.kind.pipeline]
    module_of: Any = getattr(import_module(family.module), family.backbone)
    classes = {part: text.encoder for part, text in module_of.TEXT.items()}
    classes |= {"unet": UNet2DConditionModel, "vae": AutoencoderKL}
    assert classes.keys() == contents.kind.parts.keys() == set(family.weights)
    for part, where in contents.kind.parts.items():
        meta = {key: torch.empty(shape, device="meta") for key, shape in PUBLISHED[name].items() if where.loads(key)}
        module = empty_part(classes[part], configured.CONFIGS / name / part)
        assert converted(meta, where.prefix, module).keys() == module.state_dict().keys()


def test_the_shipped_configurations_are_small_and_in_the_package() -> None:
    found = sorted(configured.CONFIGS.rglob("*.json"))
    assert {path.parts[len(configured.CONFIGS.parts)] for path in found} == {kind.configs for kind in KINDS}
    assert sum(path.stat().st_size for path in found) < 40_000
    packaged = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["pipeline"]
    assert found == sorted({path for pattern in packaged for path in (ROOT / "pipeline").glob(pattern)} & set(found))


SENTENCES = (
    "a photo of a cat", "An OWL's  picture, in 2026!", "naïve café — 東京 🙂", "<my-cat> don't we're", "a" * 40,
    "it's (a:1.2) [b]", "",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.configs)
def test_the_tokenizers_are_those_of_open_clip(kind: Any) -> None:
    """Catches a vocabulary that is shifted by one: every prompt would be of other words."""
    theirs = open_clip.tokenizer.SimpleTokenizer()
    assert len(vocabulary(merges())) == WORDS == theirs.vocab_size
    assert list(vocabulary(merges()))[: WORDS - 2] == list(theirs.encoder)[: WORDS - 2]
    for folder in sorted(configured.configured(kind).glob("tokenizer*")):
        ours = CLIPTokenizer.from_pretrained(folder)
        assert (len(ours), ours.model_max_length) == (WORDS, 77)
        pads = "<|endoftext|>" if kind.configs in ("sd-1", "sd-xl") and folder.name == "tokenizer" else "!"
        assert ours.pad_token == pads
        for sentence in SENTENCES:
            # What pads is a token of its own wherever it stands: in the published tokenizers too.
            body = [0 if (each, pads) == (theirs.encoder["!</w>"], "!") else each for each in theirs.encode(sentence)]
            assert ours(sentence).input_ids == [49_406, *body, 49_407]
            assert ours(sentence, padding="max_length").input_ids[-1:] == [ours.pad_token_id]


def test_the_driver_reads_a_file_without_torch() -> None:
    code = (
        "import sys; from pipeline.models.find import find_model; from pipeline.models.single_file import configured, contents; "
        "configured.configured(contents.KINDS[0]); assert 'torch' not in sys.modules"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert ran.returncode == 0, ran.stderr


def test_the_made_folder_is_whole_and_made_once() -> None:
    folder = configured.configured(KINDS[0])
    made = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert configured.configured(KINDS[0]) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == made
    assert len({configured.configured(kind) for kind in KINDS}) == len(KINDS)
