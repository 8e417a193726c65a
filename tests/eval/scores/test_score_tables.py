"""Scores to rows and back, and what a run of them amounts to."""

import json
import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from eval.judges.judge import Features
from eval.report.summary_files import CONCEPTS, concept_rows, summary_json
from eval.scores.confusion import Features as KeptFeatures
from eval.scores.confusion import confusion_over
from eval.scores.score_tables import SCORES, ScoredUnder, score_rows, scores_of
from eval.scores.summary import Summary, summarise
from pipeline.protocols import PROTOCOLS, QUICK
from pipeline.records import Concept, Failure, ImageSet, Score, Word
from pipeline.store.parts import conformed
from pipeline.store.run_tables import EMBEDDINGS, embedding_rows

UNDER = ScoredUnder("quick-v1", "mini", "m0", "mini", "c0", "dpm++", 20, 5.0)


def embedding(
    name: str, fingerprint: str = "f0", encoders: tuple[str, ...] = ("text_encoder",), **carried: str
) -> pa.Table:
    vectors = {encoder: np.ones((1, 4), np.float32) for encoder in encoders}
    return embedding_rows(
        Concept(name, (), f"<{name}>", noun="cat", carried=carried), fingerprint,
        Word(name, f"<{name}>", vectors, vectors, "cat", 120, "dvar", 5e-3, 0.1, 9.5),
        ImageSet(np.zeros((1, 8, 8, 3), np.uint8), ("a.png",), ("d",)),
    )  # fmt: skip


def scored(name: str, value: float = 0.5, floor: float = 0.2, ceiling: float = 0.6) -> list[Score]:
    share = (value - floor) / (ceiling - floor)
    plain = Score(name, "a photo of <x>", "image_similarity", value, 8, value - 0.1, value + 0.1, floor, ceiling, share)
    return [
        plain,
        Score(name, "<x> at night", "text_similarity", 0.3, 4, 0.2, 0.4, 0.1, 0.35, 0.8),
        Score(name, "<x> at sea", "text_similarity", 0.2, 4, 0.1, 0.3, 0.0, 0.25, 0.8),
    ]


def summary_of(*names: str, scores: pa.Table, failures: tuple[Failure, ...] = ()) -> Summary:
    words = pa.concat_tables([EMBEDDINGS.empty_table(), *(embedding(name) for name in names)])
    return summarise(scores, words, failures, np.random.default_rng(0))


def rows(*concepts: list[Score], fingerprint: str = "f0", under: ScoredUnder = UNDER) -> pa.Table:
    return pa.concat_tables([SCORES.empty_table(), *(score_rows(fingerprint, each, under) for each in concepts)])


def test_scores_survive_the_way_to_a_table_and_back() -> None:
    table = score_rows("f0", scored("cat"), UNDER)
    assert table.schema == SCORES
    assert scores_of(table) == scored("cat")
    assert set(table["model_digest"].to_pylist()) == {"m0"}


def test_what_is_undefined_is_null_in_the_table_and_nan_in_the_record() -> None:
    table = score_rows("f0", [replace(scored("cat")[0], ceiling=math.nan, covered=math.nan)], UNDER)
    assert table["ceiling"].null_count == table["covered"].null_count == 1
    assert math.isnan(scores_of(table)[0].covered)


def test_the_conditions_come_from_the_protocol_and_the_clip() -> None:
    class Clip:
        name, fingerprint = "some", "c1"

        def encode_images(self, pictures: object) -> Features:
            pytest.fail("the conditions need no features")

        encode_texts = encode_images

    assert ScoredUnder.of(QUICK, "mini", "m0", Clip()) == ScoredUnder(
        "quick-v1", "mini", "m0", "some", "c1", "dpm++", 20, 5.0
    )


