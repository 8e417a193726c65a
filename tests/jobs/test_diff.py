"""jobs/diff.py: two run folders of words on a tiny model, compared as a person would."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import eval.judges.judge
import eval.nightly.canary
import eval.scores.score_run
from eval.report.run_diff import FIGURES, ConceptPair, csv_of, differences, latex_of
from eval.scores.drawn_pictures import RunModel
from eval.scores.score_run import Judgement
from jobs import diff
from pipeline.protocols import Protocol
from pipeline.settings import ModelSettings
from pipeline.store.run_folder import RunFolder
from pipeline.store.storage import Storage
from tests.tiny_run import NAMES, OTHER, PROTOCOL, Colours, evaluate, learn


@pytest.fixture(autouse=True)
def colours(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    for module in (eval.judges.judge, eval.scores.score_run, eval.nightly.canary):
        monkeypatch.setattr(module, "load_scorer", lambda name, device: Colours())


def made(folder: Path, model: Path, words: dict[str, int], protocol: Protocol = PROTOCOL, name: str = "m0") -> str:
    """A run folder whose words were scored."""
    run = RunFolder(Storage(str(folder)))
    learn(run, model, words)
    run.write_json("run.json", {"finished": True})
    drawing = RunModel(str(model), "cpu", ModelSettings(), seed=0)
    evaluate(run, Judgement(protocol, "tiny", name, "colours", "cpu", drawing))
    return str(folder)


def test_two_runs_are_paired_by_concept_and_the_page_the_table_and_the_figures_agree(
    epsilon_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """B was learned on another model, lacks one concept of A and has one of its own."""
    first = made(tmp_path / "monday", epsilon_model, dict.fromkeys((*NAMES, "dog"), 1))
    second = made(tmp_path / "tuesday", epsilon_model, dict.fromkeys((*NAMES, "elk"), 2), name="m1")
    output = tmp_path / "out"
    assert diff.main([first, second, "--output", str(output)]) == 0
    said = capsys.readouterr().out
    assert "compared  3 concepts of both runs; 1 only in A, 1 only in B" in said
    table = pd.read_csv(output / "concepts.csv")
    assert sorted(table["concept"]) == sorted(NAMES)
    assert np.allclose(table["reconstruction_b"] - table["reconstruction_a"], table["reconstruction_change"], atol=2e-6)
    assert list(table["reconstruction_change"]) == sorted(table["reconstruction_change"])
    found = {each["figure"]: each for each in json.loads((output / "differences.json").read_text())["differences"]}
    assert found["reconstruction"]["n"] == 3
    assert found["reconstruction"]["change"] == pytest.approx(table["reconstruction_change"].mean(), abs=1e-5)
    page = (output / "index.html").read_text()
    assert "They differ in model digest." in page
    assert "1 concept only in A: dog." in page
    assert "<script" not in page
    assert (output / "table.tex").read_text().startswith(r"\begin{tabular}")


def test_a_run_beside_itself_has_no_difference(epsilon_model: Path, tmp_path: Path) -> None:
    run = made(tmp_path / "run", epsilon_model, dict.fromkeys(NAMES, 1))
    assert diff.main([run, run, "--output", str(tmp_path / "out")]) == 0
    with (tmp_path / "out" / "concepts.csv").open(newline="") as file:
        assert {row["reconstruction_change"] for row in csv.DictReader(file)} == {"0.000000"}
    found = json.loads((tmp_path / "out" / "differences.json").read_text())["differences"]
    assert {each["p"] for each in found} == {1.0}


def test_what_cannot_be_compared_is_refused_with_what_each_run_has(
    epsilon_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = made(tmp_path / "run", epsilon_model, dict.fromkeys(NAMES, 1))
    strangers = made(tmp_path / "others", epsilon_model, {"yak": 1})
    otherwise = made(tmp_path / "otherwise", epsilon_model, dict.fromkeys(NAMES, 1), OTHER)
    unscored = RunFolder(Storage(str(tmp_path / "unscored")))
    learn(unscored, epsilon_model, dict.fromkeys(NAMES, 1))
    unscored.write_json("run.json", {"finished": True})
    for other, reason in (
        (strangers, "no concept in common: A has ant, bee, cow, B has yak"),
        (otherwise, "A was scored by tiny-v1-dddddddd and colours, B by other-v1-dddddddd and colours"),
        (str(tmp_path / "unscored"), "B by nothing yet"),
        (str(tmp_path / "nowhere"), "nowhere"),
    ):
        assert diff.main([run, other, "--output", str(tmp_path / "out")]) == 2
        assert reason in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def pairs(rng: np.random.Generator, change: float, n: int) -> list[ConceptPair]:
    a, b = rng.normal(0.7, 0.05, n), rng.normal(0.7 + change, 0.05, n)
    nothing = dict.fromkeys(set(FIGURES) - {"reconstruction"}, float("nan"))
    return [
        ConceptPair(f"c{i}", {"reconstruction": a[i], **nothing}, {"reconstruction": b[i], **nothing}) for i in range(n)
    ]


def test_a_gain_and_a_loss_are_found_alike_and_noise_seldom() -> None:
    """Two-sided: what got better counts as much as what got worse."""
    rng = np.random.default_rng(0)
    for change in (-0.05, 0.05):
        (found,) = differences(pairs(rng, change, 60))
        assert found.p < 0.001
        assert found.low < change < found.high
    quiet = [differences(pairs(rng, 0.0, 20))[0].p for _ in range(200)]
    assert 0.01 < float(np.mean(np.array(quiet) < 0.05)) < 0.10


def test_names_cannot_break_the_table_of_a_paper() -> None:
    found = differences(pairs(np.random.default_rng(0), 0.1, 5))
    assert r"run\_7\textbackslash{}\%\{x\}" in latex_of(found, "run_7\\%{x}", "b")


@pytest.mark.parametrize("name", ['=HYPERLINK("http://evil.example","owl")', "+1", "-1+cmd", "@SUM(A1)", " =1", "\t=1"])
def test_a_strangers_name_is_no_formula_in_a_spreadsheet_and_no_command_in_a_paper(name: str) -> None:
    """Catches a name that a spreadsheet calculates, or that LaTeX obeys."""
    figures = dict.fromkeys(FIGURES, 0.5)
    header, row = csv.reader(io.StringIO(csv_of([ConceptPair(name, figures, figures)])))
    assert row[0] == f"'{name}"
    assert header[0] == "concept"
    assert r"\input" not in latex_of([], r"\input{/etc/passwd}", "b")
