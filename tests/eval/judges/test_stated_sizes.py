"""Judges whose folders state more than their weights hold: refused before memory is taken, each in a process of its own."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from eval.judges.clip import MINI_FOLDER, load_clip
from eval.judges.transformers_folder import load_transformers
from eval.judges.vision_language import load_vision_language
from jobs.bench.peak import peak_of
from pipeline.models.configuration import ConfigurationError
from tests.answering_judges import save_answering_judge
from tests.eval.judges.test_clip_folder import change
from tests.eval.judges.test_transformers_folder import KINDS, save_tiny_judge

TRIED = (
    "from pathlib import Path\nfrom contextlib import suppress\n{imported}\n"
    "def tried(folder):\n    with suppress(ValueError):\n        {load}\n        raise SystemError(folder)"
)
VISION, TEXT, PICTURES = ("model_cfg", "vision_cfg"), ("model_cfg", "text_cfg"), ("preprocess_cfg",)


@pytest.mark.parametrize(
    ("entries", "inside", "said"),
    [
        ({"width": 16_000}, VISION, "numbers"),
        ({"layers": 10_000_000}, VISION, "numbers"),
        ({"layers": [1, 1, 100_000, 1]}, VISION, "numbers"),
        ({"vocab_size": 10**9}, TEXT, "numbers"),
        ({"context_length": 2_000_000}, TEXT, "context_length"),
        ({"image_size": 60_000}, VISION, "image_size"),
        ({"image_size": [64, 60_000]}, VISION, "image_size"),
        ({"patch_size": 1}, VISION, "patch_size"),
        ({"size": 60_000}, PICTURES, "size"),
        ({"timm_model_name": "eva_giant_patch14_336"}, VISION, "numbers"),
    ],
)
def test_a_clip_that_states_gigabytes_is_refused_by_name(
    entries: dict[str, Any], inside: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(MINI_FOLDER, tmp_path / "clip"))
    change(folder / "open_clip_config.json", entries, *inside)
    with pytest.raises(ConfigurationError, match=rf"open_clip_config\.json.*{said}"):
        load_clip(str(folder))


@pytest.mark.parametrize(
    ("file", "entries", "inside", "said"),
    [
        ("config.json", {"intermediate_size": 2**30}, ("vision_config",), "numbers"),
        ("config.json", {"num_hidden_layers": 10_000_000}, ("text_config",), "numbers"),
        ("config.json", {"vocab_size": 10**9}, ("text_config",), "numbers"),
        ("config.json", {"max_position_embeddings": 10**9}, ("text_config",), "numbers"),
        ("config.json", {"image_size": 1_000_000}, ("vision_config",), "numbers"),
        ("preprocessor_config.json", {"size": {"shortest_edge": 60_000}}, (), "shortest_edge"),
        ("preprocessor_config.json", {"crop_size": {"height": 32, "width": 1e9}}, (), "width"),
        ("preprocessor_config.json", {"pad_size": {"height": 60_000, "width": 60_000}}, (), "height"),
    ],
)
def test_a_judge_that_states_gigabytes_is_refused_by_name(
    file: str, entries: dict[str, Any], inside: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    folder = save_tiny_judge(tmp_path / "judge", "clip")
    change(folder / file, entries, *inside)
    with pytest.raises(ValueError, match=f"{file}.*{said}"):
        load_transformers(f"transformers:{folder}")


def test_neither_takes_memory(tmp_path: Path) -> None:
    clips: list[tuple[dict[str, Any], tuple[str, ...]]] = [
        ({"width": 16_000}, VISION), ({"layers": 10_000_000, "width": 32}, VISION), ({"vocab_size": 10**9}, TEXT),
        ({"context_length": 2_000_000}, TEXT), ({"timm_model_name": "eva_giant_patch14_336"}, VISION),
    ]  # fmt: skip
    for number, (entries, inside) in enumerate(clips):
        folder = Path(shutil.copytree(MINI_FOLDER, tmp_path / "clips" / str(number)))
        change(folder / "open_clip_config.json", entries, *inside)
    judge = save_tiny_judge(tmp_path / "judge", "clip")
    for number, entries in enumerate(({"intermediate_size": 2**30}, {"num_hidden_layers": 10_000_000})):
        folder = Path(shutil.copytree(judge, tmp_path / "judges" / str(number)))
        change(folder / "config.json", entries, "vision_config")
    for folders, imported, load in (
        ("clips", "from eval.judges.clip import load_clip", "load_clip(str(folder))"),
        ("judges", "from eval.judges.transformers_folder import load_transformers\nfrom transformers import CLIPModel",
         "load_transformers(f'transformers:{folder}')"),
    ):  # fmt: skip
        imports = TRIED.format(imported=imported, load=load)
        grown, raised = peak_of(
            imports, "[tried(folder) for folder in Path(sys.argv[1]).iterdir()]", tmp_path / folders
        )
        assert not raised
        assert grown < 200


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_judge_is_held_to_its_weights(kind: str, tmp_path: Path) -> None:
    """Catches a kind that is made past the bound; each is read as it was saved."""
    folder = save_tiny_judge(tmp_path / "judge", kind)
    load_transformers(f"transformers:{folder}")
    path = folder / "config.json"
    sizes = json.loads(path.read_text(encoding="utf-8"))
    change(path, {"num_hidden_layers": 1_000_000}, *(["vision_config"] if "vision_config" in sizes else []))
    with pytest.raises(ValueError, match="states a model of over"):
        load_transformers(f"transformers:{folder}")


@pytest.mark.parametrize(
    ("file", "entries", "inside", "said"),
    [
        ("config.json", {"num_hidden_layers": 1_000_000}, ("text_config",), "states a model of over"),
        ("config.json", {"num_hidden_layers": 1_000_000}, ("vision_config",), "states a model of over"),
        ("processor_config.json", {"patch_size": 1}, (), "patch_size"),
        ("processor_config.json", {"num_additional_image_tokens": 10**9}, (), "num_additional_image_tokens"),
    ],
)
def test_a_judge_of_texts_is_held_to_its_weights(
    file: str, entries: dict[str, Any], inside: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    folder = save_answering_judge(tmp_path / "llava")
    load_vision_language(f"vqa:{folder}")
    change(folder / file, entries, *inside)
    with pytest.raises(ValueError, match=said):
        load_vision_language(f"vqa:{folder}")
