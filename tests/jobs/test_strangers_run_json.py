"""A run.json that a stranger wrote, or another version, ends no command in a traceback."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from jobs import diff, evaluate, export_words, fit_starts, generate, promote, status

OLD = Path(__file__).parents[1] / "pipeline" / "store" / "old_run" / "run"
MADE: dict[str, Any] = json.loads((OLD / "run.json").read_text(encoding="utf-8"))
WHOLE = MADE | {"updated": "2026-01-01T00:00:00+00:00", "finished": True}
STRANGE: dict[str, Any] = {
    "no object": [],
    "nothing in it": {},
    **{f"without {name}": {key: value for key, value in WHOLE.items() if key != name} for name in WHOLE},
    **{f"a number for {name}": WHOLE | {name: 7} for name in WHOLE},
    **{f"a list for {name}": WHOLE | {name: [[]]} for name in WHOLE},
    "settings without a number": WHOLE | {"settings": {}},
    "settings of texts": WHOLE | {"settings": dict.fromkeys(WHOLE["settings"], "x")},
    "model settings of another version": WHOLE | {"model_settings": {"dtype": "auto", "unheard of": 1}},
    "a day for the time": WHOLE | {"updated": "2026-01-01"},
    "no time": WHOLE | {"updated": "today"},
}
Job = Callable[[Sequence[str]], int]
JOBS: dict[str, tuple[Job, tuple[str, ...]]] = {
    "status": (status.main, ()),
    "export_words": (export_words.main, ("--layout", "a1111", "--output", "{}/words")),
    "promote": (promote.main, ()),
    "diff": (diff.main, ("{}/run", "--output", "{}/diff")),
    "fit_starts": (fit_starts.main, ("--output", "{}/starts.safetensors", "--measure", "0")),
    "generate": (generate.main, ("--prompt", "a photo of <unknown>")),
    "evaluate": (evaluate.main, ("--night", "no night")),
}


@pytest.mark.parametrize("job", JOBS)
def test_a_strange_run_json_ends_in_a_sentence(job: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a KeyError or a TypeError for an entry that is missing or of another kind."""
    run = shutil.copytree(OLD, tmp_path / "run")
    main, options = JOBS[job]
    for what, made in STRANGE.items():
        (run / "run.json").write_text(json.dumps(made))
        code = main([str(run), *(option.format(tmp_path) for option in options)])
        said = capsys.readouterr()
        assert code in (0, 1, 2), what
        assert code == 0 or said.err or said.out, what
        assert "Traceback" not in said.err, what
