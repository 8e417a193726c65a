"""Fixtures that several tests share: a real S3 server with a proxy that makes it misbehave, and tiny models to load."""

import http.client
import os
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import pytest
from xdist.scheduler import LoadFileScheduling

if TYPE_CHECKING:
    from tests.gcs_server import GoogleStore
    from tests.job_process import FinishedRun

SECRET = "test-secret-that-nobody-may-see"


class _TogetherWithTheFinishedRun(LoadFileScheduling):
    """The tests of a file run in one process; the files that read the finished run in the same one, to make it once."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        reads = "finished_run" in (self.config.rootpath / file).read_text(encoding="utf-8")
        return "finished run" if reads else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    return _TogetherWithTheFinishedRun(config, log)


@dataclass(frozen=True, slots=True)
class Bucket:
    """An empty bucket on a server of its own. url: s3://name. options: what reaches it."""

    url: str
    endpoint: str
    options: dict[str, Any]


@pytest.fixture(scope="session")
def moto_endpoint() -> Iterator[str]:
    """The address of moto's S3 server, running for the whole session; AWS credentials are set to dummies for it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("AWS_ACCESS_KEY_ID", "test-key"),
            ("AWS_SECRET_ACCESS_KEY", SECRET),
            ("AWS_DEFAULT_REGION", "us-east-1"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ):
            patch.setenv(name, value)
        port = _free_port()
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONWARNINGS": "ignore"},
        )
        endpoint = f"http://127.0.0.1:{port}"
        try:
            _wait_until_up(endpoint, server)
            yield endpoint
        finally:
            server.terminate()
            server.wait(10)


@pytest.fixture
def bucket(moto_endpoint: str) -> Bucket:
    made = Bucket(f"s3://test-{uuid.uuid4().hex[:12]}", moto_endpoint, {"endpoint_url": moto_endpoint})
    fsspec.filesystem("s3", **made.options).mkdir(made.url)
    return made


@pytest.fixture
def google() -> "Iterator[GoogleStore]":
    """An empty Google Cloud Storage, as far as gcsfs goes."""
    from tests.gcs_server import google_store

    with google_store() as store:
        yield store


@dataclass
class Faults:
    """What the proxy does to the next requests, in order: a status such as "503", "reset" or "stall"; later ones it passes on.

    hold: the end of the path of a PUT that is held back, once, from `holds` on until `lets_go`.
    lose_answer_to: the method ("PUT") of a request to be passed on, but whose answer is lost, once.
    share: of all requests, those that one of the three happens to, drawn at random. made: so often has it happened.
    """

    endpoint: str = ""
    planned: list[str] = field(default_factory=list)
    lose_answer_to: str = ""
    hold: str = ""
    holds: threading.Event = field(default_factory=threading.Event)
    lets_go: threading.Event = field(default_factory=threading.Event)
    share: float = 0.0
    stall_seconds: float = 2.0
    requests: int = 0
    made: int = 0
    generator: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def next(self) -> str:
        self.requests += 1
        fault = self.planned.pop(0) if self.planned else ""
        if self.share and self.generator.random() < self.share:
            fault = str(self.generator.choice(["503", "reset", "stall"]))
        self.made += bool(fault)
        return fault


@pytest.fixture
def faults(moto_endpoint: str) -> Iterator[Faults]:
    """A proxy before the S3 server that misbehaves as planned."""
    plan = Faults()
    target = moto_endpoint.removeprefix("http://")

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fault = plan.next()
            if fault.isdigit():
                self.send_response(int(fault))
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if fault == "reset":
                self.close_connection = True
                self.connection.close()
                return
            if fault == "stall":
                time.sleep(plan.stall_seconds)
            if plan.hold and self.command == "PUT" and self.path.endswith(plan.hold):
                plan.hold = ""
                plan.holds.set()
                plan.lets_go.wait(30)
            forward = http.client.HTTPConnection(target)
            forward.request(self.command, self.path, body, dict(self.headers.items()))
            answer = forward.getresponse()
            content = answer.read()
            forward.close()
            if plan.lose_answer_to == self.command:
                plan.lose_answer_to = ""
                self.close_connection = True
                self.connection.close()
                return
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "connection", "content-length", "server", "date"):
                    self.send_header(name, value)
            length = answer.getheader("Content-Length") if self.command == "HEAD" else None
            self.send_header("Content-Length", length or str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer  # noqa: N815 - http.server looks for these

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    plan.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    yield plan
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> "FinishedRun":
    from tests.job_process import finish_run

    return finish_run(tmp_path_factory.mktemp("finished"))


@pytest.fixture(scope="session")
def epsilon_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny Stable Diffusion of random weights that predicts the noise."""
    from tests.tiny_model import save_tiny_model  # diffusers takes seconds to import, and few tests need it

    return save_tiny_model(tmp_path_factory.mktemp("epsilon"), "epsilon")


@pytest.fixture(scope="session")
def velocity_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, predicting the velocity."""
    from tests.tiny_model import save_tiny_model

    return save_tiny_model(tmp_path_factory.mktemp("velocity"), "v_prediction")


@pytest.fixture(scope="session")
def xl_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny Stable Diffusion XL."""
    from tests.tiny_model import save_tiny_xl

    return save_tiny_xl(tmp_path_factory.mktemp("xl"))


@pytest.fixture(scope="session")
def vq_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny latent diffusion model with a vector-quantised first stage."""
    from tests.tiny_model import save_tiny_ldm

    return save_tiny_ldm(tmp_path_factory.mktemp("vq"), "vq")


@pytest.fixture(scope="session")
def kl_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with the first stage that Stable Diffusion has."""
    from tests.tiny_model import save_tiny_ldm

    return save_tiny_ldm(tmp_path_factory.mktemp("kl"), "kl")


@pytest.fixture(params=["epsilon", "velocity", "xl", "vq", "kl"])
def any_model(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.getfixturevalue(f"{request.param}_model")
    return folder


@pytest.fixture(params=["epsilon", "velocity"])
def either_model(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.getfixturevalue(f"{request.param}_model")
    return folder


def _free_port() -> int:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        return int(server.server_address[1])


def _wait_until_up(endpoint: str, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if server.poll() is not None:
            pytest.fail(f"moto's server ended at once with exit code {server.returncode}")
        try:
            urllib.request.urlopen(f"{endpoint}/moto-api/", timeout=5).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    pytest.fail("moto's server did not come up within 120 seconds")
