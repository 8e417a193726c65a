"""Attacks a local run from its own machine, without its token: python -m tests.attacked_run FOLDER COMMAND ...

Starts the command, waits until Ray and a worker are up, and tries every port that its processes listen on, at every address
of this machine: the job API with a command to run, each method of each of Ray's gRPC services, and what may be read over HTTP.

Prints one JSON object: ports, how many; answers, how often each was given; got_in, what was answered with anything but a
refusal; read, the paths that were answered with a text, and its beginning; leaks, the command lines with the token in them.
"""

import contextlib
import http.client
import importlib
import ipaddress
import json
import pkgutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
from ray.core import generated

PATIENCE = 240.0
WANTED = ("gcs_server", "raylet/raylet", "ray::DashboardAgent", "ray::WorkerProcess")
HTTP = ("/api/job_agent/jobs/", "/api/jobs/", "/get_or_create_runtime_env", "/delete_runtime_env_if_possible")
READABLE = (
    "/",
    "/metrics",
    "/logs",
    "/api/version",
    "/api/healthz",
    "/api/local_raylet_healthz",
    "/api/gcs_healthz",
    "/nodes",
)
REFUSED = ("UNAUTHENTICATED", "UNIMPLEMENTED", "UNAVAILABLE")  # the last two: no such service here, or no gRPC at all


def processes(root: psutil.Process) -> Iterator[psutil.Process]:
    for process in root.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            process.cmdline()
            yield process


def until_up(root: psutil.Process) -> None:
    deadline, lines = time.monotonic() + PATIENCE, ""
    while time.monotonic() < deadline:
        lines = "\n".join(" ".join(process.cmdline()) for process in processes(root))
        if all(part in lines for part in WANTED):
            time.sleep(3)  # for ports that are opened last
            return
        time.sleep(0.5)
    raise SystemExit(f"Ray did not come up: {lines}")


def listeners(root: psutil.Process, before: set[int]) -> list[int]:
    found = set()
    for process in (root, *processes(root)):
        with contextlib.suppress(psutil.Error):
            found |= {each.laddr.port for each in process.net_connections("inet") if each.status == psutil.CONN_LISTEN}
    return sorted(found - before)  # what this process handed on is not the run's


def listening() -> set[int]:
    return {each.laddr.port for each in psutil.Process().net_connections("inet") if each.status == psutil.CONN_LISTEN}


def own_addresses() -> list[str]:
    """IPv4 addresses of this machine; nothing else is ever contacted."""
    known = {each.address for some in psutil.net_if_addrs().values() for each in some if each.family.name == "AF_INET"}
    return sorted(known, key=ipaddress.ip_address)


def methods() -> list[str]:
    """Of all of Ray's gRPC services, as paths."""
    found = set()
    for module in pkgutil.iter_modules(generated.__path__):
        if module.name.endswith("_pb2"):
            described = importlib.import_module(f"ray.core.generated.{module.name}").DESCRIPTOR
            for service in described.services_by_name.values():
                found |= {f"/{service.full_name}/{method.name}" for method in service.methods}
    return sorted(found)


def ask(address: str, port: int, path: str, body: bytes | None = None) -> tuple[str, str]:
    """The status and the beginning of the answer to a POST of `body`, or to a GET."""
    connection = http.client.HTTPConnection(address, port, timeout=5)
    try:
        connection.request("GET" if body is None else "POST", path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return str(answer.status), answer.read(2_000).decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return "no HTTP", ""
    finally:
        connection.close()


def call(channel: grpc.Channel, method: str) -> str:
    try:
        channel.unary_unary(method)(b"", timeout=5)
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


def main(folder: str, *command: str) -> None:
    trace = Path(folder) / "somebody-was-here"
    entry = json.dumps({"entrypoint": f"touch {trace}", "submission_id": "attack"}).encode()
    before = listening()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        root = psutil.Process(process.pid)
        until_up(root)
        ports, answers, got_in = listeners(root, before), Counter[str](), []
        read: dict[str, str] = {}
        for address in own_addresses():
            for port in ports:
                told = {path: ask(address, port, path, entry)[0] for path in HTTP}
                gotten = (
                    {path: ask(address, port, path) for path in READABLE} if set(told.values()) != {"no HTTP"} else {}
                )
                read |= {path: text[:200] for path, (status, text) in gotten.items() if status.startswith("2")}
                with grpc.insecure_channel(f"{address}:{port}") as channel:
                    for method in methods():
                        told[method] = call(channel, method)
                        if told[method] == "UNAVAILABLE":
                            break  # nothing that speaks gRPC
                answers.update(told.values())
                got_in += [
                    f"{address}:{port}{path}: {said}"
                    for path, said in told.items()
                    if said not in REFUSED and said != "no HTTP" and not said.startswith(("4", "5"))
                ]
        time.sleep(3)  # for a command that was taken on
        secret = next((each for one in processes(root) if (each := one.environ().get("RAY_AUTH_TOKEN"))), "no token")
        shown = (" ".join(each.info["cmdline"] or ()) for each in psutil.process_iter(["cmdline"]))
        leaks = [line for line in shown if secret in line]
        logs = [*Path("/tmp/ray").glob("session_*/logs/*"), *Path("/tmp").glob("wordmint-*/ray/session_*/logs/*")]
        leaks += [str(each) for each in logs if each.is_file() and secret.encode() in each.read_bytes()]
    finally:
        process.terminate()
        process.wait(PATIENCE)
    got_in += [f"{trace} was made"] * trace.exists()
    print(json.dumps({"ports": len(ports), "answers": answers, "got_in": got_in, "read": read, "leaks": leaks}))


if __name__ == "__main__":
    main(*sys.argv[1:])
