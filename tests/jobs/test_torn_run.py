"""A finished run whose every internal file was torn is made whole by the same command."""

from pathlib import Path

import pytest

from tests.job_process import QUICKLY, few_pictures, job, table, write_manifest

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
