"""How a job meets Ray: it joins the cluster it was submitted to, or starts a local one for itself."""

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass


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
def ray_session(address: str | None = None) -> Iterator[Session]:
    """Joins `address`, else the cluster that RAY_ADDRESS names (as it does in a submitted job), else starts a local Ray."""
    address = address or os.environ.get("RAY_ADDRESS")
    if address is None:
        # A Ray of our own, on loopback, needs no token; a token file left by another Ray must not turn one on.
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if address is None:
        ray.init(address="local", include_dashboard=False, configure_logging=False, log_to_driver=False)
    else:
        ray.init(address=address, log_to_driver=False)
    try:
        offered = ray.cluster_resources()
        nodes = sum(1 for node in ray.nodes() if node["Alive"])
        with _sigterm_as_interrupt():
            several = nodes > 1 or gpus(offered) > int(offered.get("GPU", 0))
            yield Session(int(offered.get("CPU", 1)), gpus(offered), nodes, address is None, several)
    finally:
        ray.shutdown()


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
