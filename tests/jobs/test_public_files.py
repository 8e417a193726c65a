"""Deleted words and grids come back, byte for byte, by the command that made them."""

import shutil
from pathlib import Path

from tests.job_process import LEARNED, FinishedRun, job


def test_deleted_words_and_grids_are_noticed_and_restored(finished_run: FinishedRun, tmp_path: Path) -> None:
    """Catches a run that tells a word as done which nobody can find; and one that learns it again."""
    run = tmp_path / "run"
    shutil.copytree(finished_run.folder, run)
    files = [run / "words" / f"{name}.safetensors" for name in LEARNED] + [
        run / "grids" / f"{name}.png" for name in LEARNED
    ]
    before = {path: path.read_bytes() for path in files}
    assert b'"modelspec.resolution":"64x64"' in before[files[0]], "what is said of a word comes back too"
    files[0].unlink()
    files[1].write_bytes(b"")
    shutil.rmtree(run / "grids")
    command = [str(run) if each == str(finished_run.folder) else each for each in finished_run.arguments]
    told = job(*command)
    assert (
        "words/mixed.safetensors" in told.stdout or "grids/mixed.png and 3 more files that were missing" in told.stdout
    )
    assert "nothing to do: 2 concepts done" in told.stdout, told.stdout + told.stderr
    assert {path: path.read_bytes() for path in files} == before
    assert "restored" not in job(*command).stdout
