"""A night's evaluation on a real run folder with a tiny model: what is drawn, scored, compared and kept.

Ray's part in it is to call these functions elsewhere; tests/jobs/test_job.py has it do so.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
import pytest
import torch

import eval.judges.judge
import eval.nightly.canary
import eval.scores.score_run
from eval.judges.judge import Features, Picture
from eval.nightly.canary import canary_reading
from eval.nightly.history import History, Verdict, judge_night
from eval.scores.confusion import features_of
from eval.scores.drawn_pictures import RunModel, learned_words
from eval.scores.fragments import fragments
from eval.scores.metric_table import expected_metrics
from eval.scores.score_run import Judgement, conditions, score_part, take_in_part, unscored
from eval.scores.summary import ConceptSummary
from pipeline.settings import ModelSettings
from pipeline.store.parts import create_layout, part_path, read_layout, read_table, write_table
from pipeline.store.run_folder import RunFolder
from pipeline.store.storage import Storage
from tests.tiny_run import NAMES, OTHER, PROTOCOL, Colours, evaluate, files, learn, summary


@pytest.fixture(autouse=True)
def colours(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    for module in (eval.judges.judge, eval.scores.score_run, eval.nightly.canary):
        monkeypatch.setattr(module, "load_scorer", lambda name, device: Colours())


@pytest.fixture
def run(epsilon_model: Path, tmp_path: Path) -> RunFolder:
    folder = RunFolder(Storage(str(tmp_path / "run")))
    learn(folder, epsilon_model, dict.fromkeys(NAMES, 1))
    return folder


@pytest.fixture
def judgement(epsilon_model: Path) -> Judgement:
    return Judgement(
        PROTOCOL, "tiny", "m0", "colours", "cpu", RunModel(str(epsilon_model), "cpu", ModelSettings(), seed=0)
    )


def left(run: RunFolder, judgement: Judgement) -> list[str]:
    metrics = expected_metrics(judgement.protocol, judgement.reads_texts)
    return unscored(run, 0, read_layout(run), conditions(judgement), metrics)


def test_the_protocol_of_training_needs_no_new_pictures_and_the_same_night_twice_changes_nothing(
    run: RunFolder, judgement: Judgement
) -> None:
    assert evaluate(run, judgement) == 3
    before = files(run)
    assert not [path for path in before if path.startswith("evaluations/")]
    assert evaluate(run, judgement) == 0
    assert files(run) == before


def test_an_evaluation_that_died_before_its_tables_goes_on_from_what_it_had_scored(
    run: RunFolder, judgement: Judgement, tmp_path: Path, epsilon_model: Path
) -> None:
    """Catches an hour of scoring lost, or counted twice, because the driver was killed before the end."""
    undisturbed = RunFolder(Storage(str(tmp_path / "undisturbed")))
    learn(undisturbed, epsilon_model, dict.fromkeys(NAMES, 1))
    evaluate(undisturbed, judgement)
    parts = read_layout(run)
    score_part(run, 0, ["ant", "bee"], parts, judgement, Colours())
    for part, names in fragments(run).items():  # as the next evaluation begins
        take_in_part(run, part, names, parts)
    assert left(run, judgement) == ["cow"]
    assert evaluate(run, judgement) == 1
    assert files(run) == files(undisturbed)


def test_a_fragment_of_a_word_that_has_been_learned_anew_since_is_not_taken_in(
    run: RunFolder, judgement: Judgement, epsilon_model: Path
) -> None:
    score_part(run, 0, ["ant", "bee"], read_layout(run), judgement, Colours())
    learn(run, epsilon_model, {"ant": 2, "bee": 1, "cow": 1})
    for part, names in fragments(run).items():
        take_in_part(run, part, names, read_layout(run))
    assert unscored(
        run, 0, read_layout(run), conditions(judgement), expected_metrics(judgement.protocol, reads_texts=True)
    ) == ["ant", "cow"]


def test_a_word_that_was_learned_again_is_scored_again_and_the_others_are_not(
    run: RunFolder, judgement: Judgement, epsilon_model: Path
) -> None:
    evaluate(run, judgement)
    learn(run, epsilon_model, {"ant": 1, "bee": 2, "cow": 1})
    assert unscored(
        run, 0, read_layout(run), conditions(judgement), expected_metrics(judgement.protocol, reads_texts=True)
    ) == ["bee"]
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


@pytest.mark.parametrize(
    "tear", ["empty", "half", "without a verdict", "of another night", "a verdict of another kind"]
)
def test_a_torn_night_is_as_if_it_had_not_been_scored(
    run: RunFolder, judgement: Judgement, tear: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Catches a torn file of an earlier night that ends all nights to come."""
    evaluate(run, judgement)
    first, second = night(run, judgement, "n1"), night(run, judgement, "n2")
    folder = run.storage.folder("history")
    names = folder.names()
    data = folder.read_bytes(names[1])
    table = pa.parquet.read_table(pa.BufferReader(data))
    metadata = {"without a verdict": None, "a verdict of another kind": {b"wordmint": b'{"night": "n2"}'}}.get(tear)
    write_table(RunFolder(folder), names[1], table.replace_schema_metadata(metadata))
    if tear == "of another night":
        folder.write_bytes(names[1], folder.read_bytes(names[0]))
    elif tear in ("empty", "half"):
        folder.write_bytes(names[1], data[: len(data) // 2] if tear == "half" else b"")
    third = night(run, judgement, "n3")
    assert (second.against, third.against, third.good) == ("n1", "n1", True)
    assert f"{names[1]} is damaged" in caplog.text
    history = History(folder, conditions(judgement))
    assert history.verdicts() == [first, third]
    with pytest.raises(ValueError, match=r"the baseline 'n2' cannot be used: .* is damaged"):
        history.baseline("n4", "n2")


def many(count: int, loss: float, fingerprint: str) -> list[ConceptSummary]:
    """Words of which a fifth lost `loss` of reconstruction."""
    rng = np.random.default_rng(len(fingerprint))
    values = 0.7 + rng.normal(0, 0.01, count) - loss * (np.arange(count) % 5 == 0)
    return [
        ConceptSummary(
            f"c{position:04d}",
            fingerprint,
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
    for name, loss, fingerprint in (("n1", 0.0, "f"), ("n2", 0.02, "ff"), ("n3", 0.02, "fff"), ("n4", 0.0, "ffff")):
        concepts = many(500, loss, fingerprint)
        groups = {each.concept: str(int(each.concept[1:]) % 5) for each in concepts}
        verdict = judge_night(history, name, concepts, groups, 0.01, None)
        history.record(verdict, concepts, groups)
        verdicts.append(verdict)
    assert [each.good for each in verdicts] == [True, False, False, True]
    assert [each.against for each in verdicts] == [None, "n1", "n1", "n1"]
    assert any("reconstruction of '0' fell" in reason for reason in verdicts[1].reasons)
    assert not any("of '1' fell" in reason for reason in verdicts[1].reasons)
    assert history.verdicts() == verdicts


def hold(history: History, name: str, concepts: list[ConceptSummary], **more: object) -> Verdict:
    verdict = judge_night(history, name, concepts, {}, 0.01, None, **more)  # type: ignore[arg-type]
    history.record(verdict, concepts, {})
    return verdict


def without_scores(concepts: list[ConceptSummary], names: int) -> list[ConceptSummary]:
    return [replace(each, reconstruction=math.nan, editability=math.nan) for each in concepts[:names]] + concepts[
        names:
    ]


@pytest.mark.parametrize("groups", [{}, {"c0000": "a", "c0001": "a", "c0002": "b"}])
@pytest.mark.parametrize("drop", [None, 0.01])
def test_a_night_on_which_too_few_were_scored_is_not_good_and_says_how_many_are_missing(
    run: RunFolder, judgement: Judgement, groups: dict[str, str], drop: float | None
) -> None:
    """Catches a night that finds nothing wrong because it looked at nothing."""
    history, words = History(run.storage.folder("history"), conditions(judgement)), many(3, 0.0, "f")

    def reasons(name: str, concepts: list[ConceptSummary], said: int = 0) -> list[str]:
        verdict = judge_night(history, name, concepts, groups, drop, None, words=said)
        assert verdict.good == (not verdict.reasons)
        return list(verdict.reasons)

    assert reasons("n1", []) == ["there is no word to score"]
    assert reasons("n1", without_scores(words, 3)) == ["3 of 3 words have no score"]
    assert reasons("n1", words, said=5) == ["2 of 5 words have no score"]
    assert hold(history, "n1", words).good
    assert reasons("n2", words) == []
    nothing, fewer = reasons("n2", [])
    assert nothing == "there is no word to score"
    assert fewer.startswith("3 words fewer have a score than on n1: 0, where there were 3; ")
    assert len(reasons("n2", without_scores(words, 1))) == 2
    (fewer,) = reasons("n2", words[:2])
    assert fewer.startswith("1 words fewer have a score than on n1")


def test_a_night_without_scores_is_not_what_the_next_one_is_measured_by(run: RunFolder, judgement: Judgement) -> None:
    history = History(run.storage.folder("history"), conditions(judgement))
    nights = [hold(history, "n1", many(3, 0.0, "f")), hold(history, "n2", []), hold(history, "n3", many(3, 0.0, "fff"))]
    assert [each.good for each in nights] == [True, False, True]
    assert [each.against for each in nights] == [None, "n1", "n1"]


def test_losses_too_small_to_be_noticed_each_night_are_noticed_as_they_add_up(
    run: RunFolder, judgement: Judgement
) -> None:
    """Catches words that get worse for a month, by less each night than the gate's step."""
    history = History(run.storage.folder("history"), conditions(judgement))
    verdicts = [hold(history, f"n{night}", many(500, 0.004 * night, "f" * (night + 1))) for night in range(6)]
    bad = next(verdict for verdict in verdicts if not verdict.good)
    assert not any(each.alarm for each in bad.comparisons), "the last step alone is none"
    assert bad.baseline == "n0"
    assert [each.metric for each in bad.erosion if each.alarm] == ["reconstruction"]
    assert "learned again since n0" in bad.reasons[0]
    assert history.verdicts() == verdicts
    assert judge_night(history, "n9", many(500, 0.0, "f" * 10), {}, 0.01, None, baseline="n5").baseline == "n5"
    with pytest.raises(ValueError, match="the baseline 'n7' is no night before n9"):
        judge_night(history, "n9", [], {}, 0.01, None, baseline="n7")


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

    monkeypatch.setattr(eval.nightly.canary, "load_scorer", lambda name, device: Drifted())
    judged = canary_reading(run, judgement, "n3")
    assert judged is not None
    assert ["are judged otherwise than on n1" in reason for reason in judged.reasons()] == [True]


@pytest.mark.parametrize("what", ["torn", "other columns", "no values", "some pictures", "other pictures"])
def test_scores_of_a_canary_that_are_not_of_its_pictures_count_as_none(
    what: str, run: RunFolder, judgement: Judgement
) -> None:
    """Catches a table in canary/ that ends every evaluation to come, and a judge compared over other pictures."""
    canary_reading(run, judgement, "n1")
    path = f"canary/{judgement.protocol.label}/scores.parquet"
    rows = read_table(run, path)
    assert rows is not None
    if what == "torn":
        run.storage.write_bytes(path, run.storage.read_bytes(path)[:-9])
    else:
        changed = {
            "other columns": rows.select(["concept", "night"]),
            "no values": rows.set_column(
                rows.schema.get_field_index("value"), "value", pa.nulls(len(rows), pa.float64())
            ),
            "some pictures": rows.slice(1),
            "other pictures": rows.set_column(0, "concept", pa.array(["x"] * len(rows))),
        }[what]
        write_table(run, path, changed)
    again = canary_reading(run, judgement, "n2")
    assert again is not None
    assert (again.since, again.judged) == ("n2", 0)
    third = canary_reading(run, judgement, "n3")
    assert third is not None
    assert third.since == "n2"


def test_pictures_of_a_canary_that_are_pinned_anew_leave_no_scores_of_the_others(
    run: RunFolder, judgement: Judgement, epsilon_model: Path
) -> None:
    canary_reading(run, judgement, "n1")
    folder = f"canary/{judgement.protocol.label}"
    run.storage.write_bytes(f"{folder}/samples.parquet", b"torn")
    learn(run, epsilon_model, dict.fromkeys(NAMES, 2))
    evaluate(run, judgement)
    again = canary_reading(run, judgement, "n2")
    assert again is not None
    assert (again.since, again.judged) == ("n2", 0)


def test_a_run_without_words_has_no_canary(tmp_path: Path, judgement: Judgement) -> None:
    empty = RunFolder(Storage(str(tmp_path / "empty")))
    create_layout(empty, 0)
    assert canary_reading(empty, judgement, "n1") is None
    assert learned_words(empty, 0, read_layout(empty)) == {}