def test_a_run_amounts_to_medians_of_shares_and_means_of_scores() -> None:
    summary = summary_of("a", "b", "c", scores=rows(scored("a", 0.3), scored("b", 0.5), scored("c", 0.6)))
    assert (summary.done, summary.failed, summary.unscored) == (3, 0, 0)
    assert summary.covered.value == pytest.approx(0.75)
    assert summary.reconstruction.value == pytest.approx(1.4 / 3)
    half = 4.303 * np.std([0.3, 0.5, 0.6], ddof=1) / 3**0.5  # Student's, of three values
    assert summary.reconstruction.low < summary.reconstruction.value < summary.reconstruction.high
    assert summary.reconstruction.high - summary.reconstruction.low == pytest.approx(2 * half, rel=0.15)
    assert summary.editability.value == pytest.approx(0.25)
    assert (summary.editability_floor, summary.editability_ceiling) == pytest.approx((0.05, 0.3))
    assert summary.editability_covered.value == pytest.approx(0.8)
    assert summary.scored_under == UNDER
    assert [concept.concept for concept in summary.concepts] == ["a", "b", "c"]


def test_a_row_per_text_encoder_is_still_one_concept_with_its_carried_columns() -> None:
    words = embedding("cat", encoders=("text_encoder", "text_encoder_2"), owner="Ann")
    summary = summarise(rows(scored("cat")), words, (), np.random.default_rng(0))
    (concept,) = summary.concepts
    assert (concept.noun, concept.kind, concept.steps, concept.stopped_by) == ("cat", "object", 120, "dvar")
    assert concept.carried == {"owner": "Ann"}
    assert math.isnan(summary.reconstruction.low)  # one concept has no spread


def test_scores_of_a_word_that_was_learned_again_since_do_not_count() -> None:
    summary = summary_of("a", "b", scores=pa.concat_tables([rows(scored("a"), fingerprint="old"), rows(scored("b"))]))
    assert (summary.done, summary.unscored) == (2, 1)
    assert math.isnan(summary.concepts[0].reconstruction)
    assert summary.reconstruction.n == 1


def test_failed_concepts_are_counted_once_and_are_not_done() -> None:
    failures = (Failure("b", "sampling", "no"), Failure("z", "images", "none"), Failure("z", "images", "none", 2))
    summary = summary_of("a", "b", scores=rows(scored("a")), failures=failures)
    assert (summary.done, summary.failed, summary.unscored) == (1, 2, 0)


def test_scores_made_differently_are_not_mixed_unless_one_kind_is_chosen() -> None:
    other = replace(UNDER, clip="big", clip_digest="c9")
    both = pa.concat_tables([rows(scored("a")), rows(scored("a", 0.9, ceiling=1), under=other)])
    with pytest.raises(ValueError, match="differ in clip, clip_digest"):
        summary_of("a", scores=both)
    chosen = summarise(both, embedding("a"), (), np.random.default_rng(0), under=other)
    assert chosen.reconstruction.value == pytest.approx(0.9)
    assert chosen.scored_under == other


def test_a_score_that_is_there_twice_and_a_concept_with_two_words_are_refused() -> None:
    with pytest.raises(ValueError, match="a has two scores of image_similarity"):
        summary_of("a", scores=rows(scored("a"), scored("a")))
    two = pa.concat_tables([embedding("a"), embedding("a", "f1")])
    with pytest.raises(ValueError, match="a has two words, f0 and f1"):
        summarise(rows(), two, (), np.random.default_rng(0))


def test_a_run_without_a_single_word_has_a_summary_too() -> None:
    summary = summary_of(scores=rows(), failures=(Failure("a", "images", "none"),))
    assert (summary.done, summary.failed) == (0, 1)
    assert summary.scored_under is None
    assert concept_rows(summary).num_rows == 0
    assert json.loads(json.dumps(summary_json(summary), allow_nan=False))["covered"]["value"] is None


def test_concepts_and_summary_can_be_written_where_figures_are_missing() -> None:
    one_image = replace(scored("a")[0], ceiling=math.nan, covered=math.nan)
    summary = summary_of("a", "b", scores=rows([one_image]))
    table = concept_rows(summary)
    assert table.schema == CONCEPTS
    assert table["covered"].to_pylist() == [None, None]
    assert table["class"].to_pylist() == ["cat", "cat"]
    written = json.loads(json.dumps(summary_json(summary), allow_nan=False))
    assert written["reconstruction"] == {"value": 0.5, "low": None, "high": None, "n": 1}
    assert written["scored_under"]["protocol"] == "quick-v1"
    assert "concepts" not in written


