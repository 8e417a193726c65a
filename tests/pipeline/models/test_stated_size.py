"""A model's folder whose configurations state more than its weights hold is refused before memory is taken."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from jobs.bench.peak import peak_of
from pipeline.models.find import MINI_FOLDER, ModelError
from pipeline.models.load import load_backbone
from tests.eval.judges.test_clip_folder import change

MANY: dict[str, dict[str, Any]] = {
    "unet/config.json": {"layers_per_block": 1_000_000},
    "text_encoder/config.json": {"num_hidden_layers": 1_000_000},
    "vae/config.json": {"layers_per_block": 1_000_000},
}
WIDE: dict[str, dict[str, Any]] = {
    "unet/config.json": {"cross_attention_dim": 2**31},
    "text_encoder/config.json": {"vocab_size": 2**31},
    "vae/config.json": {"latent_channels": 2**26},
}


def changed(folder: Path, file: str, entries: dict[str, Any]) -> Path:
    made = Path(shutil.copytree(MINI_FOLDER, folder))
    change(made / file, entries)
    return made


@pytest.mark.parametrize("stated", [MANY, WIDE], ids=["many", "wide"])
@pytest.mark.parametrize("file", MANY)
def test_a_part_that_states_gigabytes_is_refused_by_its_file(
    file: str, stated: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    folder = changed(tmp_path / "model", file, stated[file])
    with pytest.raises(ModelError, match=f"{file} states a model of over"):
        load_backbone(str(folder))


@pytest.mark.parametrize(
    ("file", "entries", "said"),
    [
        ("unet/config.json", {"sample_size": 100_000}, "pictures with a side of"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**10}, "a noise schedule of"),
    ],
)
def test_a_side_or_a_schedule_that_no_model_has_is_refused(
    file: str, entries: dict[str, Any], said: str, tmp_path: Path
) -> None:
    folder = changed(tmp_path / "model", file, entries)
    with pytest.raises(ModelError, match=said):
        load_backbone(str(folder))


def test_none_of_them_takes_memory(tmp_path: Path) -> None:
    for number, (file, entries) in enumerate((*MANY.items(), *WIDE.items())):
        changed(tmp_path / str(number), file, entries)
    imports = (
        "from contextlib import suppress\nfrom pathlib import Path\nfrom pipeline.models.find import ModelError\n"
        "from pipeline.models.load import load_backbone\nload_backbone('mini')\n"
        "def tried(folder):\n    with suppress(ModelError):\n        load_backbone(str(folder))\n        raise SystemError(folder)"
    )
    grown, raised = peak_of(imports, "[tried(folder) for folder in Path(sys.argv[1]).iterdir()]", tmp_path)
    assert not raised
    assert grown < 200
