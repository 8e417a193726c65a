"""Which pictures an evaluation draws: those that are missing, once, and with a bound no more than it takes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

import eval.judges.judge
import eval.nightly.canary
import eval.scores.score_run
from eval.scores.drawn_pictures import RunModel, draw_part
from eval.scores.metric_table import expected_metrics
from eval.scores.score_run import Judgement, conditions, unscored
from pipeline.models.load import load_backbone
from pipeline.records import Sample
from pipeline.sampling.picture_pool import Wanted
from pipeline.sampling.pictures_of_a_word import draw_concept, draw_pictures
from pipeline.sampling.prompting import requests_for
from pipeline.settings import ModelSettings
from pipeline.store.parts import part_path, read_layout, read_table, write_table
from pipeline.store.run_folder import RunFolder
from pipeline.store.storage import Storage
from tests.tiny_run import (
    NAMES,
    OTHER,
    PROTOCOL,
    Colours,
    concept,
    evaluate,
    files,
    learn,
    pixels,
    rows_of,
    summary,
    vectors,
)


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
    other, parts = replace(judgement, protocol=OTHER), read_layout(run)
    drawn: list[tuple[str, str, str, int]] = []

    def draw(backbone: object, wanted: Sequence[Wanted], *rest: object) -> list[Sample]:
        if len(drawn) == 10:
            raise KeyboardInterrupt
        drawn.extend((each.concept.name, each.request.kind, each.request.prompt, each.request.index) for each in wanted)
        return draw_pictures(backbone, wanted, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("eval.scores.drawn_pictures.draw_pictures", draw)
    monkeypatch.setattr("eval.scores.drawn_pictures.PICTURES_A_WRITE", 5)
    assert other.drawing is not None
    with pytest.raises(KeyboardInterrupt):
        draw_part(run, 0, NAMES, parts, OTHER, other.drawing)
    drawn.append(("", "", "", 0))
    assert draw_part(run, 0, NAMES, parts, OTHER, other.drawing) == []
    assert len(drawn) - 1 == len(set(drawn)) - 1 == 3 * len(requests_for(concept("ant"), OTHER, 0))
    assert evaluate(run, other) == 3


def test_a_protocol_that_asks_for_more_has_only_that_drawn(run: RunFolder, judgement: Judgement) -> None:
    """Catches a change of code that has a whole run's pictures drawn again where one more would do."""
    parts = read_layout(run)
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
    assert unscored(run, 0, parts, conditions(judgement), expected_metrics(judgement.protocol, reads_texts=True)) == []


def test_with_a_bound_the_first_pictures_of_the_full_sample_are_drawn_and_no_more_than_it_takes(
    run: RunFolder, judgement: Judgement, tmp_path: Path, epsilon_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a sample that depends on when it stopped, and scores of prefixes that were not the rule's."""
    monkeypatch.setattr("eval.scores.drawn_pictures.PICTURES_A_PART", 2_000)  # one part, as `evaluate` draws no other
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


def test_a_concept_that_cannot_be_drawn_is_a_failure_and_costs_the_others_nothing(
    run: RunFolder, judgement: Judgement
) -> None:
    long = replace(OTHER, edits={"object": ("a photo of a cat " * 20 + "{}",)})
    assert judgement.drawing is not None
    failures = draw_part(run, 0, NAMES, read_layout(run), long, judgement.drawing)
    assert [(each.concept, each.stage) for each in failures] == [(name, "sampling") for name in NAMES]
    assert "shorten it" in failures[0].reason
