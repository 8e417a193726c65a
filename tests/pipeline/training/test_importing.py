"""Words of other trainers: brought in bit by bit, drawn like ours, and no work left the second time."""

import io
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.numpy import load
from safetensors.torch import save

from jobs.application.public_files import restore_public_files
from jobs.export_words import exported
from jobs.import_words import main
from pipeline.inputs.image_sets import find_images, load_images
from pipeline.inputs.imported_words import with_words
from pipeline.inputs.manifest import Manifest, read_manifest
from pipeline.models.families import family_of
from pipeline.models.find import find_model
from pipeline.protocols import PROTOCOLS
from pipeline.records import Concept, Done, Failure
from pipeline.scheduling.planning import plan
from pipeline.scheduling.worker import Worker
from pipeline.scheduling.worker_interface import WorkerSettings
from pipeline.settings import InversionSettings
from pipeline.store.model_spec import WordSpec, stated_in
from pipeline.store.parts import create_layout
from pipeline.store.publish import publish
from pipeline.store.run_folder import RunFolder
from pipeline.store.storage import Storage
from pipeline.store.word_files import decode_word, encode_word
from pipeline.training.importing import imported_word
from tests.tiny_model import SECOND_WIDTH, WIDTH
from tests.tiny_transformers import save_tiny

SETTINGS = InversionSettings(steps=3, early_stop="off", batch_size=1)
VECTORS = np.random.default_rng(0).normal(scale=0.03, size=(2, WIDTH)).astype(np.float32)
SECOND = np.random.default_rng(1).normal(scale=0.03, size=(2, SECOND_WIDTH)).astype(np.float32)


def torch_saved(value: object) -> bytes:
    sink = io.BytesIO()
    torch.save(value, sink)
    return sink.getvalue()


FILES: dict[str, tuple[str, bytes]] = {
    "diffusers": ("a.safetensors", encode_word("<theirs>", {"text_encoder": VECTORS})),
    "diffusers, old": ("a.bin", torch_saved({"<theirs>": torch.from_numpy(VECTORS)})),
    "AUTOMATIC1111": (
        "a.pt",
        torch_saved({"string_to_param": {"*": torch.from_numpy(VECTORS)}, "name": "theirs", "step": 9}),
    ),
    "kohya": ("a.safetensors", save({"emb_params": torch.from_numpy(VECTORS)})),
    "half precision": ("a.safetensors", save({"emb_params": torch.from_numpy(VECTORS).half()})),
}


@pytest.fixture
def concept(tmp_path: Path) -> Concept:
    folder = tmp_path / "images"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "1.png")
    return Concept("my-cat", (str(folder),), "<my-cat>", initializer="cat")


@pytest.fixture
def worker_on(tmp_path: Path) -> Callable[[Path], Worker]:
    def make(folder: Path) -> Worker:
        run = RunFolder(Storage(str(tmp_path / "run")))
        create_layout(run, 1)
        settings = WorkerSettings(
            model=str(folder), model_digest=find_model(str(folder)).digest, device="cpu",
            threads=1, slots=1, inversion=SETTINGS, protocol=replace(PROTOCOLS["quick"], steps=2),
            run=run, storage_options={},
        )  # fmt: skip
        return Worker(settings)

    return make


def rows(worker: Worker) -> list[dict[str, Any]]:
    (path,) = Path(worker.settings.run.storage.url, "_attempts").glob("*embedding.parquet")
    found: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return found


