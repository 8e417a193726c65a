"""Words that start from their pictures, as a worker learns them: the first vectors, and words of no step."""

from dataclasses import replace

import numpy as np

from pipeline.models.find import find_model
from pipeline.models.load import load_backbone
from pipeline.models.start_encoder import load_start_encoder
from pipeline.records import Concept, Word
from pipeline.scheduling.continuous_batch import ContinuousBatch
from pipeline.settings import InversionSettings
from pipeline.training.inversion import SideInformation, new_slot
from pipeline.training.start_vectors import start_vectors

CONCEPT = Concept("my-crab", (), "<my-crab>", initializer="crab", vectors=2)


def test_a_word_of_no_step_is_what_its_pictures_say_and_its_loss_is_told() -> None:
    """Catches a start that is taken and dropped, one vector of several left out, and a word without a loss."""
    model, encoder = load_backbone("mini"), load_start_encoder(find_model("mini"))
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    settings = InversionSettings(steps=0, start="pictures", start_encoder=encoder.digest)
    side = SideInformation(pictured=encoder.vectors(pixels))
    batch = ContinuousBatch(model, 1, lambda _: None, 1e9, lambda *_: None)
    word = batch.train("f", lambda: new_slot(CONCEPT, pixels, model, settings, side))
    assert isinstance(word, Word)
    assert (word.steps, word.stopped_by) == (0, "steps")
    assert np.isfinite(word.loss)
    (expected,) = encoder.vectors(pixels).values()
    (vectors,) = word.vectors.values()
    np.testing.assert_array_equal(vectors, np.stack([expected, expected]))
    plain = start_vectors(model, CONCEPT, replace(settings, start="words", start_encoder=""))
    without = start_vectors(model, CONCEPT, settings)  # a style's
    for name, rows in plain.items():
        np.testing.assert_array_equal(without[name], rows)


def test_an_initializer_is_moved_by_what_tells_the_pictures_from_the_models_own_of_it() -> None:
    """Catches a start that loses the class's outline, one vector of several left where it was, and a sign turned round."""
    model = load_backbone("mini")
    settings = InversionSettings(start="pictures", start_encoder="a" * 64)
    pictured, drawn = ({"text_encoder": np.full(128, value, np.float32)} for value in (0.5, 0.2))
    (moved,) = start_vectors(model, CONCEPT, settings, (), pictured, drawn).values()
    (crab,) = model.initial_vectors("crab", 2).values()
    np.testing.assert_allclose(moved, crab + 0.3, atol=1e-6)


def test_a_start_from_pictures_enters_the_fingerprint_and_its_absence_does_not() -> None:
    """Catches words of other starts found done, and old runs that would be learned again."""
    assert "start_encoder" not in InversionSettings().fingerprinted()
    assert InversionSettings(start="pictures", start_encoder="a" * 64).fingerprinted()["start_encoder"] == "a" * 64
