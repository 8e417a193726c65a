"""Jobs on a cluster whose workers stand in another folder than the job: a relative path means the job's own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster_elsewhere import can_hide, cluster_elsewhere
from tests.job_process import PATIENCE, ROOT, few_pictures, table, write_manifest

MODEL, CLIP = ROOT / "pipeline" / "mini" / "model", ROOT / "pipeline" / "mini" / "clip"
ENVIRONMENT = os.environ | {"RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT)}


def typed(here: Path, script: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """A job as it is typed in the folder `here`."""
    return subprocess.run(
        [sys.executable, str(ROOT / "jobs" / script), *map(str, arguments)], cwd=here, capture_output=True, text=True,
        timeout=PATIENCE, check=False, env=ENVIRONMENT,
    )  # fmt: skip


@pytest.fixture
def here(tmp_path: Path) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    few_pictures(folder)
    write_manifest(folder, ["owl"])
    (folder / "sentences.txt").write_text("a drawing of {}\n", encoding="utf-8")
    (folder / "model").symlink_to(MODEL)
    (folder / "clip").symlink_to(CLIP)
    return folder


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Of a cluster in whose folder `runs/rel` names another one."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with cluster_elsewhere(elsewhere, ENVIRONMENT) as found:
        yield found


@pytest.mark.long
def test_relative_paths_mean_those_of_the_folder_that_the_job_was_typed_in(
    here: Path, address: str, tmp_path: Path
) -> None:
    """Catches words in the cluster's own folder, done and nowhere to be found; and a night scored there, where nothing is."""
    quickly = ("--steps", "1", "--slots", "1", "--workers", "1", "--ray-address", address)
    learned = typed(here, "invert_all.py", "manifest.csv", "--output", "runs/rel", "--model", "model", "--clip", "clip",
                    "--templates", "sentences.txt", "--protocol", "few.toml", *quickly)  # fmt: skip
    assert learned.returncode == 0, learned.stdout + learned.stderr
    assert [path.name for path in (here / "runs/rel/words").iterdir()] == ["owl.safetensors"]
    assert len(table(here / "runs/rel", "embeddings")) == 1
    night = typed(here, "evaluate.py", "runs/rel", "--model", "model", "--clip", "clip", "--history", "nights",
                  "--fail-on-drop", "0.01", "--ray-address", address)  # fmt: skip
    assert night.returncode == 0, night.stdout + night.stderr
    assert "1 in all" in night.stdout
    assert list((here / "nights").iterdir())
    drawn = typed(here, "generate.py", "runs/rel", "--model", "model", "--prompt", "<owl>", "--count", "1", "--steps", "1",
                  "--output", "pictures", "--ray-address", address)  # fmt: skip
    assert drawn.returncode == 0, drawn.stdout + drawn.stderr
    assert (here / "pictures" / "contact-sheet.png").is_file()
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.long
@pytest.mark.parametrize("kind", ["package", "file"])
def test_modules_of_the_folder_that_a_job_is_started_in_take_nobodys_place(here: Path, kind: str) -> None:
    """Catches workers that import a user's own pipeline/ or jobs.py instead of ours, where the driver has ours."""
    for name in ("pipeline", "eval", "jobs", "cluster"):
        path = here / name / "__init__.py" if kind == "package" else here / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text("raise RuntimeError('this is theirs')\n", encoding="utf-8")
    learned = typed(here, "invert_all.py", "manifest.csv", "--output", "runs/mine", "--protocol", "few.toml",
                    "--steps", "1", "--slots", "1", "--workers", "1")  # fmt: skip
    assert learned.returncode == 0, learned.stdout + learned.stderr
    assert (here / "runs/mine/words/owl.safetensors").is_file()


def test_a_machine_that_does_not_see_the_run_folder_is_named_before_anything_is_learned(
    here: Path, tmp_path: Path
) -> None:
    """Catches words that one machine of several wrote onto a disk of its own."""
    if not can_hide(here):
        pytest.skip("a view of its own of the disk takes the right to mount")
    with cluster_elsewhere(tmp_path, ENVIRONMENT, nodes=2, hidden=here / "runs") as address:
        refused = typed(
            here,
            "invert_all.py",
            "manifest.csv",
            "--output",
            "runs/rel",
            "--shared-filesystem",
            "--ray-address",
            address,
        )
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert "nothing was started" in refused.stderr
    assert f"does not see {here}/runs/rel/" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (here / "runs/rel/words").exists()
