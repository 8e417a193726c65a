"""Which pictures are compared with which, on pictures whose features can be worked out by hand."""

import io
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from eval.judges.judge import Features, Picture
from eval.scores.encoded import encode_concept
from eval.scores.scoring import score_concept
from pipeline.records import Sample, SampleKind, Score

RED, GREEN, BLUE, YELLOW = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)
HALF = math.sqrt(0.5)
PLAIN, EDIT = "a photo of <it>", "a photo of <it> at night"


class ColourClip:
    """A picture's feature is its colour, a text's is what TEXTS says."""

    name = "colour"
    fingerprint = "0"

    def __init__(self) -> None:
        self.texts = {"a photo of at night": BLUE, "a green photo of": GREEN, " ": BLUE}

    def encode_images(self, pictures: Sequence[Picture]) -> Features:
        return _unit([np.asarray(picture).reshape(-1, 3).mean(axis=0) for picture in pictures])

    def encode_texts(self, texts: Sequence[str]) -> Features:
        return _unit([np.array(self.texts[text]) for text in texts]) if texts else np.empty((0, 3), np.float32)


def _unit(rows: Sequence[np.ndarray]) -> Features:
    stacked = np.stack(rows).astype(np.float32)
    return stacked / np.linalg.norm(stacked, axis=1, keepdims=True)


def of(kind: SampleKind, prompt: str, *colours: tuple[int, int, int]) -> list[Sample]:
    stated = " ".join(prompt.replace("<it>", "").split())
    made = []
    for index, colour in enumerate(colours):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
        made.append(Sample("it", kind, prompt, stated, index, seed=index, png=buffer.getvalue()))
    return made


def samples() -> list[Sample]:
    return [
        *of("training", "", RED, YELLOW),
        *of("reconstruction", PLAIN, RED, YELLOW, RED, YELLOW),
        *of("untrained", PLAIN, GREEN, GREEN),
        *of("edit", EDIT, BLUE, RED),
        *of("untrained", EDIT, BLUE),
    ]


def score(given: Sequence[Sample], seed: int = 0) -> list[Score]:
    clip = ColourClip()
    return score_concept(encode_concept(given, clip), clip, np.random.default_rng(seed))


def of_metric(scores: Sequence[Score], metric: str) -> Score:
    (found,) = [each for each in scores if each.metric == metric]
    return found


def test_reconstruction_is_read_against_the_untrained_word_and_the_training_images_themselves() -> None:
    found = score(samples())[0]
    assert (found.metric, found.prompt, found.n) == ("image_similarity", PLAIN, 4)
    assert found.value == pytest.approx((1 + HALF) / 2, abs=1e-6)  # red: 1 and 0.71; yellow: 0.71 and 1
    assert found.floor == pytest.approx(HALF / 2, abs=1e-6)  # green: 0 with red, 0.71 with yellow
    assert found.ceiling == pytest.approx(HALF, abs=1e-6)  # red with yellow; neither with itself
    assert found.covered == pytest.approx((found.value - found.floor) / (found.ceiling - found.floor))
    assert found.low == pytest.approx(found.value, abs=1e-6)  # all four samples score the same
    assert found.high == pytest.approx(found.value, abs=1e-6)


def test_editability_is_read_against_the_plain_pictures_and_the_untrained_word_at_the_same_prompt() -> None:
    found = score(samples())[1]
    assert (found.metric, found.prompt, found.n) == ("text_similarity", EDIT, 2)
    assert found.value == pytest.approx(0.5)  # blue 1, red 0
    assert found.floor == pytest.approx(0)  # the plain pictures hold no blue
    assert found.ceiling == pytest.approx(1)
    assert found.covered == pytest.approx(0.5)
    assert found.low < 0 < 1 < found.high, "two values say little of their mean, and the interval says so"


def test_every_edit_prompt_has_its_own_score_and_floor() -> None:
    green = "a green photo of <it>"
    found = score([*samples(), *of("edit", green, YELLOW), *of("untrained", green, GREEN)])
    assert [each.prompt for each in found if each.metric == "text_similarity"] == [green, EDIT]
    assert found[1].value == pytest.approx(HALF)
    assert found[1].floor == pytest.approx(HALF / 2)  # of red 0 and yellow 0.71
    assert math.isnan(found[1].low)  # one picture has no spread


def test_diversity_is_read_against_one_picture_again_and_again_and_the_training_images() -> None:
    found = of_metric(score(samples()), "diversity")
    assert (found.prompt, found.n, found.floor) == (PLAIN, 4, 0)
    assert found.value == pytest.approx((1 - HALF) * 2 / 3, abs=1e-6)  # each has one equal and two others at 0.71
    assert found.ceiling == pytest.approx(1 - HALF, abs=1e-6)
    assert found.covered == pytest.approx(2 / 3, abs=1e-5)
    collapsed = of_metric(score([*(each for each in samples() if each.kind != "reconstruction"),
                                 *of("reconstruction", PLAIN, RED, RED, RED)]), "diversity")  # fmt: skip
    assert collapsed.value == pytest.approx(0, abs=1e-6)


def test_subject_fidelity_takes_the_pictures_of_all_edit_prompts_together() -> None:
    green = "a green photo of <it>"
    found = of_metric(
        score([*samples(), *of("edit", green, YELLOW), *of("untrained", green, GREEN)]), "subject_fidelity"
    )
    assert (found.prompt, found.n) == ("", 3)
    assert found.value == pytest.approx((0 + (1 + HALF) / 2 * 2) / 3, abs=1e-6)  # blue; red, yellow
    assert found.floor == pytest.approx((0 + HALF / 2) / 2, abs=1e-6)  # blue; green
    assert found.ceiling == pytest.approx(HALF, abs=1e-6)