def test_diversity_fidelity_and_confusion_are_a_concepts_too() -> None:
    more = [
        *scored("a"),
        Score("a", "a photo of <x>", "diversity", 0.1, 8, 0.05, 0.2, 0, 0.3, 1 / 3),
        Score("a", "", "subject_fidelity", 0.4, 16, 0.3, 0.5, 0.2, 0.6, 0.5),
    ]
    confusion = confusion_over({
        "a": KeptFeatures(np.array([1.0, 0]), np.array([[1.0, 0], [0, 1.0]])),
        "b": KeptFeatures(np.array([0, 1.0]), np.array([[0, 1.0]])),
    })  # fmt: skip
    words = pa.concat_tables([embedding("a"), embedding("b")])
    summary = summarise(rows(more, scored("b")), words, (), np.random.default_rng(0), confusion=confusion)
    assert (summary.concepts[0].diversity, summary.concepts[0].subject_fidelity) == (0.1, 0.4)
    assert summary.concepts[0].editability == pytest.approx(0.25)  # which fidelity must not enter
    assert math.isnan(summary.concepts[1].diversity)
    assert (summary.diversity.value, summary.diversity.n) == (0.1, 1)
    assert concept_rows(summary)["nearest_own"].to_pylist() == [0.5, 1]
    written = json.loads(json.dumps(summary_json(summary), allow_nan=False))
    assert written["confusion"]["nearest_own"] == 0.75
    assert written["confusion"]["mistaken"] == [{"concept": "a", "taken_for": "b", "share": 0.5}]
    assert "by_concept" not in written["confusion"]


def test_what_is_drawn_without_the_word_is_a_mean_over_the_concepts_that_have_it() -> None:
    """Catches a page that tells the floors of one metric, or of one kind, as those of the other."""
    plain, *edits = scored("a")
    with_floors = [replace(plain, floor_noun=0.4, floor_wordless=0.1)]
    with_floors += [replace(each, floor_noun=noun) for each, noun in zip(edits, (0.3, 0.1), strict=True)]
    summary = summary_of("a", "b", scores=rows(with_floors, scored("b")))
    assert (summary.reconstruction_floor_noun, summary.reconstruction_floor_wordless) == pytest.approx((0.4, 0.1))
    assert summary.editability_floor_noun == pytest.approx(0.2)
    assert math.isnan(summary.editability_floor_wordless)
    assert summary_json(summary)["editability_floor_wordless"] is None
    assert concept_rows(summary)["reconstruction_floor_noun"].to_pylist() == pytest.approx([0.4, None])


def test_prompts_of_a_protocol_that_tells_difficulties_apart_are_summarised_by_them() -> None:
    made = [
        Score("a", prompt, "text_similarity", value, 4, 0.1, 0.4, 0.1, 0.4, 0.5)
        for prompt, value in (("a photo of <a> on the moon", 0.3), ("an oil painting of <a>", 0.2), ("<a>", 0.9))
    ]
    table = score_rows("f0", made, UNDER, PROTOCOLS["paper"])
    assert table["difficulty"].to_pylist() == ["background", "style", None]
    found = summarise(table, embedding("a"), (), np.random.default_rng(0)).difficulties
    assert {name: estimate.value for name, estimate in found.items()} == {"background": 0.3, "style": 0.2}


def test_scores_that_an_older_version_wrote_still_read() -> None:
    old = rows(scored("a")).drop_columns(["difficulty"])
    assert conformed(old, SCORES).schema == SCORES
    assert scores_of(conformed(old, SCORES)) == scored("a")


@pytest.mark.parametrize(("effect", "idle"), [(0.0, True), (0.009, True), (0.2, False), (None, False)])
def test_a_word_that_draws_what_its_initializer_draws_is_told(effect: float | None, idle: bool) -> None:
    """Catches a night of words that never left where they began, and a flag on words of which nothing was measured."""
    made = [Score("a", "p", "image_similarity", 0.8, 8, 0.7, 0.9, 0.4, 0.9, 0.8)]
    if effect is not None:
        made.append(Score("a", "p", "effect", effect, 4, effect, effect, 0.0, 0.5, 2 * effect))
    summary = summary_of("a", scores=rows(made))
    assert summary.concepts[0].no_effect is idle
    assert concept_rows(summary)["no_effect"].to_pylist() == [idle]
    assert summary_json(summary)["no_effect"] == int(idle)
