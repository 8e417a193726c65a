"""VQAScore in a run: a vision-language model scores the pictures that are there, beside the CLIP's scores."""

from pathlib import Path

import pytest
import torch

from eval.judges.judge import load_judge
from eval.report.report_page import Judge
from eval.scores.encoded import without_features
from eval.scores.score_run import Judgement
from pipeline.records import AGAINST, Concept, Sample, SampleKind
from pipeline.sampling.grid import encode_png
from pipeline.store.run_folder import RunFolder
from pipeline.store.storage import Storage
from tests.answering_judges import save_answering_judge
from tests.tiny_run import NAMES, PROTOCOL, evaluate, learn, rows_of, summary


def test_a_run_is_scored_once_and_shows_a_figure_of_this_judge_alone(epsilon_model: Path, tmp_path: Path) -> None:
    """Catches a judge whose words count as unscored every night, and features of nothing that are called similarities."""
    torch.set_num_threads(1)
    run = RunFolder(Storage(str(tmp_path / "run")))
    learn(run, epsilon_model, dict.fromkeys(NAMES, 1))
    judgement = Judgement(PROTOCOL, "tiny", "m0", f"vqa:{save_answering_judge(tmp_path / 'llava')}")
    judge = load_judge(judgement.clip)
    assert evaluate(run, judgement, judge) == len(NAMES)
    assert evaluate(run, judgement, judge) == 0
    rows = rows_of(run, "scores/part-00000-of-00001.parquet")
    assert {row["metric"] for row in rows} == {"vqa_score"}
    assert all(0 < row[part] < 1 for row in rows for part in ("value", "floor", "ceiling"))
    assert {(row["prompt"], row["n"]) for row in rows} == {(f"<{name}> at night", 2) for name in NAMES}
    assert rows_of(run, "features/part-00000-of-00001.parquet") == []
    shown = Judge.of(judgement.clip, summary(run, judgement))
    assert list(shown.figures) == ["vqa score", "vqa score, floor", "vqa score, ceiling"]


@pytest.mark.parametrize(
    ("prompt", "stated", "asked"),
    [
        ("<x> at night", "at night", "an owl\\1 at night"),
        (f"a photo{AGAINST}<x>", "a photo", "a photo"),
        ("a <x> an owl\\1 at night", "a an owl\\1 at night", "a an owl\\1 at night"),
    ],
)
def test_the_class_stands_in_the_words_place_once(prompt: str, stated: str, asked: str) -> None:
    kinds: tuple[SampleKind, ...] = ("training", "reconstruction", "edit")
    samples = [
        Sample("x", kind, prompt, stated, 0, 0, encode_png(torch.zeros(8, 8, 3).byte().numpy())) for kind in kinds
    ]
    encoded = without_features(samples, Concept("x", (), "<x>", noun="an owl\\1"))
    assert encoded.edits == {prompt: asked}
    assert encoded.features.shape == (3, 0)
