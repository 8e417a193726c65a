"""The job that fits start files, on the shipped model: words minted from their pictures by a file that was fitted to an archive."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from eval.judges.clip import load_clip
from eval.scores.confusion import FEATURES
from jobs import fit_starts
from jobs.application.starts.run_starts import find_starts
from pipeline.inputs.image_sets import load_images
from pipeline.models.find import Model, find_model
from pipeline.models.load import load_backbone
from pipeline.records import Concept, ImageSet, Sample, Word
from pipeline.sampling.grid import encode_png
from pipeline.settings import InversionSettings, ModelSettings
from pipeline.store.parts import create_layout, part_path, write_table
from pipeline.store.run_folder import RunFolder
from pipeline.store.run_tables import embedding_rows, sample_rows
from pipeline.store.storage import Storage
from pipeline.store.word_files import decode_word
from pipeline.training.start_file import StartFileError, decode_start_file
from tests.job_process import DEMO, ROOT, few_pictures, job, write_manifest

NOUNS = ("cat", "frog", "car", "apple", "fish", "house", "bear", "lion", "rose", "castle", "guitar", "snail")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of twelve words as a run leaves them: nouns' own vectors, each beside a picture of one colour."""
    folder = tmp_path_factory.mktemp("archive") / "run"
    run, model, backbone, clip = RunFolder(Storage(str(folder))), find_model("mini"), load_backbone("mini"), load_clip()
    parts = create_layout(run, len(NOUNS))
    words, samples, features = [], [], []
    for number, noun in enumerate(NOUNS):
        pixels = np.full((1, 64, 64, 3), (20 * number, 255 - 20 * number, 128), np.uint8)
        vectors = backbone.initial_vectors(noun, 1)
        word = Word(noun, f"<my-{noun}>", vectors, vectors, noun, 9, "steps", 1e-3, 0.1, 1.0)
        concept = Concept(noun, (), f"<my-{noun}>", initializer=noun)
        words.append(embedding_rows(concept, "f", word, ImageSet(pixels, ("a",), ("d",))))
        samples.append(sample_rows("f", [Sample(noun, "training", "", "", 0, 0, encode_png(pixels[0]))]))
        features.append({
            "concept": noun, "fingerprint": "f", "protocol": "quick-v1", "clip": "mini", "clip_digest": clip.fingerprint,
            "training": clip.encode_images(list(pixels)).mean(0), "samples": [],
        })  # fmt: skip
    write_table(run, part_path("embeddings", 0, parts["embeddings"]), pa.concat_tables(words))
    write_table(run, part_path("samples", 0, parts["samples"]), pa.concat_tables(samples))
    write_table(run, part_path("features", 0, parts["scores"]), pa.Table.from_pylist(features, FEATURES))
    run.write_json("run.json", {
        "model": "mini", "model_digest": model.digest, "clip": "mini", "settings": InversionSettings(steps=6).as_dict(),
        "model_settings": {name: getattr(ModelSettings(), name) for name in ModelSettings.__slots__},
    })  # fmt: skip
    return folder


@pytest.mark.long
def test_a_word_of_no_step_is_what_the_fitted_map_makes_of_its_pictures(archive: Path, tmp_path: Path) -> None:
    """Catches a start file that is read and not used, features of other pictures, and a gain that is not told."""
    file, run = tmp_path / "starts.safetensors", tmp_path / "run"
    fitted = job(archive, "--output", file, "--measure", "1", script="fit_starts.py")
    assert fitted.returncode == 0, fitted.stdout + fitted.stderr
    assert "objects of 1 vector: 12 words" in fitted.stdout
    assert "1 words left out of the fit, no step taken: likeness" in fitted.stdout
    ended = job(
        write_manifest(tmp_path, ["owl"]), "--output", run, "--protocol", few_pictures(tmp_path), "--steps", "0",
        "--slots", "1", "--workers", "1", "--start", file,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    start = decode_start_file(file.read_bytes())
    pixels = load_images([str(path) for path in sorted((DEMO / "images" / "owl").iterdir())], 64).pixels
    expected = start.vectors(load_clip().encode_images(list(pixels)), "object", 1)
    assert expected is not None
    word = decode_word((run / "words" / "owl.safetensors").read_bytes())[1]
    np.testing.assert_allclose(next(iter(word.values())), expected["text_encoder"], atol=1e-5)
    assert json.loads((run / "run.json").read_text())["settings"]["start_encoder"] == start.digest


def test_a_file_of_other_weights_is_refused_by_the_run_in_one_sentence(archive: Path, tmp_path: Path) -> None:
    assert fit_starts.main([str(archive), "--output", str(tmp_path / "s.safetensors"), "--measure", "0"]) == 0
    mini, settings, url = find_model("mini"), InversionSettings(start="fitted"), str(tmp_path / "s.safetensors")
    owl = Concept("owl", (), "<owl>")
    starts = find_starts(settings, url, mini, [owl], {})
    assert starts.said([Concept("ink", (), "<ink>", kind="style")]) is not None
    assert starts.said([owl]) is None
    with pytest.raises(
        StartFileError, match=r"s\.safetensors: it was fitted to words of 'mini' with weights .* make another"
    ):
        find_starts(settings, url, Model("other", mini.folder, mini.family, "0" * 64), [owl], {})
    with pytest.raises(StartFileError, match="a word of 2 vectors"):
        find_starts(settings, url, mini, [Concept("owl", (), "<owl>", vectors=2)], {})


def test_words_of_two_models_make_no_file(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other").mkdir()
    made = json.loads((archive / "run.json").read_text()) | {"model_digest": "0" * 64}
    (tmp_path / "other" / "run.json").write_text(json.dumps(made))
    assert fit_starts.main([str(archive), str(tmp_path / "other"), "--output", str(tmp_path / "s.safetensors")]) == 2
    assert "fit a file for each model" in capsys.readouterr().err
    assert not (tmp_path / "s.safetensors").exists()


def test_the_driver_of_a_fit_imports_no_torch(archive: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from jobs import fit_starts; "
        f"assert not fit_starts.main([{str(archive)!r}, '--output', {str(tmp_path / 's.safetensors')!r}, '--measure', '0']); "
        "assert 'torch' not in sys.modules"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    assert ran.returncode == 0, ran.stderr


@pytest.mark.long
def test_a_start_from_the_vocabulary_makes_a_nouns_picture_that_nouns_word(tmp_path: Path) -> None:
    """Catches pictures and texts whose features are taken for one another's."""
    file = tmp_path / "vocabulary.safetensors"
    assert fit_starts.main(["--vocabulary", "--output", str(file)]) == 0
    start, backbone = decode_start_file(file.read_bytes()), load_backbone("mini")
    frog = np.asarray(Image.open(DEMO / "images" / "my-frog" / "2.jpg").convert("RGB"))
    guessed = start.vectors(load_clip().encode_images([frog]), "object", 1)
    assert guessed is not None
    nouns = {noun: backbone.initial_vectors(noun, 1)["text_encoder"][0] for noun in NOUNS}
    alike = {noun: float(vector @ guessed["text_encoder"][0]) for noun, vector in nouns.items()}
    assert max(alike, key=lambda noun: alike[noun] / np.linalg.norm(nouns[noun])) == "frog"
