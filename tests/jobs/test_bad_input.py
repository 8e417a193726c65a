"""Everything that can be wrong with what people bring, in one run: each has its clear error, and the good ones their words."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs import invert_all
from pipeline.store import retry
from tests.job_process import DEMO, LEARNED, QUICKLY, FinishedRun, job, table, write_manifest
from tests.pipeline.inputs.test_images import BAD


def test_bad_image_sets_of_every_kind_cost_the_good_ones_nothing(finished_run: FinishedRun) -> None:
    """Catches one strange file among a million that ends a run, or a concept that vanishes without a reason."""
    wrong = finished_run.wrong
    failures = table(finished_run.folder, "failures").set_index("concept")
    assert set(failures.index) == set(wrong)
    for name, said in wrong.items():
        assert said in failures["reason"][name], name
    stages = failures["stage"].to_dict()
    assert {name for name, stage in stages.items() if stage != "images"} == {"an-unknown-store"}
    embeddings = table(finished_run.folder, "embeddings").set_index("concept")
    assert sorted(embeddings.index) == LEARNED
    assert len(embeddings["rejected_images"]["mixed"]) >= len(BAD)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--output", "{file}/run"), "cannot write"),
        (("--output", "nfs4://x/y"), "nothing is known of nfs4"),
        (("--model", "{empty}"), "model_index.json"),
        (("--model", "no-such/model-id"), "no-such/model-id"),
        (("--steps", "-1"), "steps is -1; it must be"),
        (("--learning-rate", "50"), "learning rate is 50.0; it must be above 0"),
        (("--resolution", "100"), "resolution is 100; it must be a multiple of 8"),
        (("--storage-option", "endpoint"), "not of the form key=value"),
    ],
)
def test_what_no_concept_could_do_without_is_refused_before_anything_starts(
    arguments: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches machines bought for a run that cannot write its first file."""
    for name, value in (("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "y"), ("HF_HUB_OFFLINE", "1")):
        monkeypatch.setenv(name, value)
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    filled = [each.format(file=tmp_path / "file", empty=tmp_path / "empty") for each in arguments]
    output = [] if "--output" in arguments else ["--output", str(tmp_path / "run")]
    refused = job(DEMO / "manifest.csv", *output, *filled)
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert "nothing was started" in refused.stderr
    assert said in refused.stderr


def test_a_store_that_does_not_answer_is_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setattr(retry, "ATTEMPTS", 1)  # all of them take half a minute
    nowhere = ("--output", "s3://no-such-bucket-of-ours/run", "--storage-option", "endpoint_url=http://127.0.0.1:9")
    assert invert_all.main([str(DEMO / "manifest.csv"), *nowhere]) == invert_all.NOT_STARTED
    said = capsys.readouterr().err
    assert "nothing was started" in said
    assert "no answer" in said


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 600 kB."""
    place = tmp_path / "small"
    place.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", place], check=False).returncode
    ):
        pytest.skip("a file system of its own takes the right to mount one")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.long
def test_a_full_disk_cuts_the_run_short_and_loses_nothing_that_was_done(small_disk: Path, tmp_path: Path) -> None:
    """Catches words that are said to be done, and whose files could not be written."""
    manifest, run = write_manifest(tmp_path, ["owl", "taxi", "christmas-tree"]), small_disk / "run"
    ended = job(manifest, "--output", run, *QUICKLY)
    assert ended.returncode == 3, ended.stdout + ended.stderr
    assert "no space is left there" in ended.stderr
    committed = {path.name for path in (run / "_committed").glob("*@*.json")}
    subprocess.run(["mount", "-o", "remount,size=200m", small_disk], check=True)
    again = job(manifest, "--output", run, *QUICKLY)
    assert again.returncode == 0, again.stdout + again.stderr
    assert committed <= {path.name for path in (run / "_committed").iterdir()}
    assert len(table(run, "embeddings")) == 3
    assert not table(run, "samples").empty
