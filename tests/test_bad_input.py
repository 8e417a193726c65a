"""Everything that can be wrong with what people bring, in one run: each has its clear error, and the good ones their words."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_images import BAD, encoded, picture
from tests.test_job import DEMO, QUICKLY, job, table, write_manifest


def test_forty_bad_image_sets_cost_the_good_ones_nothing(tmp_path: Path) -> None:
    """Catches one strange file among a million that ends a run, or a concept that vanishes without a reason."""
    (tmp_path / "no-folder-but-a-file").write_bytes(b"x")
    rows = {"owl": str(DEMO / "images" / "owl"), "nowhere": "nowhere", "matches-nothing": "*.xyz",
            "an-unknown-store": "nfs4://x/y", "no-such-file": "gone.png"}  # fmt: skip
    wrong = {"nowhere": "no such file, nor a folder", "matches-nothing": "matches no picture", "no-such-file": "no such file",
             "an-unknown-store": "nothing is known of nfs4"}  # fmt: skip
    for number, (make, said) in enumerate(BAD.values()):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / "picture.jpg").write_bytes(make())
        rows[f"bad-{number}"], wrong[f"bad-{number}"] = str(number), said.replace("\\", "")
        (tmp_path / f"mixed-{number}").mkdir()
        (tmp_path / f"mixed-{number}" / "picture.jpg").write_bytes(make())
        (tmp_path / f"mixed-{number}" / "good.png").write_bytes(encoded(picture()))
    # One in which each kind stands beside a good picture is learned from the good ones.
    rows["mixed"] = json.dumps([f"mixed-{number}/*" for number in range(len(BAD))])
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text(
        "\n".join(json.dumps({"concept": name, "images": images}) for name, images in rows.items()), encoding="utf-8"
    )
    ended = job(manifest, "--output", tmp_path / "run", *QUICKLY, "--skip-invalid")
    assert ended.returncode == 1, ended.stdout + ended.stderr
    failures = table(tmp_path / "run", "failures").set_index("concept")
    assert set(failures.index) == set(wrong)
    for name, said in wrong.items():
        assert said in failures["reason"][name], name
    stages = failures["stage"].to_dict()
    assert {name for name, stage in stages.items() if stage != "images"} == {"an-unknown-store"}
    embeddings = table(tmp_path / "run", "embeddings").set_index("concept")
    assert sorted(embeddings.index) == ["mixed", "owl"]
    assert len(embeddings["rejected_images"]["mixed"]) >= len(BAD)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--output", "{file}/run"), "cannot write"),
        (
            ("--output", "s3://no-such-bucket-of-ours/run", "--storage-option", "endpoint_url=http://127.0.0.1:9"),
            "no answer",
        ),
        (("--output", "nfs4://x/y"), "nothing is known of nfs4"),
        (("--model", "{empty}"), "model_index.json"),
        (("--model", "no-such/model-id"), "no-such/model-id"),
        (("--steps", "0"), "steps is 0; it must be"),
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
    manifest, run = write_manifest(tmp_path, ["owl", "taxi", "ladybug"]), small_disk / "run"
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
