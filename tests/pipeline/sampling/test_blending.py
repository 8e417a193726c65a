"""Words between two words: the arc, its ends, and what cannot be blended."""

import numpy as np
import pytest

from pipeline.sampling.blending import Blend, blended, read_blend, slerp

CHANCE = np.random.default_rng(0)
OWL, DRUM = (CHANCE.normal(size=(2, 64)).astype(np.float32) * size for size in (1, 3))
WORDS: dict[str, dict[str, np.ndarray]] = {"<owl>": {"text_encoder": OWL}, "<Drum>": {"text_encoder": DRUM}}


def angle(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    cosine = (first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)
    return np.arccos(np.clip(cosine.astype(float), -1, 1))


def test_a_blend_begins_and_ends_at_its_words() -> None:
    np.testing.assert_allclose(slerp(OWL, DRUM, 0), OWL, rtol=1e-6)
    np.testing.assert_allclose(slerp(OWL, DRUM, 1), DRUM, rtol=1e-6)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.75])
def test_the_direction_turns_evenly_and_the_length_goes_straight(share: float) -> None:
    """Catches a linear blend, which hurries through the middle and is short there."""
    between = slerp(OWL, DRUM, share)
    np.testing.assert_allclose(angle(OWL, between), share * angle(OWL, DRUM), rtol=1e-5)
    np.testing.assert_allclose(angle(between, DRUM), (1 - share) * angle(OWL, DRUM), rtol=1e-5)
    lengths = (1 - share) * np.linalg.norm(OWL, axis=1) + share * np.linalg.norm(DRUM, axis=1)
    np.testing.assert_allclose(np.linalg.norm(between, axis=1), lengths, rtol=1e-6)


def test_words_that_are_nearly_the_same_blend_into_nearly_the_same() -> None:
    """Catches a division by the sine of nothing."""
    for other in (OWL, OWL * np.float32(1 + 1e-7), OWL + np.float32(1e-5)):
        np.testing.assert_allclose(slerp(OWL, other, 0.5), (OWL + other) / 2, atol=1e-7)
    assert np.isfinite(slerp(np.zeros_like(OWL), DRUM, 0.5)).all()


def test_opposite_words_are_refused() -> None:
    with pytest.raises(ValueError, match="opposite directions"):
        blended(Blend("<x>", "<owl>", "<owl>-not", 0.5), {**WORDS, "<owl>-not": {"text_encoder": -2 * OWL}})


def test_a_blend_is_read_and_finds_its_words_in_any_case() -> None:
    blend = read_blend("<mix> = <OWL> : <drum> : 0.25")
    assert str(blend) == "<mix>=<OWL>:<drum>:0.25"
    assert blended(blend, WORDS)["text_encoder"].tobytes() == slerp(OWL, DRUM, 0.25).tobytes()


@pytest.mark.parametrize(
    "text", ["<owl>:<drum>:0.5", "<x>=<owl>:<drum>", "<x>=<owl>:<drum>:half", "<x>=<owl>:<drum>:nan", "<x>=<owl>:<drum>:1.5",
             "=<owl>:<drum>:0.5", "a b=<owl>:<drum>:0.5", ""],
)  # fmt: skip
def test_what_is_no_blend_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"<new>|from 0 to 1"):
        read_blend(text)


@pytest.mark.parametrize(
    ("blend", "said"),
    [
        (Blend("<x>", "<owl>", "<cat>", 0.5), "there is no word <cat>; there are <Drum>, <long>, <owl>, <two>"),
        (Blend("<OWL>", "<owl>", "<drum>", 0.5), "there is a word <owl> already"),
        (Blend("<x>", "<owl>", "<long>", 0.5), "<owl> has 2 vectors for text_encoder, <long> has 3 vectors for text_encoder"),
        (Blend("<x>", "<two>", "<owl>", 0.5), "<two> has 2 vectors for text_encoder and 2 vectors for text_encoder_2"),
    ],
    ids=str,
)  # fmt: skip
def test_words_that_do_not_blend_are_refused(blend: Blend, said: str) -> None:
    words = {
        **WORDS,
        "<long>": {"text_encoder": np.ones((3, 64))},
        "<two>": {"text_encoder": OWL, "text_encoder_2": OWL},
    }
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - what it says is compared below
        blended(blend, words)
    assert said in str(refused.value)
