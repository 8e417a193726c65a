"""JSON of a run folder, lists of names, options from files: what is too large is left. Memory is that of a process of its own."""

import json
import os
from pathlib import Path

import pytest

from jobs.bench.peak import peak_of
from jobs.dreambench_manifest import main as dreambench_manifest
from pipeline.inputs.manifest import MAX_NAME
from pipeline.inputs.manifest_problems import MOST_ROWS
from pipeline.store.catalogue.listed import MOST_LIST, ManifestList, read_lists, write_list
from pipeline.store.damaged import MOST_VALUES, DamagedFileError, object_of
from pipeline.store.run_folder import RunFolder
from pipeline.store.storage import Storage

STORE = "from pipeline.store.storage import Storage\nfrom pipeline.store.run_folder import RunFolder"
READ = "RunFolder(Storage(sys.argv[1])).read_json(sys.argv[2])"
LISTS = ("from pipeline.store.catalogue.listed import read_lists", "read_lists(RunFolder(Storage(sys.argv[1])))")


def empty_lists(megabytes: int) -> bytes:
    """JSON whose every third byte makes an object of 56 bytes."""
    return b'{"manifest": [' + b"[]," * (megabytes * 1_000_000 // 3) + b"0]}"


def endless(path: Path) -> Path:
    """A file that says it has four gigabytes, and takes no room on the disk."""
    path.touch()
    os.truncate(path, 4_000_000_000)
    return path


@pytest.mark.parametrize("name", ["run.json", "_committed/owl@0.json"])
def test_a_json_file_that_none_of_ours_can_be_is_not_parsed(name: str, tmp_path: Path) -> None:
    """Catches a run folder whose run.json of some megabytes takes gigabytes."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(empty_lists(30))
    grown, raised = peak_of(STORE, READ, tmp_path, name)
    assert "DamagedFileError" in raised
    assert "more than 5,000,000 bytes" in raised
    assert grown < 50


def test_a_list_of_names_that_is_none_is_not_parsed_and_retires_no_word(tmp_path: Path) -> None:
    (tmp_path / "_manifests").mkdir()
    (tmp_path / "_manifests" / "0.json").write_bytes(empty_lists(30))
    grown, raised = peak_of(f"{STORE}\n{LISTS[0]}", LISTS[1], tmp_path)
    assert (raised, grown < 150) == ("", True)
    (one,) = read_lists(RunFolder(Storage(str(tmp_path))))
    assert one.manifest == ""


def test_the_list_of_the_largest_manifest_is_within_the_limits(tmp_path: Path) -> None:
    """Catches a limit that a real catalogue meets."""
    run, names = RunFolder(Storage(str(tmp_path))), 10_000
    write_list(run, ManifestList("m.csv", tuple("x" * MAX_NAME for _ in range(names))))
    (file,) = (tmp_path / "_manifests").iterdir()
    assert file.stat().st_size * MOST_ROWS / names < MOST_LIST
    assert file.read_bytes().count(b",") * MOST_ROWS / names < MOST_VALUES


@pytest.mark.parametrize("value", [b"1", b"[]", b'{"a":1}'])
def test_more_values_than_any_file_of_ours_has_are_refused(value: bytes) -> None:
    data = b'{"a": [' + (value + b",") * (MOST_VALUES // 2) + b"0]}"
    if data.count(b",") + data.count(b"[") + data.count(b"{") > MOST_VALUES:
        with pytest.raises(DamagedFileError, match=r"at most 3,000,000 are read"):
            object_of(data, "x")
    else:
        assert len(object_of(data, "x")["a"]) == MOST_VALUES // 2 + 1


def test_a_list_of_accepted_failures_has_a_limit(tmp_path: Path) -> None:
    grown, raised = peak_of(
        "from jobs.cli.run_arguments import accepted_of", "accepted_of(sys.argv[1], {})", endless(tmp_path / "names")
    )
    assert "more than 150,000,000 bytes" in raised
    assert grown < 350
    (tmp_path / "names").unlink()
    os.mkfifo(tmp_path / "names")
    _, raised = peak_of(
        "from jobs.cli.run_arguments import accepted_of", "accepted_of(sys.argv[1], {})", tmp_path / "names"
    )
    assert "not a regular file" in raised


def test_options_from_a_file_have_a_limit(tmp_path: Path) -> None:
    for path in (endless(tmp_path / "options"), Path("/dev/zero")):
        grown, raised = peak_of(
            "from pipeline.store.locations import parse_storage_options",
            "parse_storage_options(['@' + sys.argv[1]])",
            path,
        )
        assert "has more than 1,000,000 bytes" in raised
        assert grown < 50


def test_the_classes_of_dreambench_have_a_limit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    endless(tmp_path / "prompts_and_classes.txt")
    grown, raised = peak_of(
        "from pathlib import Path\nfrom jobs.dreambench_manifest import read_classes",
        "read_classes(Path(sys.argv[1]))",
        tmp_path / "prompts_and_classes.txt",
    )
    assert "more than 1,000,000 bytes" in raised
    assert grown < 50
    assert dreambench_manifest([str(tmp_path), "--output", str(tmp_path / "m.csv")]) == 2
    assert "nothing was written" in capsys.readouterr().err
    assert not (tmp_path / "m.csv").exists()


def test_run_json_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"a": "x" * 6_000_000}))
    with pytest.raises(DamagedFileError, match=r"run\.json is damaged: .*more than 5,000,000 bytes"):
        RunFolder(Storage(str(tmp_path))).read_run()
