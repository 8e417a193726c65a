"""A run whose words pass the gate before they are public, on a real local Ray."""

import json
import shutil
from pathlib import Path

import pytest

from jobs import promote
from jobs.export_words import exported
from jobs.invert_all import main as invert_all
from pipeline.store.catalogue.accepted import is_gated, read_judged
from pipeline.store.run_folder import RunFolder
from pipeline.store.storage import Storage
from pipeline.store.word_files import decode_word
from tests.job_process import DEMO, few_pictures


@pytest.mark.long
def test_words_change_only_when_the_gate_or_a_person_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches new words that are public before any gate looked at them."""
    shutil.copytree(DEMO / "images" / "owl", tmp_path / "owl")
    manifest, run = tmp_path / "manifest.jsonl", RunFolder(Storage(str(tmp_path / "run")))
    names = ["owl"]

    def night(*more: str) -> int:
        rows = [json.dumps({"concept": name, "images": str(tmp_path / "owl"), "class": "bird"}) for name in names]
        manifest.write_text("\n".join(rows), encoding="utf-8")
        return invert_all([
            str(manifest), "--output", run.storage.url, "--steps", "4", "--slots", "2", "--workers", "1",
            "--protocol", str(few_pictures(tmp_path)), *more,
        ])  # fmt: skip

    def words() -> dict[str, bytes]:
        return {name: run.storage.read_bytes(f"words/{name}") for name in run.storage.names("words")}

    assert night("--gate", "--least-covered", "-1") == 0, capsys.readouterr()
    said = capsys.readouterr().out
    assert "gate      1 new word accepted, 0 held back" in said
    assert is_gated(run)
    first = words()
    assert first.keys() == {"owl.safetensors"}

    # Other pictures for the owl, and a new word; the gate asks for more than any word reaches, and stays once it was asked for.
    names.append("cup")
    (tmp_path / "owl" / "2.jpg").unlink()
    assert night("--least-covered", "1") == 4, capsys.readouterr()
    said = capsys.readouterr().out
    assert "gate      0 new words accepted, 2 held back as candidates" in said
    assert "100% are asked for" in said
    assert words() == first
    assert {word.concept for word in read_judged(run) if word.state == "candidate"} == {"owl", "cup"}
    assert exported(run, "diffusers", ()).keys() == {"owl.safetensors"}

    # A person takes them all the same, and one of them back.
    assert promote.main([run.storage.url, "--promote-all"]) == 0
    assert words().keys() == {"owl.safetensors", "cup.safetensors"}
    assert words()["owl.safetensors"] != first["owl.safetensors"]
    assert promote.main([run.storage.url, "--roll-back", "owl"]) == 0
    assert words()["owl.safetensors"] == first["owl.safetensors"]
    for key, vectors in decode_word(first["owl.safetensors"])[1].items():
        assert (decode_word(exported(run, "diffusers", ["owl"])["owl.safetensors"])[1][key] == vectors).all()
