"""A night's evaluation on a real run folder with a tiny model: what is drawn, scored, compared and kept.

Ray's part in it is to call these functions elsewhere; tests/test_job.py has it do so.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from PIL import Image

import eval.canary
import eval.evaluate
from eval.canary import canary_reading
from eval.clip import Features, Picture
from eval.confusion import features_of
from eval.evaluate import Judgement, conditions, score_part, take_in_part, unscored
from eval.fragments import fragments
from eval.history import History, Verdict, judge_night
from eval.pictures import RunModel, draw_part, learned_words
from eval.summary import ConceptSummary, Summary
from jobs.report_run import summarise_run
from pipeline.backbones import load_backbone
from pipeline.drawing import Wanted, draw_concept, draw_pictures
from pipeline.grid import encode_png
from pipeline.prompting import requests_for
from pipeline.protocols import Protocol
from pipeline.publish import part_path, plan_parts, read_table, write_table
from pipeline.records import Concept, ImageSet, Sample, Word
from pipeline.run_folder import RunFolder
from pipeline.storage import Storage
from pipeline.tables import embedding_rows, sample_rows
from tests.test_scoring import ColourClip
from tests.tiny_model import WIDTH

PROTOCOL = Protocol(
    "tiny", 1, {"object": "a photo of {}"}, {"object": ("{} at night",)}, 2, 2, 1, "ddim", 2, 3.0, digest="d" * 64
)
OTHER = replace(PROTOCOL, name="other", edits={"object": ("{} at night", "a dark {}")})
NAMES = ("ant", "bee", "cow")


class Colours(ColourClip):
    """A picture's feature is its colours, coarsely and how they differ from grey; a text's says nothing."""

    name = "colours"

    def encode_images(self, pictures: Sequence[Picture]) -> Features:
        small = [
            np.asarray(Image.fromarray(np.asarray(each)).convert("RGB").resize((4, 4)), float) for each in pictures
        ]
        rows = np.stack(small).reshape(len(small), -1) - 127.5
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)

    def encode_texts(self, texts: Sequence[str]) -> Features:
        return np.full((len(texts), 48), 48**-0.5, np.float32)


@pytest.fixture(autouse=True)
def colours(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    for module in (eval.evaluate, eval.canary):
        monkeypatch.setattr(module, "load_scorer", lambda name, device: Colours())


def vectors(seed: int) -> dict[str, np.ndarray]:
    return {"text_encoder": np.random.default_rng(seed).normal(scale=0.03, size=(1, WIDTH)).astype(np.float32)}


def concept(name: str) -> Concept:
    return Concept(name, (), f"<{name}>", noun="cat", carried={"shop": "north" if name < "c" else "south"})


def learn(run: RunFolder, model: Path, words: Mapping[str, int], protocol: Protocol = PROTOCOL) -> None:
    """Writes what the job leaves of these words: concept -> the seed of its vectors, which also is its fingerprint."""
    backbone = load_backbone(str(model))
    rng = np.random.default_rng(0)
    embeddings, samples = [], []
    for name, seed in sorted(words.items()):
        pixels = rng.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
        word = Word(name, f"<{name}>", vectors(seed), vectors(seed), "cat", 9, "steps", 1e-3, 0.1, 1.0)
        embeddings.append(embedding_rows(concept(name), f"f{seed}", word, ImageSet(pixels, ("a", "b"), ("x", "y"))))
        drawn = draw_concept(backbone, concept(name), word.vectors, protocol, seed=0)
        training = [Sample(name, "training", "", "", index, 0, encode_png(each)) for index, each in enumerate(pixels)]
        samples.append(sample_rows(f"f{seed}", [*training, *drawn]))
    plan_parts(run, len(words))
    write_table(run, part_path("embeddings", 0, 1), pa.concat_tables(embeddings))
    write_table(run, part_path("samples", 0, 1), pa.concat_tables(samples))


@pytest.fixture
def run(epsilon_model: Path, tmp_path: Path) -> RunFolder:
    folder = RunFolder(Storage(str(tmp_path / "run")))
    learn(folder, epsilon_model, dict.fromkeys(NAMES, 1))
    return folder


@pytest.fixture
def judgement(epsilon_model: Path) -> Judgement:
    return Judgement(PROTOCOL, "tiny", "m0", "colours", "cpu", RunModel(str(epsilon_model), "cpu", "float32", seed=0))


def evaluate(run: RunFolder, judgement: Judgement) -> int:
    """What score_run does, in this process; returns how many were scored."""
    parts, under = plan_parts(run, 0), conditions(judgement)
    todo = unscored(run, 0, parts, under)
    assert judgement.drawing is not None
    failures = draw_part(run, 0, todo, parts, judgement.protocol, judgement.drawing, Colours) if todo else []
    fresh, failed = score_part(run, 0, todo, parts, judgement, Colours()) if todo else (0, [])
    for part, names in fragments(run).items():
        take_in_part(run, part, names, parts)
    assert not failures + failed
    return fresh


def summary(run: RunFolder, judgement: Judgement) -> Summary:
    return summarise_run(run, conditions(judgement))


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as picture:
        return np.asarray(picture).astype(int)


def rows_of(run: RunFolder, path: str) -> list[dict[str, Any]]:
    table = read_table(run, path)
    assert table is not None
    return list(table.to_pylist())


def files(run: RunFolder) -> dict[str, bytes]:
    return {path: run.storage.read_bytes(path) for path in run.storage.find()}


def test_the_protocol_of_training_needs_no_new_pictures_and_the_same_night_twice_changes_nothing(
    run: RunFolder, judgement: Judgement
) -> None:
    assert evaluate(run, judgement) == 3
    before = files(run)
    assert not [path for path in before if path.startswith("evaluations/")]
    assert evaluate(run, judgement) == 0
    assert files(run) == before


def test_a_protocol_that_was_not_drawn_in_training_is_drawn_from_the_words(
    run: RunFolder, judgement: Judgement, epsilon_model: Path
) -> None:
    """Catches pictures of the training's protocol scored under another's name."""
    evaluate(run, judgement)
    other = replace(judgement, protocol=OTHER)
    assert evaluate(run, other) == 3
    (part,) = [path for path in files(run) if path.startswith(f"evaluations/{OTHER.label}/samples/")]
    drawn = read_table(run, part)
    assert drawn is not None
    bee = drawn.filter(pc.equal(drawn["concept"], "bee"))
    assert sorted(bee["kind"].to_pylist()) == [
        *["edit"] * 4, "noun", *["reconstruction"] * 2, *["untrained"] * 3, "wordless"
    ]  # fmt: skip
    again = draw_concept(load_backbone(str(epsilon_model)), concept("bee"), vectors(1), OTHER, seed=0)
    pictures = {(each.kind, each.prompt, each.index): each.png for each in again}
    for row in bee.filter(pc.is_in(bee["kind"], pa.array(["edit", "reconstruction", "noun", "wordless"]))).to_pylist():
        # Beside other words' pictures: the same up to the order of a sum.
        alone = pixels(pictures[row["kind"], row["prompt"], row["index"]])
        assert np.abs(pixels(row["image"]["bytes"]) - alone).max() <= 1
    assert evaluate(run, judgement) == 0
    assert summary(run, judgement).reconstruction != summary(run, other).reconstruction


def test_an_evaluation_that_broke_off_between_two_writes_draws_the_rest(
    run: RunFolder, judgement: Judgement, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches pictures that are drawn again, or left out, after a machine was taken away."""
    other, parts = replace(judgement, protocol=OTHER), plan_parts(run, 0)
    drawn: list[tuple[str, str, str, int]] = []

    def draw(backbone: object, wanted: Sequence[Wanted], *rest: object) -> list[Sample]:
        if len(drawn) == 10:
            raise KeyboardInterrupt
        drawn.extend((each.concept.name, each.request.kind, each.request.prompt, each.request.index) for each in wanted)
        return draw_pictures(backbone, wanted, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("eval.pictures.draw_pictures", draw)
    monkeypatch.setattr("eval.pictures.PICTURES_A_WRITE", 5)
    assert other.drawing is not None
    with pytest.raises(KeyboardInterrupt):
        draw_part(run, 0, NAMES, parts, OTHER, other.drawing)
    drawn.append(("", "", "", 0))
    assert draw_part(run, 0, NAMES, parts, OTHER, other.drawing) == []
    assert len(drawn) - 1 == len(set(drawn)) - 1 == 3 * len(requests_for(concept("ant"), OTHER, 0))
    assert evaluate(run, other) == 3


def test_a_protocol_that_asks_for_more_has_only_that_drawn(run: RunFolder, judgement: Judgement) -> None:
    """Catches a change of code that has a whole run's pictures drawn again where one more would do."""
    parts = plan_parts(run, 0)
    samples = read_table(run, part_path("samples", 0, 1))
    assert samples is not None
    write_table(run, part_path("samples", 0, 1), samples.filter(pc.not_equal(samples["kind"], "wordless")))
    assert evaluate(run, judgement) == 3
    path = next(path for path in files(run) if path.startswith("evaluations/"))
    drawn = read_table(run, path)
    assert drawn is not None
    assert drawn["kind"].to_pylist() == ["wordless"] * 3
    scores = read_table(run, part_path("scores", 0, 1))
    assert scores is not None
    with_floor = scores.filter(pc.is_valid(scores["floor_wordless"]))
    assert set(with_floor["metric"].to_pylist()) == {"image_similarity", "text_similarity", "subject_fidelity"}
    assert unscored(run, 0, parts, conditions(judgement)) == []


def test_an_evaluation_that_died_before_its_tables_goes_on_from_what_it_had_scored(
    run: RunFolder, judgement: Judgement, tmp_path: Path, epsilon_model: Path
) -> None:
    """Catches an hour of scoring lost, or counted twice, because the driver was killed before the end."""
    undisturbed = RunFolder(Storage(str(tmp_path / "undisturbed")))
    learn(undisturbed, epsilon_model, dict.fromkeys(NAMES, 1))
    evaluate(undisturbed, judgement)
    parts = plan_parts(run, 0)
    score_part(run, 0, ["ant", "bee"], parts, judgement, Colours())
    for part, names in fragments(run).items():  # as the next evaluation begins
        take_in_part(run, part, names, parts)
    assert unscored(run, 0, parts, conditions(judgement)) == ["cow"]
    assert evaluate(run, judgement) == 1
    assert files(run) == files(undisturbed)


def test_a_fragment_of_a_word_that_has_been_learned_anew_since_is_not_taken_in(
    run: RunFolder, judgement: Judgement, epsilon_model: Path
) -> None:
    score_part(run, 0, ["ant", "bee"], plan_parts(run, 0), judgement, Colours())
    learn(run, epsilon_model, {"ant": 2, "bee": 1, "cow": 1})
    for part, names in fragments(run).items():
        take_in_part(run, part, names, plan_parts(run, 0))
    assert unscored(run, 0, plan_parts(run, 0), conditions(judgement)) == ["ant", "cow"]


def test_with_a_bound_the_first_pictures_of_the_full_sample_are_drawn_and_no_more_than_it_takes(
    run: RunFolder, judgement: Judgement, tmp_path: Path, epsilon_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a sample that depends on when it stopped, and scores of prefixes that were not the rule's."""
    monkeypatch.setattr("eval.pictures.PICTURES_A_PART", 2_000)  # one part, as `evaluate` draws no other
    full = replace(OTHER, name="full", plain_images=20, edit_images=12)
    complete = RunFolder(Storage(str(tmp_path / "complete")))
    learn(complete, epsilon_model, dict.fromkeys(NAMES, 1))
    evaluate(complete, replace(judgement, protocol=full))

    def drawn(folder: RunFolder) -> dict[tuple[str, ...], np.ndarray]:
        rows = [row for path in files(folder) if path.startswith("evaluations/") for row in rows_of(folder, path)]
        return {tuple(str(row[key]) for key in ("concept", "kind", "prompt", "index", "seed")): pixels(row["image"]["bytes"])
                for row in rows}  # fmt: skip

    everything = drawn(complete)
    bounded = replace(judgement, protocol=replace(full, until_ci=0.08))
    assert evaluate(run, bounded) == 3
    some = drawn(run)
    assert some.keys() < everything.keys()
    assert all(np.abs(picture - everything[key]).max() <= 1 for key, picture in some.items())
    scores = rows_of(run, part_path("scores", 0, 1))
    assert {row["protocol"] for row in scores} == {f"{full.base_label}-until-0.08"}
    counts = {row["n"] for row in scores if row["metric"] == "image_similarity"}
    assert counts <= {8, 16, 20}
    assert min(counts) < 20
    # With all pictures at hand the same ones are scored.
    before = {row["concept"]: row["n"] for row in scores if row["metric"] == "image_similarity"}
    assert evaluate(complete, bounded) == 3
    after = [row for row in rows_of(complete, part_path("scores", 0, 1)) if row["protocol"] == scores[0]["protocol"]]
    assert {row["concept"]: row["n"] for row in after if row["metric"] == "image_similarity"} == before


def test_a_word_that_was_learned_again_is_scored_again_and_the_others_are_not(
    run: RunFolder, judgement: Judgement, epsilon_model: Path
) -> None:
    evaluate(run, judgement)
    learn(run, epsilon_model, {"ant": 1, "bee": 2, "cow": 1})
    assert unscored(run, 0, plan_parts(run, 0), conditions(judgement)) == ["bee"]
    evaluate(run, judgement)
    scores = read_table(run, part_path("scores", 0, 1))
    features = read_table(run, part_path("features", 0, 1))
    assert scores is not None
    assert features is not None
    assert set(zip(scores["concept"].to_pylist(), scores["fingerprint"].to_pylist(), strict=True)) == {
        ("ant", "f1"), ("bee", "f2"), ("cow", "f1")
    }  # fmt: skip
    assert sorted(features_of(features)) == sorted(features["concept"].to_pylist()) == list(NAMES)


def test_scores_that_an_older_version_left_without_diversity_are_made_again_once(
    run: RunFolder, judgement: Judgement
) -> None:
    evaluate(run, judgement)
    path = part_path("scores", 0, 1)
    scores = read_table(run, path)
    assert scores is not None
    old = scores.filter(pc.is_in(scores["metric"], pa.array(["image_similarity", "text_similarity"])))
    write_table(run, path, old.drop_columns(["difficulty"]))
    assert summary(run, judgement).reconstruction.n == 3
    assert evaluate(run, judgement) == 3
    assert read_table(run, path) == scores


def test_a_concept_that_cannot_be_drawn_is_a_failure_and_costs_the_others_nothing(
    run: RunFolder, judgement: Judgement
) -> None:
    long = replace(OTHER, edits={"object": ("a photo of a cat " * 20 + "{}",)})
    assert judgement.drawing is not None
    failures = draw_part(run, 0, NAMES, plan_parts(run, 0), long, judgement.drawing)
    assert [(each.concept, each.stage) for each in failures] == [(name, "sampling") for name in NAMES]
    assert "shorten it" in failures[0].reason


def night(run: RunFolder, judgement: Judgement, name: str, drop: float | None = 0.01) -> Verdict:
    """What jobs/evaluate.py does with what was scored."""
    concepts, folder = summary(run, judgement).concepts, run.storage.folder("history")
    history = History(folder, conditions(judgement))
    verdict = judge_night(history, name, concepts, {}, drop, None)
    history.record(verdict, concepts, {})
    return verdict


def test_nights_are_kept_compared_with_the_last_good_one_and_read_back_as_they_were(
    run: RunFolder, judgement: Judgement
) -> None:
    evaluate(run, judgement)
    first, second = night(run, judgement, "n1"), night(run, judgement, "n2")
    assert (first.against, second.against, second.good) == (None, "n1", True)
    history = History(run.storage.folder("history"), conditions(judgement))
    assert history.nights() == ["n1", "n2"]
    assert [each.night for each in history.verdicts()] == ["n1", "n2"]
    assert history.verdicts()[0] == first
    before = files(run)
    assert night(run, judgement, "n2") == second
    assert files(run) == before
    assert History(run.storage.folder("history"), conditions(replace(judgement, protocol=OTHER))).nights() == []


def many(count: int, loss: float, print_: str) -> list[ConceptSummary]:
    """Words of which a fifth lost `loss` of reconstruction."""
    rng = np.random.default_rng(len(print_))
    values = 0.7 + rng.normal(0, 0.01, count) - loss * (np.arange(count) % 5 == 0)
    return [
        ConceptSummary(
            f"c{position:04d}",
            print_,
            "<x>",
            "cat",
            "object",
            value,
            value,
            value,
            0.2,
            0.9,
            0.7,
            0.3,
            0.1,
            0.4,
            0.6,
            9,
            1,
            "steps",
        )
        for position, value in enumerate(values.tolist())
    ]


def test_a_bad_night_is_not_what_the_next_one_is_measured_by(run: RunFolder, judgement: Judgement) -> None:
    """Catches a regression that is an alarm for one night and the new normal from then on."""
    history = History(run.storage.folder("history"), conditions(judgement))
    verdicts = []
    for name, loss, print_ in (("n1", 0.0, "f"), ("n2", 0.02, "ff"), ("n3", 0.02, "fff"), ("n4", 0.0, "ffff")):
        concepts = many(500, loss, print_)
        groups = {each.concept: str(int(each.concept[1:]) % 5) for each in concepts}
        verdict = judge_night(history, name, concepts, groups, 0.01, None)
        history.record(verdict, concepts, groups)
        verdicts.append(verdict)
    assert [each.good for each in verdicts] == [True, False, False, True]
    assert [each.against for each in verdicts] == [None, "n1", "n1", "n1"]
    assert any("reconstruction of '0' fell" in reason for reason in verdicts[1].reasons)
    assert not any("of '1' fell" in reason for reason in verdicts[1].reasons)
    assert history.verdicts() == verdicts


def test_without_a_drop_to_fail_on_a_loss_is_told_and_fails_nothing(run: RunFolder, judgement: Judgement) -> None:
    history = History(run.storage.folder("history"), conditions(judgement))
    history.record(judge_night(history, "n1", many(500, 0.0, "f"), {}, None, None), many(500, 0.0, "f"), {})
    second = judge_night(history, "n2", many(500, 0.05, "ff"), {}, None, None)
    assert second.good
    assert second.comparisons[0].p < 0.01


def test_the_canary_is_quiet_when_nothing_changed_and_keeps_its_pictures_when_words_do(
    run: RunFolder, judgement: Judgement, epsilon_model: Path
) -> None:
    first = canary_reading(run, judgement, "n1")
    pinned = {path: data for path, data in files(run).items() if path.startswith("canary/")}
    learn(run, epsilon_model, dict.fromkeys(NAMES, 2))
    second = canary_reading(run, judgement, "n2")
    assert first is not None
    assert second is not None
    assert (second.since, second.pictures) == ("n1", 6)
    assert second.judged == 0
    assert second.drawn == pytest.approx(0, abs=1e-6)
    assert second.reasons() == []
    assert {path: data for path, data in files(run).items() if path.startswith("canary/")} == pinned


def test_the_canary_tells_a_judge_that_drifted_from_a_model_that_did(
    run: RunFolder, judgement: Judgement, velocity_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a library or weights that change under the same name while no word does."""
    canary_reading(run, judgement, "n1")
    assert judgement.drawing is not None
    other_weights = replace(judgement, drawing=replace(judgement.drawing, model=str(velocity_model)))
    drawn = canary_reading(run, other_weights, "n2")
    assert drawn is not None
    assert drawn.judged == 0
    assert ["draw other pictures" in reason for reason in drawn.reasons()] == [True]

    class Drifted(Colours):
        def encode_images(self, pictures: Sequence[Picture]) -> Features:
            features = super().encode_images(pictures) * np.linspace(0.5, 1.5, 48)
            return np.asarray(features / np.linalg.norm(features, axis=1, keepdims=True), np.float32)

    monkeypatch.setattr(eval.canary, "load_scorer", lambda name, device: Drifted())
    judged = canary_reading(run, judgement, "n3")
    assert judged is not None
    assert ["are judged otherwise than on n1" in reason for reason in judged.reasons()] == [True]


def test_a_run_without_words_has_no_canary(tmp_path: Path, judgement: Judgement) -> None:
    empty = RunFolder(Storage(str(tmp_path / "empty")))
    plan_parts(empty, 0)
    assert canary_reading(empty, judgement, "n1") is None
    assert learned_words(empty, 0, plan_parts(empty, 0)) == {}
