"""The job that fits start files, on the shipped model: words minted from their pictures by a file that was fitted to an archive."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from eval.judges.clip import load_clip
from eval.scores.confusion import FEATURES
from jobs import fit_starts
from jobs.application.starts.run_starts import find_starts
from pipeline.inputs.image_sets import load_images
from pipeline.models.find import Model, find_model
from pipeline.models.load import load_backbone
from pipeline.records import Concept, ImageSet, Sample, Word
from pipeline.sampling.grid import encode_png
from pipeline.sampling.sampler import SamplerSettings, sample
from pipeline.settings import InversionSettings, ModelSettings, WordPlace
from pipeline.store.parts import create_layout, part_path, write_table
from pipeline.store.run_folder import RunFolder
from pipeline.store.run_tables import embedding_rows, sample_rows
from pipeline.store.storage import Storage
from pipeline.store.word_files import decode_word
from pipeline.training.inversion import new_slot
from pipeline.training.recipes import vectors_of
from pipeline.training.slot import SideInformation
from pipeline.training.start_file import StartFileError, decode_start_file
from tests.job_process import DEMO, ROOT, few_pictures, job, write_manifest

NOUNS = ("cat", "frog", "car", "apple", "fish", "house", "bear", "lion", "rose", "castle", "guitar", "snail")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of twelve words as a run leaves them: nouns' own vectors, each beside a picture of one colour."""
    return make_archive(tmp_path_factory.mktemp("archive") / "run", "input")


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of words behind the text encoder."""
    return make_archive(tmp_path_factory.mktemp("behind") / "run", "output")


def make_archive(folder: Path, place: WordPlace) -> Path:
    run, model, backbone, clip = RunFolder(Storage(str(folder))), find_model("mini"), load_backbone("mini"), load_clip()
    parts = create_layout(run, len(NOUNS))
    words, samples, features = [], [], []
    for number, noun in enumerate(NOUNS):
        pixels = np.full((1, 64, 64, 3), (20 * number, 255 - 20 * number, 128), np.uint8)
        vectors = backbone.initial_vectors(noun, 1, backbone.encoders_of((), place))
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
        "model": "mini", "model_digest": model.digest, "clip": "mini",
        "settings": InversionSettings(steps=6, word_place=place).as_dict(),
        "model_settings": {name: getattr(ModelSettings(), name) for name in ModelSettings.__slots__},
    })  # fmt: skip
    return folder


@pytest.mark.long
@pytest.mark.parametrize(
    ("learned", "place", "name"), [("archive", "input", "text_encoder"), ("behind", "output", "text_encoder_out")]
)
def test_a_word_of_no_step_is_what_the_fitted_map_makes_of_its_pictures(
    learned: str, place: str, name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Catches a start file that is read and not used, features of other pictures, and a gain that is not told."""
    file, run = tmp_path / "starts.safetensors", tmp_path / "run"
    fitted = job(request.getfixturevalue(learned), "--output", file, "--measure", "1", script="fit_starts.py")
    assert fitted.returncode == 0, fitted.stdout + fitted.stderr
    assert "objects of 1 vector: 12 words" in fitted.stdout
    assert "1 words left out of the fit, no step taken: likeness" in fitted.stdout
    ended = job(
        write_manifest(tmp_path, ["owl"]), "--output", run, "--protocol", few_pictures(tmp_path), "--steps", "0",
        "--slots", "1", "--workers", "1", "--vectors", "1", "--start", file, "--word-place", place,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    start = decode_start_file(file.read_bytes())
    pixels = load_images([str(path) for path in sorted((DEMO / "images" / "owl").iterdir())], 64).pixels
    expected = start.vectors(load_clip().encode_images(list(pixels)), "object", 1)
    assert expected is not None
    (word,) = decode_word((run / "words" / "owl.safetensors").read_bytes())[1].values()
    (wanted,) = expected.values()
    if place == "output":  # it keeps the text encoder's usual length
        wanted = wanted * np.linalg.norm(word) / np.linalg.norm(wanted)
    assert list(expected) == [name]
    np.testing.assert_allclose(word, wanted, atol=1e-5)
    assert json.loads((run / "run.json").read_text())["settings"]["start_encoder"] == start.digest


def test_a_file_for_words_behind_the_text_encoder_is_for_these_alone(
    archive: Path, behind: Path, tmp_path: Path
) -> None:
    """Catches vectors of an encoder's output that words in its input start from, and the other way round."""
    mini, owl = find_model("mini"), Concept("owl", (), "<owl>", initializer="bird")
    files = {place: str(tmp_path / f"{place}.safetensors") for place in ("input", "output")}
    for place, run in (("input", archive), ("output", behind)):
        assert fit_starts.main([str(run), "--output", files[place], "--measure", "0"]) == 0
    settings = InversionSettings(start="fitted", word_place="output")
    starts = find_starts(settings, files["output"], mini, [owl], {})
    assert starts.file is not None
    with pytest.raises(
        StartFileError, match="no map for words behind the text encoder text_encoder, only for text_encoder;"
    ):
        find_starts(settings, files["input"], mini, [owl], {})
    with pytest.raises(
        StartFileError, match="no map for the text encoder text_encoder, only for words behind text_encoder;"
    ):
        find_starts(InversionSettings(start="fitted"), files["output"], mini, [owl], {})
    pixels = np.full((1, 64, 64, 3), (60, 195, 128), np.uint8)
    guessed = starts.file.vectors(load_clip().encode_images(list(pixels)), "object", 1)
    backbone = load_backbone("mini")
    slot = new_slot(
        owl, pixels, backbone, replace(settings, start_encoder=starts.digest), SideInformation(pictured=guessed)
    )
    assert guessed is not None
    ((name, word),) = slot.words.items()
    assert name == "text_encoder_out"
    long = backbone.usual_length(name) / np.linalg.norm(guessed[name])
    np.testing.assert_allclose(word.detach().numpy(), guessed[name] * long, rtol=1e-4)


def test_words_before_and_behind_the_text_encoder_make_no_file(
    archive: Path, behind: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit_starts.main([str(archive), str(behind), "--output", str(tmp_path / "s.safetensors")]) == 2
    assert "before and behind them; take runs with the same" in capsys.readouterr().err


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
    """Catches pictures and texts whose features are taken for one another's. Chance names one picture in twelve."""
    file = tmp_path / "vocabulary.safetensors"
    assert fit_starts.main(["--vocabulary", "--output", str(file)]) == 0
    start, backbone, clip = decode_start_file(file.read_bytes()), load_backbone("mini"), load_clip()
    vectors = np.concatenate([backbone.initial_vectors(noun, 1)["text_encoder"] for noun in NOUNS])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    by_default = start.vectors(
        np.zeros((1, clip.encode_texts(["cat"]).shape[1]), np.float32), "object", vectors_of("mini")
    )
    assert by_default is not None  # a run without --vectors takes the file
    assert len(by_default["text_encoder"]) == vectors_of("mini")
    named = 0
    prompts = [f"a picture of a {noun}" for noun in NOUNS] * 2
    pictures = sample(backbone, prompts, range(len(prompts)), {}, SamplerSettings("dpm++", 20, 5.0))
    for number, picture in enumerate(pictures):
        word = start.vectors(clip.encode_images([picture]), "object", 1)
        assert word is not None
        named += int((vectors @ word["text_encoder"][0]).argmax()) == number % len(NOUNS)
    assert named >= len(prompts) / 2
