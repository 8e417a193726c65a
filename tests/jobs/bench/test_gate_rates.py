"""jobs/bench/gate_rates.py on a run that was scored."""

from pathlib import Path

import pytest

from jobs.bench.gate_rates import main
from tests.job_process import LEARNED, FinishedRun


def test_the_verdicts_of_a_run_stand_beside_those_of_words_of_known_worth(
    finished_run: FinishedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches features that the scoring no longer keeps, and a table of nothing."""
    assert main([str(finished_run.folder)]) == 0
    said = capsys.readouterr().out
    rows = {cells[1].strip(): cells for line in said.splitlines() if len(cells := line.split("|")) > 10}
    assert rows["its own word"][2].strip() == str(len(LEARNED))
    assert rows["another concept's word"][2].strip() == str(len(LEARNED) * (len(LEARNED) - 1))
    untrained = rows["the untrained word, same noise"]
    assert untrained[2].strip() == untrained[5].strip() == str(len(LEARNED))


def test_a_folder_without_scores_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none")]) == 2
    assert "nothing was measured.\ncannot read" in capsys.readouterr().err
