"""A Ray cluster whose processes stand in another folder: python -m tests.cluster_elsewhere NODES [HIDDEN]

Prints its address, and ends when its standard input does. HIDDEN: a folder in whose place the last node sees an empty one.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from tests.job_process import PATIENCE

UNSHARE = ("unshare", "--map-root-user", "--mount", "sh", "-c")
HIDE = 'mount -t tmpfs tmpfs "$0" && exec "$@"'


@contextmanager
def cluster_elsewhere(
    folder: Path, environment: dict[str, str], nodes: int = 1, hidden: Path | None = None
) -> Iterator[str]:
    """The address of a cluster whose processes stand in `folder`."""
    command = [sys.executable, "-m", "tests.cluster_elsewhere", str(nodes), *([str(hidden)] if hidden else [])]
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as held:
        assert held.stdin is not None
        assert held.stdout is not None
        try:
            yield next(line.split()[1] for line in held.stdout if line.startswith("address "))
        finally:
            held.stdin.close()
            held.wait(PATIENCE)


def can_hide(folder: Path) -> bool:
    return subprocess.run([*UNSHARE, HIDE, str(folder), "true"], capture_output=True, check=False).returncode == 0


def main(nodes: str, hidden: str = "") -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    for _ in range(int(nodes) - 1 - bool(hidden)):
        cluster.add_node(num_cpus=2)
    blind = None
    if hidden:
        Path(hidden).mkdir(parents=True, exist_ok=True)
        start = [
            str(Path(sys.executable).with_name("ray")),
            "start",
            f"--address={cluster.address}",
            "--num-cpus=2",
            "--disable-usage-stats",
            "--block",
        ]
        blind = subprocess.Popen([*UNSHARE, HIDE, hidden, *start], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    cluster.connect()
    while sum(node["Alive"] for node in ray.nodes()) < int(nodes):
        time.sleep(0.2)
    ray.shutdown()
    print("address", cluster.address, flush=True)
    sys.stdin.read()
    if blind:
        blind.terminate()
        blind.wait(60)
    cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
