"""A job's Ray session: it joins the cluster that the job was submitted to, or starts a local Ray."""

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.addresses import ClusterError, joined_address, refuse_long_folder
from cluster.authentication import folder_of_its_own, token_of_its_own

ROOT = Path(__file__).resolve().parents[1]  # the folder that our packages are in
# Ray's three Prometheus servers ask for no token, so a local Ray has none. Two have no switch: on a port that does not exist
# they do not start, and Ray goes on without them.
WITHOUT_METRICS = {
    "RAY_enable_metrics_collection": "0", "DASHBOARD_METRIC_PORT": "99999", "AUTOSCALER_METRIC_PORT": "99999",
}  # fmt: skip
_opened: ContextVar["Session | None"] = ContextVar("the session that is open", default=None)


@dataclass(frozen=True, slots=True)
class Session:
    """The cluster's resources when the job joined it. gpus: the number that it can grow to.

    local: a Ray of this job only, which ends with it. several_nodes: there is more than one machine, or there will be.
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

    Inside another session it yields that one, so that a job of several runs starts Ray once.
    cpus: of the local Ray; None uses those of the machine.
    Raises ClusterError for an address that cannot be joined, and if no local Ray can start.
    """
    if (outer := _opened.get()) is not None:
        yield outer
        return
    address = joined_address(address)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with _local_ray(cpus) if address is None else _joined(address):
        import ray

        offered = ray.cluster_resources()
        nodes = sum(1 for node in ray.nodes() if node["Alive"])
        with _sigterm_as_interrupt():
            several = nodes > 1 or gpus(offered) > int(offered.get("GPU", 0))
            session = Session(int(offered.get("CPU", 1)), gpus(offered), nodes, address is None, several)
            mark = _opened.set(session)
            try:
                yield session
            finally:
                _opened.reset(mark)


@contextmanager
def _local_ray(cpus: int | None) -> Iterator[None]:
    refuse_long_folder()
    # By default Ray tells its authors of each run.
    settings = {"RAY_USAGE_STATS_ENABLED": "0", **WITHOUT_METRICS, **folder_of_its_own()}
    with token_of_its_own(settings):
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
    """Joins a cluster. Its authentication comes from the environment (RAY_AUTH_MODE, RAY_AUTH_TOKEN), which is left unchanged."""
    import ray

    try:
        # If a server that is not Ray answers, Ray ends the process.
        ray.init(address=address, log_to_driver=False, job_config=_job_config())
    except (Exception, SystemExit) as error:
        raise ClusterError(f"the Ray cluster at {address} could not be joined: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _job_config() -> Any:
    """Makes workers import modules from our own folder instead of the folder that the job was started in.

    That folder may have a pipeline/ or jobs/ of its own, and Ray puts it first on the path. A submitted job does not need this: it
    runs in the copy that was made for it.
    """
    from ray.job_config import JobConfig

    submitted = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    # For a job that Ray marks as a client's, workers ignore the driver's current folder.
    return JobConfig(_client_job=not submitted, _py_driver_sys_path=[] if submitted else [str(ROOT)])


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Makes SIGTERM end a job like Ctrl-C. Call it after ray.init, whose own handler aborts."""
    if threading.current_thread() is not threading.main_thread():
        yield  # outside the main thread no handler can be set
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

    An idle autoscaling cluster has none, and Ray does not tell a driver how many it could have, so a job would train on the CPUs of
    GPU machines. So the cluster files state the number in WORDMINT_GPUS.

    >>> gpus({"CPU": 0.0}, {"WORDMINT_GPUS": "16"})
    16
    >>> gpus({"CPU": 8.0, "GPU": 2.0}, {})
    2
    """
    return max(int(offered.get("GPU", 0)), int(environment.get("WORDMINT_GPUS", 0)))