def test_every_score_stands_beside_what_the_noun_alone_and_no_word_at_all_reach() -> None:
    """Catches a floor that is measured on other pictures than those drawn for it, or otherwise than its score."""
    given = [*samples(), *of("noun", "a photo of owl", YELLOW, YELLOW), *of("wordless", "a photo of", GREEN, BLUE)]
    plain, edit = score(given)[:2]
    assert plain.floor_noun == pytest.approx((1 + HALF) / 2, abs=1e-6)  # yellow: 0.71 with red, 1 with itself
    assert plain.floor_wordless == pytest.approx(HALF / 4, abs=1e-6)  # green: 0 and 0.71; blue: 0
    assert (edit.floor_noun, edit.floor_wordless) == pytest.approx((0, 0.5))  # the text is blue
    diverse = of_metric(score(given), "diversity")
    assert (diverse.floor_noun, diverse.floor_wordless) == pytest.approx((0, 1), abs=1e-6)
    without = score(samples())
    assert all(math.isnan(each.floor_noun) and math.isnan(each.floor_wordless) for each in without)
    changed = {each.metric: (each.value, each.low, each.high, each.floor, each.ceiling) for each in without}
    assert changed == {
        each.metric: (each.value, each.low, each.high, each.floor, each.ceiling) for each in score(given)
    }


def test_a_model_that_knows_only_pictures_gives_all_scores_but_those_of_texts() -> None:
    encoded = encode_concept(samples(), ColourClip())
    found = score_concept(encoded, None, np.random.default_rng(0))
    assert [each.metric for each in found] == ["image_similarity", "diversity", "subject_fidelity", "effect", "copies"]


def test_the_order_of_samples_changes_no_bit() -> None:
    given = samples()
    shuffled = [given[position] for position in np.random.default_rng(1).permutation(len(given))]
    assert score(shuffled) == score(given)


def test_one_training_image_has_no_ceiling_but_a_score() -> None:
    found = score([each for each in samples() if each.kind != "training" or each.index == 0])[0]
    assert found.value == pytest.approx((1 + HALF) / 2, abs=1e-6)
    assert math.isnan(found.ceiling)
    assert math.isnan(found.covered)


def test_without_untrained_samples_the_floor_is_unknown_rather_than_zero() -> None:
    found = score([each for each in samples() if each.kind != "untrained"])
    assert math.isnan(found[0].floor)
    assert math.isnan(found[0].covered)
    assert math.isnan(found[1].ceiling)


def test_the_text_that_is_scored_is_the_stated_one() -> None:
    given = [replace(each, stated="a green photo of") if each.kind == "edit" else each for each in samples()]
    assert score(given)[1].value == pytest.approx(0)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ([replace(samples()[0], concept="other"), *samples()], "one concept's samples; these are of 2: it, other"),
        ([each for each in samples() if each.kind != "training"], "no training images"),
        ([each for each in samples() if each.kind != "reconstruction"], "reconstruction samples of 0 prompts"),
        ([*samples(), *of("reconstruction", EDIT, RED)], "reconstruction samples of 2 prompts"),
        (
            [replace(each, stated=" ") if each.kind == "edit" else each for each in samples()],
            "no text besides the word",
        ),
    ],
)
def test_samples_that_cannot_be_scored_are_refused_with_the_reason(given: list[Sample], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        score(given)


def test_effect_compares_pictures_from_the_same_noise() -> None:
    """Catches a word that changes nothing and passes for a learned one, because other noise draws other pictures anyhow."""
    untrained = of_metric(score([*samples(), *of("untrained", EDIT, RED)]), "effect")
    assert untrained.prompt == PLAIN
    assert untrained.n == 2
    assert untrained.value == pytest.approx(1 - HALF / 2, abs=1e-6)  # red to green: 1; yellow to green: 0.29
    assert (untrained.floor, untrained.ceiling) == pytest.approx((0, 1 - HALF / 2), abs=1e-6)
    unchanged = [
        *of("training", "", RED, YELLOW),
        *of("reconstruction", PLAIN, RED, GREEN, BLUE),
        *of("untrained", PLAIN, RED, GREEN),
    ]
    assert of_metric(score(unchanged), "effect").value == pytest.approx(0, abs=1e-6)
    swapped = [*unchanged[:5], *of("untrained", PLAIN, GREEN, RED)]
    assert of_metric(score(swapped), "effect").value == pytest.approx(1, abs=1e-6)
    elsewhere = [*unchanged[:5], *(replace(each, seed=each.seed + 7) for each in unchanged[5:])]
    assert "effect" not in {each.metric for each in score(elsewhere)}


def test_a_picture_nearer_to_a_training_image_than_they_are_to_each_other_is_a_copy() -> None:
    """Catches likeness that is copying, and honest likeness that is called so."""
    orange = (255, 128, 0)  # as near to red as it is to yellow, and nearer than these are to each other
    told = [
        *of("training", "", RED, YELLOW), *of("reconstruction", PLAIN, RED, GREEN, orange, BLUE),
        *of("untrained", PLAIN, GREEN, YELLOW), *of("edit", EDIT, BLUE),
    ]  # fmt: skip
    found = of_metric(score(told), "copies")
    assert (found.value, found.n, found.floor) == (0.5, 4, 0.5)
    assert 0 <= found.low <= found.value <= found.high <= 1
    alone = of_metric(score([each for each in told if each.kind != "training"] + of("training", "", RED)), "copies")
    assert math.isnan(alone.value)
