"""README.md and cluster/README.md pasted as they stand, section by section, on this machine with the shipped model.

Put aside are the programs that need a cloud, a registry, Kubernetes or Slurm (AWAY), and `make`, whose demo is the README's own
line: these commands are only parsed, in tests/test_documents.py. REPLACED has what this machine cannot reach: other models, their
number of steps, pictures and workers, folders and addresses of another machine. s3:// is moto's server. All else runs as a user
pastes it.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from PIL import Image

from tests.job_process import DEMO
from tests.processes import free_port
from tests.test_documents import ROOT, blocks_of, commands, sections, spans_of

BIN = Path(sys.executable).parent
pytestmark = pytest.mark.long
PATIENCE = 900  # seconds on a slow machine
AWAY = ("aws", "docker", "eksctl", "gcloud", "helm", "kubectl", "make", "sbatch")
AWAY_OF_RAY = ("dashboard", "down", "up")
MODELS = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "mini --protocol jobs/demo/demo.toml",
    "--steps 3000": "--steps 4",
}
REPLACED = {
    "README.md": {
        **MODELS,
        "ViT-B-32-quickgelu:openai": "mini",
        "--gpus-per-worker 1 --workers 50": "--gpus-per-worker 0 --workers 2",
    },
    "cluster/README.md": {
        **MODELS,
        "--output s3://my-bucket/runs/demo": "--output s3://my-bucket/runs/demo --steps 4 --protocol jobs/demo/demo.toml",
        "http://127.0.0.1:8265": "$DASHBOARD",
        "/home/YOU/wordmint": "$PWD",
        "/shared/wordmint": "$PWD",
        "/var/lib/node_exporter": "$HOME",
    },
}
CRON = re.compile(r"^\d+ \d+ \* \* \*\s+(.+)$", re.MULTILINE)
OF_A_SENTENCE = re.compile(r"(\.venv/bin/)?python (-m cluster\.|jobs/\S+ (s3://|runs/))")
SECTIONS = [(name, heading, text) for name in REPLACED for heading, text in sections(ROOT / name)]
PRELUDE = "set -euo pipefail\n" + "".join(f'{each}() {{ echo "{each} $*" >> "$HOME/away"; }}\n' for each in AWAY)
# Where .venv is not activated, cluster/README.md has Ray installed by pip.
PRELUDE += f'ray() {{ case "$1" in {"|".join(AWAY_OF_RAY)}) echo "ray $*" >> "$HOME/away" ;; *) .venv/bin/ray "$@" ;; esac; }}\n'


TWO_NODES = """
import sys
from ray.cluster_utils import Cluster

