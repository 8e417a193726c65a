"""A finished run whose every internal file was torn is made whole by the same command."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.job_process import DEMO, PATIENCE, QUICKLY, ROOT, few_pictures, job, table, write_manifest

TEARS = {
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "but for a byte": lambda data: data[:-2],
}


@pytest.mark.long
@pytest.mark.parametrize("how", TEARS)
def test_the_same_command_makes_a_torn_run_whole(tmp_path: Path, how: str) -> None:
    """Catches a file that stops a run each time it is begun, and words told as done that nobody can read."""
    run = tmp_path / "run"
    command = (write_manifest(tmp_path, ["owl"]), "--output", run, *QUICKLY, "--protocol", few_pictures(tmp_path))
    assert job(*command).returncode == 0
    ours = [path for path in run.rglob("*") if path.is_file() and path.suffix in (".json", ".parquet", ".html")]
    assert {"run.json", "_layout.json", "progress.json"} <= {path.name for path in ours}
    for path in ours:
        path.write_bytes(TEARS[how](path.read_bytes()))
    told = job(*command)
    assert told.returncode == 1, told.stdout + told.stderr
    assert "the same command learns it again" in told.stdout
    assert "embeddings/part-00000-of-00001.parquet is damaged" in told.stderr
    again = job(*command)
    assert again.returncode == 0, again.stdout + again.stderr
    assert list(table(run, "embeddings")["concept"]) == ["owl"]
    assert len(table(run, "scores")) > 0
    assert job(*command).stdout.count("nothing to do") == 1


@pytest.mark.long
def test_words_that_are_done_and_not_in_the_run_folder_are_no_success(tmp_path: Path) -> None:
    """Catches exit code 0 of a run whose workers wrote into another folder."""
    (tmp_path / "m.jsonl").write_text(json.dumps({"concept": "quick-1", "images": str(DEMO / "images" / "owl")}))
    code = (
        "import sys\nfrom jobs.invert_all import main\nfrom tests.scripted_worker import ScriptedWorker\n"
        "sys.exit(main(worker=ScriptedWorker))"  # it says that a word is done, and writes none
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "m.jsonl"), "--output", str(tmp_path / "run"), *QUICKLY],
        cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "0 concepts done, 1 failed" in ended.stdout
    assert "quick-1: its files are not in the run folder; the same command learns it again" in ended.stdout
    told = json.loads(job(tmp_path / "run", "--log-format", "json", script="status.py").stdout)
    assert (told["done"], told["failed"], told["state"]) == (0, 1, "finished")
