"""How a job meets Ray: it joins the cluster it was submitted to, or starts a local one for itself."""

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.addresses import ClusterError, joined_address, refuse_long_folder
from cluster.authentication import token_of_its_own

ROOT = Path(__file__).resolve().parents[1]  # the folder that our packages are in


@dataclass(frozen=True, slots=True)
class Session:
    """What the cluster offered when the job joined; of GPUs, what it can grow to.

    local: the job's own Ray, gone when it ends. several_nodes: there is more than one machine, or there will be.
    """

    cpus: int
    gpus: int
    nodes: int
    local: bool
    several_nodes: bool

    @property
    def device(self) -> str:
        """Where torch should run on this cluster."""
        return "cuda" if self.gpus else "cpu"


@contextmanager
def ray_session(address: str | None = None, cpus: int | None = None) -> Iterator[Session]:
    """Joins `address`, else the cluster that RAY_ADDRESS names (as it does in a submitted job), else starts a local Ray.

    cpus: of the local Ray; None for those of the machine.
    Raises ClusterError for an address that cannot be joined, and where no local Ray can start.
    """
    address = joined_address(address)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with _local_ray(cpus) if address is None else _joined(address):
        import ray

        offered = ray.cluster_resources()
        nodes = sum(1 for node in ray.nodes() if node["Alive"])
        with _sigterm_as_interrupt():
            several = nodes > 1 or gpus(offered) > int(offered.get("GPU", 0))
            yield Session(int(offered.get("CPU", 1)), gpus(offered), nodes, address is None, several)


@contextmanager
def _local_ray(cpus: int | None) -> Iterator[None]:
    refuse_long_folder()
    with token_of_its_own():
        import ray

        try:
            try:
                ray.init(
                    address="local", num_cpus=cpus, include_dashboard=False, configure_logging=False, log_to_driver=False,
                    job_config=_job_config(),
                )  # fmt: skip
            except Exception as error:
                raise ClusterError(f"no Ray could be started on this machine: {error}") from error
            yield
        finally:
            ray.shutdown()


@contextmanager
def _joined(address: str) -> Iterator[None]:
    """How a cluster is signed in to is said by the environment (RAY_AUTH_MODE, RAY_AUTH_TOKEN), and left as it is."""
    import ray

    try:
        # Where a server answers that is no Ray, it ends the process.
        ray.init(address=address, log_to_driver=False, job_config=_job_config())
    except (Exception, SystemExit) as error:
        raise ClusterError(f"the Ray cluster at {address} could not be joined: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _job_config() -> Any:
    """Has workers look for modules in our own folder, and not in the folder that the job was started in.

    That one may have a pipeline/ or jobs/ of its own, and Ray puts it before everything else. A submitted job has no such
    folder: it stands in the copy that was made for it.
    """
    from ray.job_config import JobConfig

    submitted = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    # What Ray calls a client's job is one whose current folder means nothing to the workers.
    return JobConfig(_client_job=not submitted, _py_driver_sys_path=[] if submitted else [str(ROOT)])


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """A job that is stopped politely ends as by Ctrl-C. To be set up after ray.init, whose own handler aborts."""
    if threading.current_thread() is not threading.main_thread():
        yield  # where no handler can be set up
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def gpus(offered: Mapping[str, float], environment: Mapping[str, str] = os.environ) -> int:
    """How many GPUs the cluster has, or can grow to.

    An autoscaling cluster at rest has none, and Ray does not tell a driver what it might have: a job that asked for what
    is there would train on the CPUs of GPU machines. So the cluster's own files say it, in WORDMINT_GPUS.

    >>> gpus({"CPU": 0.0}, {"WORDMINT_GPUS": "16"})
    16
    >>> gpus({"CPU": 8.0, "GPU": 2.0}, {})
    2
    """
    return max(int(offered.get("GPU", 0)), int(environment.get("WORDMINT_GPUS", 0)))