anywhere = {"num_cpus": 1, "dashboard_agent_listen_port": 0}  # the usual port is that of any other Ray of this machine
head = {**anywhere, "include_dashboard": True, "dashboard_port": int(sys.argv[1])}
cluster = Cluster(initialize_head=True, head_node_args=head)
# In a folder of its own: in the head's, it would remove the job's files to unpack them again while the driver imports them.
cluster.add_node(**anywhere, runtime_env_dir_name="second_node")
print("ready", flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@pytest.fixture(scope="module")
def dashboard(moto_endpoint: str) -> Iterator[str]:
    """The address of a Ray of two nodes of one CPU each, in a process of its own: it leaves sockets open."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("PATH", f"{BIN}:{os.environ['PATH']}")
        patch.setenv("WORDMINT_STORAGE_OPTIONS", f"endpoint_url={moto_endpoint}")
        port = free_port()
        command = [sys.executable, "-c", TWO_NODES, str(port)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert "ready\n" in iter(process.stdout.readline, ""), "the cluster did not start"
            yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this checkout beside its .venv, with the README's manifest and the pictures that it names, and two of the demo's
    twelve concepts.
    """
    folder = tmp_path_factory.mktemp("first_hour") / "wordmint"
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".git", ".venv", "runs", "__pycache__", ".*_cache"))
    (folder / ".venv").symlink_to(sys.prefix)
    (manifest,) = (
        text
        for name, _, section in SECTIONS
        for language, text in blocks_of(section)
        if name == "README.md" and not language and text.startswith("concept,")
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


@pytest.fixture(scope="module")
def shell(
    checkout: Path, moto_endpoint: str, dashboard: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """The environment of a shell that reaches the documents' two buckets, which hold what the text says, and a Ray cluster."""
    store = fsspec.filesystem("s3", endpoint_url=moto_endpoint)
    for bucket in ("bucket", "my-bucket"):
        store.mkdir(bucket)
    store.put(f"{checkout}/manifest.csv", "bucket/manifest.csv")
    for folder, place in (("pictures", "bucket/pictures"), ("taxi", "bucket/taxi"), ("jobs/demo", "my-bucket/in/demo")):
        store.put(f"{checkout}/{folder}/", f"{place}/", recursive=True)
    path = ":".join(each for each in os.environ["PATH"].split(":") if Path(each) != BIN)  # as before .venv is activated
    return {
        **os.environ, "PATH": path, "HOME": str(tmp_path_factory.mktemp("home")), "PYTHONPATH": str(checkout),
        "WORDMINT_STORAGE_OPTIONS": f"endpoint_url={moto_endpoint}", "DASHBOARD": dashboard,
        "RAY_API_SERVER_ADDRESS": dashboard, "HF_HUB_OFFLINE": "1",
    }  # fmt: skip


def pasted(document: str, section: str) -> str:
    """The section's blocks and cron's lines as a script; then the whole commands of this checkout that its sentences name."""
    code = []
    for language, text in blocks_of(section):
        match language:
            case "bash":
                code.append(text)
            case "python":
                code.append(f".venv/bin/python - <<'END'\n{text}END")
            case "":
                code += CRON.findall(text)
    code += [span for span in spans_of(section) if OF_A_SENTENCE.match(span)]
    text = "\n".join(code)
    for theirs, ours in REPLACED[document].items():
        text = text.replace(theirs, ours)
    return text


def test_what_is_replaced_or_put_aside_stands_in_the_documents() -> None:
    """Catches a document that has changed under this test, so that it runs what nobody pastes, or no longer runs a job."""
    for document, replaced in REPLACED.items():
        whole = (ROOT / document).read_text(encoding="utf-8")
        assert not [each for each in replaced if each not in whole], document
    together = "\n".join(pasted(document, text) for document, _, text in SECTIONS)
    for program in AWAY:
        assert re.search(rf"(^|[|(]) *{program} ", together, re.MULTILINE), program
    for job in ("invert_all", "status", "evaluate", "nightly", "generate"):
        assert f"python jobs/{job}.py" in together, job


@pytest.mark.parametrize(
    ("document", "section"),
    [(name, text) for name, _, text in SECTIONS if pasted(name, text)],
    ids=[f"{name.removesuffix('.md')}: {heading}" for name, heading, text in SECTIONS if pasted(name, text)],
)
def test_a_section_runs_as_it_is_pasted(document: str, section: str, checkout: Path, shell: dict[str, str]) -> None:
    """Catches a column, a file, a bucket or an option that a line needs and the lines before it have not made."""
    text = pasted(document, section)
    ended = subprocess.run(
        ["bash", "-c", PRELUDE + text], cwd=checkout, env=shell, capture_output=True, text=True, timeout=PATIENCE,
        check=False,
    )  # fmt: skip
    assert ended.returncode == 0, f"{text}\n{ended.stdout}\n{ended.stderr}"
    for edited in re.findall(r"^sed .*?(cluster/\S+(?: cluster/\S+)*)$", text, re.MULTILINE | re.DOTALL):
        for path in (path for place in edited.split() for path in checkout.glob(place)):
            lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
            assert "YOUR-" not in "\n".join(lines), path


def test_what_the_pasted_sections_leave_is_what_they_say(
    checkout: Path, shell: dict[str, str], moto_endpoint: str
) -> None:
    """Catches a submitted job that learned on one node, and a night that ended well without a word."""
    store = fsspec.filesystem("s3", endpoint_url=moto_endpoint)
    assert json.loads(store.cat("bucket/run-7/run.json"))["cluster"]["nodes"] == 2
    for folder, names in (("run-7", ["owl", "red-taxi"]), ("catalogue", ["owl", "red-taxi"])):
        words = sorted(Path(path).stem for path in store.ls(f"bucket/{folder}/words"))
        assert words == names
    assert store.exists("my-bucket/runs/demo/words/taxi.safetensors")
    assert (checkout / "taxi.png").stat().st_size > 1000
    assert (checkout / "runs" / "demo" / "generated" / "contact-sheet.png").exists()
    assert (checkout / "runs" / "manifest" / "report" / "index.html").exists()
    assert "to do     2 of 2 concepts" in (checkout / "nightly.log").read_text(encoding="utf-8")
    assert "wordmint_night_done 2" in (Path(shell["HOME"]) / "wordmint.prom").read_text(encoding="utf-8")


def test_a_local_output_is_refused_where_each_node_would_write_its_own(checkout: Path, shell: dict[str, str]) -> None:
    """The README's line with a folder as its output."""
    [line] = [words for words in commands(ROOT / "README.md") if words[:3] == ["ray", "job", "submit"]]
    ours = {"--output": "runs/refused", "--model": "mini", "--gpus-per-worker": "0", "--workers": "2"}
    words = [ours.get(flag, word) for flag, word in zip(["", *line], line, strict=False)]
    assert set(ours.values()) <= set(words), "the README's line has lost a flag"
    ended = subprocess.run(
        [BIN / "ray", *words[1:]],
        cwd=checkout,
        env=shell,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ended.returncode == 1
    assert "--shared-filesystem" in ended.stdout
    assert not (checkout / "runs" / "refused" / "words").exists()