@pytest.mark.parametrize("form", FILES)
def test_a_word_of_another_trainer_is_brought_in_as_it_is(
    form: str, epsilon_model: Path, worker_on: Callable[[Path], Worker], concept: Concept, tmp_path: Path
) -> None:
    """Catches a word that is trained on, resized or renamed on its way, and one that is brought in again every night."""
    name, data = FILES[form]
    (tmp_path / name).write_bytes(data)
    theirs, worker = replace(concept, word_file=str(tmp_path / name)), worker_on(epsilon_model)
    done = worker.invert(theirs)
    assert isinstance(done, Done)
    assert (done.steps, worker.batch.steps) == (0, 0)
    (row,) = rows(worker)
    wanted = VECTORS.astype(np.float16).astype(np.float32) if form == "half precision" else VECTORS
    assert np.array(row["vectors"], np.float32).tobytes() == wanted.tobytes()
    assert (row["stopped_by"], row["steps"], row["placeholder"]) == ("imported", 0, "<my-cat>")
    assert np.isfinite(row["loss"])
    (file,) = [source for source in row["sources"] if source["url"].endswith(name)]
    assert len(file["digest"]) == 64
    public = worker.settings.run.storage.read_bytes(worker.settings.run.word_path(theirs.name))
    assert decode_word(public)[1]["text_encoder"].tobytes() == wanted.tobytes()

    planned = plan([theirs], worker.settings.run, find_model(str(epsilon_model)), "auto", SETTINGS, {})
    assert planned.done == {"my-cat": done.fingerprint}
    (tmp_path / name).write_bytes(encode_word("<theirs>", {"text_encoder": VECTORS + 1}))
    changed = plan([theirs, ], worker.settings.run, find_model(str(epsilon_model)), "auto", SETTINGS, {})  # fmt: skip
    assert changed.left == (theirs,)
    learned = plan([concept], worker.settings.run, find_model(str(epsilon_model)), "auto", SETTINGS, {})
    assert learned.left == (concept,), "a word that is to be learned is another one"


def test_its_pictures_are_drawn_with_it(
    epsilon_model: Path, worker_on: Callable[[Path], Worker], concept: Concept, tmp_path: Path
) -> None:
    """Catches scores of a word that no picture was drawn of."""
    samples = []
    for number in range(2):
        file = tmp_path / f"{number}.safetensors"
        file.write_bytes(encode_word("<x>", {"text_encoder": VECTORS * (1 + 20 * number)}))
        worker = worker_on(epsilon_model)
        assert isinstance(worker.invert(replace(concept, name=f"c{number}", word_file=str(file))), Done)
        (path,) = Path(worker.settings.run.storage.url, "_attempts").glob(f"c{number}*samples.parquet")
        table = pq.read_table(path).to_pylist()
        samples.append([row["image"]["bytes"] for row in table if row["kind"] == "reconstruction"])
    assert samples[0][0] != samples[1][0]


def test_a_word_of_two_text_encoders(
    xl_model: Path, worker_on: Callable[[Path], Worker], concept: Concept, tmp_path: Path
) -> None:
    file = tmp_path / "a.safetensors"
    file.write_bytes(save({"clip_l": torch.from_numpy(VECTORS), "clip_g": torch.from_numpy(SECOND)}))
    worker = worker_on(xl_model)
    assert isinstance(worker.invert(replace(concept, word_file=str(file))), Done)
    found = {row["text_encoder"]: np.array(row["vectors"], np.float32) for row in rows(worker)}
    assert found["text_encoder"].tobytes() == VECTORS.tobytes()
    assert found["text_encoder_2"].tobytes() == SECOND.tobytes()


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("what a pickle must never get to say",)


