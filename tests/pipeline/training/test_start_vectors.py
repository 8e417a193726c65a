"""Where words start: the vocabulary's own words, noise like them, or what a CLIP finds in the pictures."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval.judges.nearest_words import NearestWords
from pipeline.models.base import PromptError
from pipeline.models.load import load_backbone
from pipeline.records import Concept
from pipeline.settings import InversionSettings
from pipeline.training.start_vectors import NEAREST, start_vectors

DEMO = Path(__file__).parents[3] / "jobs" / "demo" / "images"
CAT = Concept("my-cat", (), "<my-cat>", initializer="cat", vectors=2)
STATISTICS = InversionSettings(start="statistics")
LOOKED = InversionSettings(start="nearest", start_clip="mini")


def test_noise_has_the_vocabularys_mean_and_deviation_and_comes_from_seed_and_concept(any_model: Path) -> None:
    """Catches random vectors forty times as long as a word's, and two concepts that start alike."""
    model = load_backbone(str(any_model))
    many = replace(CAT, vectors=2000)
    found = start_vectors(model, many, STATISTICS)
    assert set(found) == set(model.encoders)
    for name, vectors in found.items():
        table = model.vocabulary_vectors(name)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(vectors.mean(0), table.mean(0), atol=0.15 * table.std())
        np.testing.assert_allclose(vectors.std(0), table.std(0), rtol=0.15)
        assert np.array_equal(vectors, start_vectors(model, many, STATISTICS)[name])
        for other in (
            start_vectors(model, many, replace(STATISTICS, seed=1)),
            start_vectors(model, replace(many, name="x"), STATISTICS),
        ):
            assert not np.array_equal(vectors, other[name])


def test_the_nearest_words_mean_is_the_start_of_every_vector(any_model: Path) -> None:
    model = load_backbone(str(any_model))
    words = ("cat", "dog")
    for name, vectors in start_vectors(model, CAT, LOOKED, words).items():
        mean = sum(model.initial_vectors(word, 1)[name] for word in words) / 2
        np.testing.assert_allclose(vectors, np.repeat(mean, 2, 0), rtol=1e-6)
    initializer = model.initial_vectors("cat", 2)
    assert all(np.array_equal(each, initializer[name]) for name, each in start_vectors(model, CAT, LOOKED).items())


def test_vectors_of_a_start_file_that_are_not_as_wide_as_the_models_are_refused(any_model: Path) -> None:
    """Catches a file that states the right digests and ends the worker."""
    model, fitted = load_backbone(str(any_model)), InversionSettings(start="fitted")
    made = {name: np.ones((1, width), np.float32) for name, width in model.word_widths.items()}
    assert set(start_vectors(model, CAT, fitted, pictured=made)) == set(model.encoders)
    narrow = {name: vectors[:, 1:] for name, vectors in made.items()}
    with pytest.raises(PromptError, match=r"the start file makes vectors of \d+ numbers for .*make another"):
        start_vectors(model, CAT, fitted, pictured=narrow)


def test_a_vocabulary_tells_its_whole_words(any_model: Path) -> None:
    """Catches pieces of words, numbers and marks among what a picture may be said to look like."""
    model = load_backbone(str(any_model))
    words = model.vocabulary_words()
    assert {"cat", "dog", "photo"} <= set(words)
    assert words == sorted(set(words))
    for word in words:
        assert word.isalpha()
        np.testing.assert_array_equal(
            next(iter(model.initial_vectors(word, 1).values())), next(iter(model.initial_vectors(word, 2).values()))[:1]
        )


@pytest.mark.parametrize("concept", ["taxi", "owl"])
def test_clip_finds_words_for_pictures_that_are_nearer_than_most(concept: str) -> None:
    """Catches a ranking the wrong way round. The shipped CLIP knows colours better than things."""
    from eval.judges.clip import load_clip

    pixels = np.stack(
        [np.asarray(Image.open(path).convert("RGB").resize((64, 64))) for path in sorted((DEMO / concept).iterdir())]
    )
    vocabulary = load_backbone("mini").vocabulary_words()[::5]
    look = pickle.loads(pickle.dumps(NearestWords("mini", "cpu")))  # noqa: S301 - as Ray sends it
    found = look(pixels, vocabulary)
    assert len(found) == len(set(found)) == NEAREST
    clip = load_clip()
    likeness = clip.encode_texts([f"a photo of a {word}" for word in vocabulary]) @ clip.encode_images(list(pixels)).T
    order = [vocabulary[place] for place in np.argsort(-likeness.mean(1))]
    assert list(found) == order[:NEAREST]
    assert look(pixels[:1], vocabulary) == look(pixels[:1], vocabulary)
