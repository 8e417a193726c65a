"""--repeats: the first word is the one without repeats, and the spread between seeds stands beside the interval over concepts."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from eval.report.summary_files import repeat_rows
from eval.scores.summary import mean_of
from pipeline.inputs.manifest import Manifest
from pipeline.inputs.repeats import with_repeats
from pipeline.records import Concept
from tests.eval.report.test_report_page import concept, summary_of
from tests.job_process import QUICKLY, few_pictures, job, table, write_manifest


def test_repeats_leave_the_first_word_as_it_is_and_their_spread_is_reported(tmp_path: Path) -> None:
    """Catches a second seed that learns the first word anew, and words of one concept counted as several concepts."""
    arguments = (write_manifest(tmp_path, ["owl", "taxi"]), "--output", tmp_path / "run", *QUICKLY,
                 "--protocol", few_pictures(tmp_path))  # fmt: skip
    run = tmp_path / "run"
    first = job(*arguments)
    assert first.returncode == 0, first.stderr
    before = {path.name: path.read_bytes() for path in (run / "words").iterdir()}
    ended = job(*arguments, "--repeats", "2")
    assert ended.returncode == 0, ended.stderr
    assert "to do     2 of 4 concepts; 2 are done" in ended.stdout
    assert "standard deviation over 2 training seeds: reconstruction 0." in ended.stdout
    words = {path.name: path.read_bytes() for path in (run / "words").iterdir()}
    assert sorted(words) == ["owl.r2.safetensors", "owl.safetensors", "taxi.r2.safetensors", "taxi.safetensors"]
    assert {name: words[name] for name in before} == before
    assert len({bytes(each) for each in words.values()}) == 4
    concepts = pd.read_parquet(run / "report" / "concepts.parquet")
    assert list(zip(concepts["concept"], concepts["repeat_of"], concepts["repeat"], strict=True)) == [
        ("owl", "owl", 1), ("owl.r2", "owl", 2), ("taxi", "taxi", 1), ("taxi.r2", "taxi", 2),
    ]  # fmt: skip
    repeats = pd.read_parquet(run / "report" / "repeats.parquet").set_index("concept")
    of_owl = concepts[concepts["repeat_of"] == "owl"]["reconstruction"]
    assert repeats.loc["owl", "reconstruction"] == pytest.approx(of_owl.mean())
    assert repeats.loc["owl", "reconstruction_sd"] == pytest.approx(of_owl.std())
    summary = json.loads((run / "report" / "summary.json").read_text(encoding="utf-8"))
    assert summary["reconstruction"]["n"] == 2
    assert summary["reconstruction"]["value"] == pytest.approx(concepts["reconstruction"].mean())
    by_seed = concepts.groupby("repeat")["reconstruction"].mean()
    assert summary["repeats"]["reconstruction"]["of_mean"] == pytest.approx(by_seed.std())
    assert "standard deviation over 2 training seeds" in (run / "report" / "index.html").read_text(encoding="utf-8")
    night = job(run, script="evaluate.py")
    assert night.returncode == 0, night.stdout + night.stderr
    assert len(table(run, "history")) == 2, "a night has each concept once"


def test_figures_over_concepts_take_the_mean_of_the_repeats_first() -> None:
    words = [
        replace(concept(place, f"w{place}"), reconstruction=value, carried={"repeat_of": of, "repeat": repeat})
        for place, (of, repeat, value) in enumerate(
            [("a", "1", 0.2), ("a", "2", 0.4), ("b", "1", 0.6), ("b", "2", 0.6)]
        )
    ]
    estimate = mean_of(words, "reconstruction", np.random.default_rng(0))
    assert estimate.value == pytest.approx(0.45)
    assert estimate.n == 2
    assert repeat_rows(summary_of(*words)) is None, "a summary without repeats has no table of them"


MANIFEST = Manifest(
    "m.csv", "0", (Concept("owl", ("a",), "<owl>"), Concept("cat", ("b",), "the-cat")), (), {"shop": "text"}
)


def test_repeats_are_named_after_the_first() -> None:
    found = with_repeats(MANIFEST, 3).concepts
    assert [each.name for each in found] == ["owl", "owl.r2", "owl.r3", "cat", "cat.r2", "cat.r3"]
    assert [each.placeholder for each in found][1::3] == ["<owl.r2>", "the-cat.r2"]
    assert with_repeats(MANIFEST, 1) == MANIFEST


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        (replace(MANIFEST, types={"repeat": "integer"}), "has a column 'repeat', which repeats are told by"),
        (
            replace(MANIFEST, concepts=(*MANIFEST.concepts, Concept("owl.r2", ("c",), "<o>"))),
            "owl.r2 is a row of its own",
        ),
        (
            replace(MANIFEST, concepts=(*MANIFEST.concepts, Concept("dog", ("c",), "<OWL.r2>"))),
            "owl.r2 is a row of its own",
        ),
        (replace(MANIFEST, concepts=(Concept("o" * 127, ("c",), "<o>"),)), "more than 128 characters"),
    ],
)
def test_what_repeats_cannot_be_told_from_is_refused(manifest: Manifest, said: str) -> None:
    with pytest.raises(ValueError, match=f"--repeats 2: .*{said}"):
        with_repeats(manifest, 2)