BAD: dict[str, tuple[bytes, str]] = {
    "another model's": (
        encode_word("x", {"text_encoder": np.ones((1, 99), np.float32)}),
        "as wide as 99, but the model's are 32",
    ),
    "not a word": (b"<html>", "it is a web page (HTML), not a word file"),
    "a pickle": (pickle.dumps(Evil()), "neither a safetensors file nor one of torch"),
    "torch's pickle": (
        torch_saved({"x": Evil()}),
        "asks for __builtin__.print, which no word needs; nothing of it was run",
    ),
    "not a number": (encode_word("x", {"text_encoder": np.full((1, WIDTH), np.nan, np.float32)}), "is not finite"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_file_that_cannot_serve_costs_its_concept_and_is_remembered(
    what: str, epsilon_model: Path, worker_on: Callable[[Path], Worker], concept: Concept, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Catches code that is run out of a stranger's file, and a hopeless file that is tried every night."""
    (tmp_path / "a.bin").write_bytes(BAD[what][0])
    theirs, worker = replace(concept, word_file=str(tmp_path / "a.bin")), worker_on(epsilon_model)
    failure = worker.invert(theirs)
    assert isinstance(failure, Failure)
    assert BAD[what][1] in failure.reason
    assert "must never" not in capsys.readouterr().out
    worker.settings.run.record_failure(failure)
    planned = plan([theirs], worker.settings.run, find_model(str(epsilon_model)), "auto", SETTINGS, {})
    assert (planned.left, [each.concept for each in planned.failed]) == ((), ["my-cat"])


def manifest_of(folder: Path, rows_: str) -> Manifest:
    (folder / "manifest.csv").write_text(rows_)
    return read_manifest(str(folder / "manifest.csv"))


def test_words_are_found_by_the_concepts_names_or_where_a_row_says(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    for name in ("a.pt", "b.safetensors", "c.bin", "readme.txt"):
        (tmp_path / "theirs" / name).write_bytes(b"")
    manifest = manifest_of(tmp_path, "concept,images,word_file\na,a/,\nb,b/,elsewhere/other.pt\nc,c/,\n")
    found = [str(each.word_file) for each in with_words(manifest, str(tmp_path / "theirs"), {}).concepts]
    assert [Path(each).relative_to(tmp_path).as_posix() for each in found] == [
        "theirs/a.pt", "elsewhere/other.pt", "theirs/c.bin"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a.pt"], "1 of 2 concepts have no word to import, such as b: .* there is no b.safetensors, .pt or .bin in"),
        (["a.pt", "a.bin", "b.pt"], "has two words for a"),
    ],
)
def test_a_concept_without_its_word_is_refused_before_anything_starts(
    names: list[str], said: str, tmp_path: Path
) -> None:
    """Catches an import that quietly learns what it was not given."""
    (tmp_path / "theirs").mkdir()
    for name in names:
        (tmp_path / "theirs" / name).write_bytes(b"")
    manifest = manifest_of(tmp_path, "concept,images\na,a/\nb,b/\n")
    with pytest.raises(ValueError, match=said):
        with_words(manifest, str(tmp_path / "theirs"), {})
    arguments = [str(tmp_path / "manifest.csv"), "--words", str(tmp_path / "theirs"), "--output", str(tmp_path / "run")]
    assert main(arguments) == 2


def test_an_exported_word_is_the_word_and_goes_the_whole_way_round(
    epsilon_model: Path, worker_on: Callable[[Path], Worker], concept: Concept, tmp_path: Path
) -> None:
    """Catches a word that is rounded, renamed or lost between two programs."""
    worker = worker_on(epsilon_model)
    done = worker.invert(concept)
    assert isinstance(done, Done)
    run = worker.settings.run
    publish(run, {concept.name: done.fingerprint}, create_layout(run, 1))
    run.write_json("run.json", {"model_family": "StableDiffusionPipeline"})
    ((name, data),) = exported(run, "a1111", []).items()
    assert name == "my-cat.safetensors"
    placeholder, vectors = decode_word(data)
    assert placeholder == "<my-cat>"
    word = decode_word(run.storage.read_bytes(run.word_path(concept.name)))[1]
    assert vectors["text_encoder"].tobytes() == word["text_encoder"].tobytes()
    assert exported(run, "diffusers", ["my-cat"]) == {name: run.storage.read_bytes(run.word_path(concept.name))}
    with pytest.raises(ValueError, match="no word for dog"):
        exported(run, "a1111", ["dog"])


def test_a_word_of_stable_diffusion_3_goes_the_whole_way_round(
    worker_on: Callable[[Path], Worker], concept: Concept, tmp_path: Path
) -> None:
    """Catches a family of three text encoders that trains, but whose word some stage of a run cannot carry."""
    worker = worker_on(save_tiny("sd3", tmp_path / "model"))
    done = worker.invert(concept)
    assert isinstance(done, Done), done
    run = worker.settings.run
    assert set(load(run.storage.read_bytes(run.word_path(concept.name)))) == {"clip_l", "clip_g", "t5"}
    learned = rows(worker)
    assert [row["text_encoder"] for row in learned] == ["text_encoder", "text_encoder_2", "text_encoder_3"]
    publish(run, {concept.name: done.fingerprint}, create_layout(run, 1))
    run.write_json("run.json", {"model_family": "StableDiffusion3Pipeline"})
    ((_, data),) = exported(run, "comfyui", []).items()
    assert set(load(data)) == {"clip_l", "clip_g", "t5xxl"}
    again = imported_word(concept, data, load_images(find_images(concept), 16), worker.backbone, SETTINGS)
    for row in learned:
        assert again.vectors[row["text_encoder"]].tolist() == row["vectors"]


THEIR_SPEC = WordSpec(
    "Ruby Owl", "stable-diffusion-v1", "style", 768, "2024-05-06", {"author": "somebody", "tags": "bird, red"}
)
THEIRS_SAID = {
    "title": "Ruby Owl", "date": "2024-05-06", "tags": "bird, red", "resolution": "768x768", "author": "somebody",
}  # fmt: skip


def test_what_a_file_says_of_its_word_is_kept_shown_and_written_again(
    epsilon_model: Path, worker_on: Callable[[Path], Worker], concept: Concept, tmp_path: Path
) -> None:
    """Catches an author, a title or a day that is lost, or ours put in its place, on the way through an import and an export."""
    given = encode_word("<ruby>", {"text_encoder": VECTORS}, layout="a1111", spec=THEIR_SPEC)
    (tmp_path / "a.safetensors").write_bytes(given)
    worker = worker_on(epsilon_model)
    done = worker.invert(replace(concept, word_file=str(tmp_path / "a.safetensors")))
    assert isinstance(done, Done), done
    run = worker.settings.run
    (row,) = rows(worker)
    stated = dict(row["stated"])
    assert stated == stated_in(given)
    assert stated["trigger_phrase"] == "<ruby>"
    publish(run, {concept.name: done.fingerprint}, create_layout(run, 1))
    run.write_json("run.json", {"model_family": "StableDiffusionPipeline"})
    public = run.storage.read_bytes(run.word_path(concept.name))
    run.storage.delete(run.word_path(concept.name))
    assert restore_public_files(
        run, {concept.name: done.fingerprint}, create_layout(run, 1), family_of("StableDiffusionPipeline")
    )
    assert run.storage.read_bytes(run.word_path(concept.name)) == public
    for data in (public, *exported(run, "a1111", []).values()):
        said = stated_in(data)
        assert {key: said[key] for key in THEIRS_SAID} == THEIRS_SAID
        assert (said["trigger_phrase"], said["is_negative_embedding"]) == ("<my-cat>", "false"), (
            "the word as it is here"
        )
        assert said["hash_sha256"] == stated["hash_sha256"], "the same numbers"


def test_what_a_learned_word_says_is_ours(
    epsilon_model: Path, worker_on: Callable[[Path], Worker], concept: Concept
) -> None:
    worker = worker_on(epsilon_model)
    assert isinstance(worker.invert(concept), Done)
    (row,) = rows(worker)
    assert (row["stated"], row["learned"] is not None) == ([], True)


@pytest.mark.parametrize(
    ("metadata", "kept"),
    [
        ({"modelspec.title": "a\x1b[31mb\n"}, {"title": "a [31mb"}),
        ({"modelspec.thumbnail": "data:image/jpeg;base64," + "A" * 9_000, "modelspec.title": "t"}, {"title": "t"}),
        ({"modelspec.author": "https://me:pw@host/x"}, {"author": "https://***@host/x"}),
        ({"ss_network": "kohya's own", "modelspec.license": "CC0"}, {"license": "CC0"}),
        ({"modelspec.date": "  "}, {}),
        ({}, {}),
    ],
)
def test_what_is_kept_of_a_files_metadata_is_short_printable_text(
    metadata: dict[str, str], kept: dict[str, str]
) -> None:
    """Catches a terminal that obeys a stranger's title, and a password in a run's tables."""
    assert stated_in(save({"emb_params": torch.from_numpy(VECTORS)}, metadata)) == kept
