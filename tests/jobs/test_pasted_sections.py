"""Sections of README.md and cluster/README.md pasted as they stand, on this machine with the shipped model.

Put aside are the programs that need a cloud, a registry, Kubernetes or Slurm (AWAY), and `make`, whose demo is the README's own
line: these commands are only parsed, in tests/test_documents.py. REPLACED has what this machine cannot reach: another model and its
number of steps. All else runs as a user pastes it. What needs a Ray cluster or a store besides is left out: the README's line for
`ray job submit` is run in test_first_hour.py.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.job_process import DEMO
from tests.test_documents import ROOT, blocks_of, sections

BIN = Path(sys.executable).parent
pytestmark = pytest.mark.long
PATIENCE = 900  # seconds on a slow machine
AWAY = ("aws", "docker", "eksctl", "gcloud", "helm", "kubectl", "make", "sbatch")
REPLACED = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "mini",
    "--steps 3000": "--steps 4",
}
RUN = {
    "README.md": ("Two commands", "What appears"),
    "cluster/README.md": (
        "One workstation, any number of GPUs", "Google Cloud", "Kubernetes", "Slurm", "What it costs",
    ),
}  # fmt: skip
SECTIONS = [(name, heading, text) for name in RUN for heading, text in sections(ROOT / name) if heading in RUN[name]]
PRELUDE = "set -euo pipefail\n" + "".join(f'{each}() {{ echo "{each} $*" >> "$HOME/away"; }}\n' for each in AWAY)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this checkout beside its .venv, with the README's manifest and the pictures that it names, and two of the demo's
    twelve concepts.
    """
    folder = tmp_path_factory.mktemp("user") / "wordmint"
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".git", ".venv", "runs", "__pycache__", ".*_cache"))
    (folder / ".venv").symlink_to(sys.prefix)
    (manifest,) = (
        text
        for _, section in sections(ROOT / "README.md")
        for language, text in blocks_of(section)
        if not language and text.startswith("concept,")
    )
    (folder / "manifest.csv").write_text(manifest, encoding="utf-8")
    shutil.copytree(DEMO / "images" / "owl", folder / "pictures" / "owl")
    (folder / "taxi").mkdir()
    for number in ("1", "2"):
        (picture,) = (DEMO / "images" / "taxi").glob(f"{number}.*")
        Image.open(picture).convert("RGB").save(folder / "taxi" / f"{number}.jpg")
    demo = folder / "jobs" / "demo" / "manifest.csv"
    header, *rows = demo.read_text(encoding="utf-8").splitlines()
    two = [row for row in rows if row.startswith(("my-car,", "taxi,"))]
    demo.write_text("\n".join([header, *two]), encoding="utf-8")
    return folder


def pasted(section: str) -> str:
    """The section's blocks as a script."""
    code = []
    for language, text in blocks_of(section):
        if language == "bash":
            code.append(text)
        elif language == "python":
            code.append(f".venv/bin/python - <<'END'\n{text}END")
    text = "\n".join(code)
    for theirs, ours in REPLACED.items():
        text = text.replace(theirs, ours)
    return text


def test_what_is_run_and_what_is_replaced_stands_in_the_documents() -> None:
    """Catches a section of another name, which would not be run any more."""
    for document, headings in RUN.items():
        assert [heading for name, heading, _ in SECTIONS if name == document] == list(headings)
    together = "\n".join(text for _, _, text in SECTIONS)
    assert not [each for each in REPLACED if each not in together]
    for job in ("invert_all", "status", "generate"):
        assert f".venv/bin/python jobs/{job}.py" in together, job


@pytest.mark.parametrize("section", [text for _, _, text in SECTIONS], ids=[heading for _, heading, _ in SECTIONS])
def test_a_section_runs_as_it_is_pasted(section: str, checkout: Path, home: Path) -> None:
    """Catches a file, a column or an option that a line needs and the lines before it have not made, and a YOUR-... left over."""
    text = pasted(section)
    path = ":".join(each for each in os.environ["PATH"].split(":") if Path(each) != BIN)  # .venv is not activated
    shell = {**os.environ, "PATH": path, "HOME": str(home), "PYTHONPATH": str(checkout), "HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(
        ["bash", "-c", PRELUDE + text], cwd=checkout, env=shell, capture_output=True, text=True, timeout=PATIENCE,
        check=False,
    )  # fmt: skip
    assert ended.returncode == 0, f"{text}\n{ended.stdout}\n{ended.stderr}"
    for edited in re.findall(r"^sed .*?(cluster/\S+(?: cluster/\S+)*)$", text, re.MULTILINE | re.DOTALL):
        for file in (file for place in edited.split() for file in checkout.glob(place)):
            lines = [line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
            assert "YOUR-" not in "\n".join(lines), file
