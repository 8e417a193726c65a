"""The README's job line, submitted to a Ray of two nodes; then the README's own Python, on the run that it left."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.job_process import few_pictures
from tests.processes import free_port
from tests.test_documents import ROOT, blocks, commands

BIN = Path(sys.executable).parent
pytestmark = pytest.mark.long
PATIENCE = 500  # seconds on a slow machine


TWO_NODES = """
import sys
from ray.cluster_utils import Cluster

anywhere = {"num_cpus": 1, "dashboard_agent_listen_port": 0}  # the usual port is that of any other Ray of this machine
head = {**anywhere, "include_dashboard": True, "dashboard_port": int(sys.argv[1])}
cluster = Cluster(initialize_head=True, head_node_args=head)
cluster.add_node(**anywhere)
print("ready", flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@pytest.fixture(scope="module")
def dashboard() -> Iterator[str]:
    """The address of a Ray of two nodes of one CPU each, in a process of its own: it leaves sockets open."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("PATH", f"{BIN}:{os.environ['PATH']}")
        port = free_port()
        command = [sys.executable, "-c", TWO_NODES, str(port)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert "ready\n" in iter(process.stdout.readline, ""), "the cluster did not start"
            yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("first_hour") / "manifest.csv"
    images = ROOT / "jobs" / "demo" / "images"
    path.write_text(f"concept,images\nowl,{images}/owl\ntaxi,{images}/taxi\n", encoding="utf-8")
    return path


def submit(dashboard: str, manifest: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """The README's line, with a manifest, an output, a model and sizes for this machine."""
    [line] = [words for words in commands(ROOT / "README.md") if words[:3] == ["ray", "job", "submit"]]
    ours = {
        "--output": str(manifest.parent / "run"),
        "--model": "mini",
        "--steps": "4",
        "--gpus-per-worker": "0",
        "--workers": "2",
    }
    words = [ours.get(flag, word) for flag, word in zip(["", *line], line, strict=False)]
    words = [str(manifest) if word == "s3://bucket/manifest.csv" else word for word in words]
    assert set(ours.values()) <= set(words), "the README's line has lost a flag"
    return subprocess.run(
        [*words[:3], "--address", dashboard, *words[3:], *more],
        cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(dashboard: str, manifest: Path) -> Path:
    few = ("--protocol", str(few_pictures(manifest.parent)))
    ended = submit(dashboard, manifest, "--shared-filesystem", "--slots", "1", *few)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return manifest.parent / "run"


def test_a_local_output_is_refused_where_each_node_would_write_its_own(dashboard: str, manifest: Path) -> None:
    ended = submit(dashboard, manifest)
    assert ended.returncode == 1
    assert "--shared-filesystem" in ended.stdout
    assert not (manifest.parent / "run" / "words").exists()


def test_two_nodes_learn_the_words(run: Path) -> None:
    """Catches what works only where the driver runs: an import, a path, a setting that no other node has."""
    said = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert said["cluster"]["nodes"] == 2
    assert sorted(path.stem for path in (run / "words").iterdir()) == ["owl", "taxi"]
    assert (run / "report" / "index.html").exists()


@pytest.mark.parametrize("code", [text for language, text in blocks(ROOT / "README.md") if language == "python"])
def test_the_readmes_python_runs_as_it_stands(run: Path, tmp_path: Path, code: str) -> None:
    """Catches an example that the library it shows has outgrown."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "demo").symlink_to(run)
    (tmp_path / "pipeline").symlink_to(ROOT / "pipeline")
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=PATIENCE)
    if "taxi.png" in code:
        assert (tmp_path / "taxi.png").stat().st_size > 1000
