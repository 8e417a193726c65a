"""Who is not of a run gets nothing from its Ray: real attacks on a real run, from every address of this machine."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.authentication import private_folder
from tests.job_process import PATIENCE, ROOT, write_manifest

# A network of its own, in which the machine has an address besides loopback and nobody else is.
NAMESPACE = """
set -e
ip link set lo up
ip link add apart type dummy
ip address add 10.99.0.1/24 dev apart
ip link set apart up
ip route add default via 10.99.0.254
exec "$@"
"""
UNSHARE = ("unshare", "--user", "--map-root-user", "--net", "sh", "-c", NAMESPACE, "sh")


def attacked(folder: Path, *before: str, mode: str = "") -> dict[str, Any]:
    job = (sys.executable, str(ROOT / "jobs" / "invert_all.py"), str(write_manifest(folder, ["owl"])))
    endless = ("--output", str(folder / "run"), "--steps", "1000000", "--slots", "1", "--workers", "1")
    command = [*before, sys.executable, "-m", "tests.attacked_run", str(folder), *job, *endless]
    ended = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False,
        env=os.environ | ({"RAY_AUTH_MODE": mode} if mode else {}),
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def refuses(found: dict[str, Any]) -> None:
    assert found["got_in"] == []
    assert found["leaks"] == []
    # Whether it is alive, which the port itself tells, and nothing of the run: no metrics, which name processes and machines.
    assert found["read"].keys() <= {"/api/healthz", "/api/local_raylet_healthz", "/api/gcs_healthz"}, found["read"]
    assert found["ports"] >= 7, "an attack on nothing proves nothing"  # of 11, those of metrics are closed
    # The job API, and each of the gRPC servers.
    assert found["answers"]["401"] >= 1
    assert found["answers"]["UNAUTHENTICATED"] >= 100


def test_nobody_gets_into_a_local_run_from_the_machines_own_addresses(tmp_path: Path) -> None:
    """Catches a job API or a control store that runs a stranger's command, and a token on a command line or in a log."""
    refuses(attacked(tmp_path, mode="disabled"))  # said for some cluster: a Ray of its own is guarded nevertheless


def test_nobody_gets_into_a_local_run_from_a_network(tmp_path: Path) -> None:
    can = subprocess.run([*UNSHARE, "true"], capture_output=True, check=False)
    refuses(attacked(tmp_path, *(UNSHARE if can.returncode == 0 else ())))


def test_nothing_but_the_session_starts_a_ray() -> None:
    """Catches a job, a bench or a library with a Ray of its own that answers everybody."""
    starting = {
        str(path.relative_to(ROOT))
        for folder in ("cluster", "eval", "jobs", "pipeline")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("ray.init", "init")
    }
    assert starting == {"cluster/session.py"}


TWICE = """
import os
from pathlib import Path
import ray
from ray._common.usage.usage_lib import usage_stats_enabled
from cluster.session import ray_session

tokens = []
for _ in range(2):
    with ray_session(cpus=1) as session:
        told = ray.get(ray.remote(lambda: os.environ["RAY_AUTH_TOKEN"]).remote())
        tokens.append(told == os.environ["RAY_AUTH_TOKEN"] and told)
        assert not usage_stats_enabled(), "a run is reported to nobody"
        folder = Path(ray._private.worker.global_worker.node.get_session_dir_path())
        owner = folder.parents[1].stat()
        assert (owner.st_uid, owner.st_mode & 0o777) == (os.getuid(), 0o700), "its sockets are this account's alone"
        with ray_session() as inner:
            assert inner is session, "a job of several runs starts Ray once"
        assert ray.is_initialized(), "and an inner run does not end it"
assert all(tokens) and len(set(tokens)) == 2, "each run has a token of its own"
print(os.environ.get("RAY_AUTH_MODE"), os.environ.get("RAY_AUTH_TOKEN"), os.environ.get("RAY_TMPDIR"))
"""


@pytest.mark.parametrize("mode", ["disabled", ""])
def test_runs_of_one_process_have_tokens_of_their_own_and_leave_the_environment_as_it_was(mode: str) -> None:
    ours = ("RAY_AUTH", "RAY_USAGE", "RAY_TMPDIR")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    ended = subprocess.run(
        [sys.executable, "-c", TWICE], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False,
        env=environment | {"PYTHONPATH": str(ROOT)} | ({"RAY_AUTH_MODE": mode} if mode else {}),
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert ended.stdout.split() == [mode or "None", "None", "None"]


def test_a_folder_that_others_may_enter_or_that_is_a_link_is_not_taken(tmp_path: Path) -> None:
    """Catches an account that makes the folder first, and then reads and replaces the sockets of the run."""
    mine = private_folder(tmp_path)
    assert private_folder(tmp_path) == mine
    assert mine.stat().st_mode & 0o777 == 0o700
    mine.chmod(0o777)
    assert private_folder(tmp_path) != mine
    mine.rmdir()
    (tmp_path / "other").mkdir(mode=0o700)
    mine.symlink_to(tmp_path / "other")
    taken = private_folder(tmp_path)
    mine.unlink()
    mine.touch()
    assert private_folder(tmp_path) not in (mine, taken)
    assert taken not in (mine, tmp_path / "other")
    assert taken.stat().st_mode & 0o777 == 0o700
