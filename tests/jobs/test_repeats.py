"""--repeats: the first word is the one without repeats, and the spread between seeds stands beside the interval over concepts."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from eval.nightly.choosing import choose, choosing_protocol, known_by
from eval.report.summary_files import repeat_rows
from eval.scores.summary import ConceptSummary, mean_of
from jobs.export_words import exported
from pipeline.inputs.manifest import Manifest
from pipeline.inputs.repeats import with_repeats
from pipeline.protocols import PROTOCOLS
from pipeline.records import Concept
from pipeline.sampling.prompting import requests_for
from pipeline.store.catalogue.chosen import ChosenWord, read_chosen, with_chosen, write_chosen
from pipeline.store.damaged import DamagedFileError
from pipeline.store.run_folder import RunFolder
from pipeline.store.storage import Storage
from pipeline.store.word_files import decode_word
from tests.eval.report.test_report_page import concept, summary_of
from tests.job_process import QUICKLY, few_pictures, job, table, write_manifest


@pytest.mark.long
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


@pytest.mark.long
def test_the_chosen_word_is_public_until_a_run_does_not_choose(tmp_path: Path) -> None:
    """Catches a choice that nothing goes by, one made on the report's pictures, and one that outlives its words."""
    run = tmp_path / "run"
    arguments = (
        write_manifest(tmp_path, ["owl", "taxi"]),
        "--output",
        run,
        *QUICKLY,
        "--protocol",
        few_pictures(tmp_path),
    )
    ended = job(*arguments, "--choose", "3")
    assert ended.returncode == 0, ended.stderr
    assert "of 2 concepts are known by another word than their first; on the report's pictures" in ended.stdout
    rows = {row["concept"]: row for row in pd.read_parquet(run / "chosen.parquet").to_dict("records")}
    assert sorted(rows) == ["owl", "taxi"]
    scores = pd.concat(map(pd.read_parquet, (run / "scores").glob("*.parquet")))
    for name, row in rows.items():
        assert row["of"] == 3
        assert row["reconstruction"] >= row["reconstruction_first"]
        mine = scores[(scores["concept"] == row["word"]) & (scores["metric"] == "image_similarity")]
        by_protocol = dict(zip(mine["protocol"], mine["value"], strict=True))
        (label,) = (label for label in by_protocol if label.startswith("choose-v1-"))
        assert by_protocol[label] == pytest.approx(row["reconstruction"])
        assert len(set(by_protocol.values())) == 2, "the report's pictures are others"
        placeholder, vectors = decode_word((run / "chosen" / f"{name}.safetensors").read_bytes())
        assert placeholder == f"<{name}>"
        _, best = decode_word((run / "words" / f"{row['word']}.safetensors").read_bytes())
        np.testing.assert_array_equal(vectors["text_encoder"], best["text_encoder"])
        exported_word = exported(RunFolder(Storage(str(run))), "diffusers", [name])[f"{name}.safetensors"]
        np.testing.assert_array_equal(decode_word(exported_word)[1]["text_encoder"], best["text_encoder"])
    assert "nothing to do" in job(*arguments, "--choose", "3").stdout
    again = job(*arguments)
    assert again.returncode == 0, again.stderr
    assert not (run / "chosen.parquet").exists()
    assert not list((run / "chosen").glob("*"))


def word(name: str, reconstruction: float, editability: float) -> ConceptSummary:
    of, _, number = name.partition(".r")
    return replace(
        concept(0, name), fingerprint=f"f-{name}", reconstruction=reconstruction, editability=editability,
        carried={"repeat_of": of, "repeat": number or "1"},
    )  # fmt: skip


def test_the_best_word_that_loses_no_editability_is_chosen() -> None:
    words = [
        word("owl", 0.5, 0.6), word("owl.r2", 0.9, 0.59), word("owl.r3", 0.7, 0.6), word("cat", 0.8, 0.6), word("cat.r2", 0.8, 0.7),
        word("fox", 0.5, math.nan), word("fox.r2", 0.6, math.nan), word("elk", math.nan, 0.6), word("elk.r2", 0.9, 0.9),
    ]  # fmt: skip
    chosen = choose(words)
    assert {each.concept: each.word for each in chosen} == {"owl": "owl.r3", "cat": "cat", "fox": "fox.r2"}
    assert chosen[0] == ChosenWord("owl", "owl.r3", "f-owl.r3", 3, 0.7, 0.6, 0.5, 0.6)
    assert chosen[2].editability is None
    known = known_by(words, chosen)
    assert [(each.concept, each.fingerprint) for each in known] == [
        ("owl", "f-owl.r3"), ("cat", "f-cat"), ("fox", "f-fox.r2"), ("elk", "f-elk"),
    ]  # fmt: skip


def test_a_word_that_was_learned_again_since_is_not_the_chosen_one(tmp_path: Path) -> None:
    def row(name: str, fingerprint: str, value: float) -> dict[str, object]:
        encoder = {"text_encoder": "t", "placeholder": f"<{name}>", "carried": None}
        return {"concept": name, "fingerprint": fingerprint, "vectors": [[value]], **encoder}

    run = RunFolder(Storage(str(tmp_path)))
    assert read_chosen(run) == ()
    write_chosen(run, [ChosenWord("owl", "owl.r2", "b", 2, 0.7, None, 0.5, None)], {"owl": b"x"})
    chosen = read_chosen(run)
    rows = [row("owl", "a", 1.0), row("owl.r2", "b", 2.0)]
    assert with_chosen(rows, chosen)[0] == {**rows[1], "concept": "owl", "placeholder": "<owl>"}
    rows[1]["fingerprint"] = "c"
    assert with_chosen(rows, chosen) == rows
    (tmp_path / "chosen.parquet").write_bytes(b"PAR1")
    with pytest.raises(
        DamagedFileError, match=r"chosen\.parquet is damaged: .*; delete it, and the next run chooses again"
    ):
        read_chosen(run)


def test_choosing_draws_other_pictures_than_the_report() -> None:
    """Of the same prompts, with the sampler of the run, from noise that all words of a concept share."""
    made = choosing_protocol(PROTOCOLS["quick"])
    owl, again = Concept("owl", ("a",), "<owl>", noun="bird"), Concept("owl.r2", ("a",), "<owl.r2>", noun="bird")
    of_owl, of_again, reported = (
        {each.seed for each in requests_for(one, protocol, 0)}
        for one, protocol in ((owl, made), (again, made), (owl, PROTOCOLS["quick"]))
    )
    assert of_owl == of_again
    assert not of_owl & reported
    assert made.label != choosing_protocol(PROTOCOLS["paper"]).label
    assert made.label == choosing_protocol(PROTOCOLS["quick-v2"]).label, "quick-v2 has the prompts of quick"


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
