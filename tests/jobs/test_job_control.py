"""How a person or a program deals with a run: status, logs, limits, a slow or failing store, `ray job submit`."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray.job_submission import JobDetails, JobSubmissionClient

from pipeline.scheduling.prometheus import COUNTERS, GAUGES
from pipeline.store.storage import Storage
from tests.conftest import Bucket, Faults
from tests.job_process import DEMO, PATIENCE, QUICKLY, ROOT, few_pictures, job, table, write_manifest
from tests.processes import end_all_with, free_port

# Tests that run in the background have been told to ignore Ctrl-C, and would hand that on.
UNDEAF = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@pytest.fixture
def begin() -> "Iterator[Callable[..., subprocess.Popen[str]]]":
    """Starts the job and does not wait for it."""
    begun = []

    def start(*arguments: object) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", UNDEAF, str(ROOT / "jobs" / "invert_all.py"), *map(str, arguments)]
        begun.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.wait()


def read_until(process: "subprocess.Popen[str]", pattern: str) -> str:
    """The first line that matches. Fails when the process ends without one."""
    assert process.stdout is not None
    for line in process.stdout:
        if re.search(pattern, line):
            return line
    raise AssertionError(f"ended without a line like {pattern!r}: {process.stderr and process.stderr.read()}")


@pytest.mark.long
def test_a_run_can_be_watched_and_stopped_and_its_folder_alone_tells_of_it(
    begin: "Callable[..., subprocess.Popen[str]]", tmp_path: Path
) -> None:
    """Catches a Ctrl-C that loses steps, and a status that needs the cluster which has just gone away."""
    run, manifest = tmp_path / "run", write_manifest(tmp_path, ["owl", "taxi"])
    assert job(run, script="status.py").returncode == 2
    driver = begin(manifest, "--output", run, "--steps", "3000", "--early-stop", "off", "--slots", "2", "--workers", "1",
                   "--log-format", "json", "--checkpoint-seconds", "1")  # fmt: skip
    read_until(driver, '"training": 2')
    while len(list((run / "_checkpoints").glob("*.safetensors"))) < 2:
        assert driver.poll() is None
        time.sleep(0.2)
    said = job(run, script="status.py").stdout
    assert "done      0 of 2 concepts" in said
    assert re.search(r"owl: step \d+ of at most 3000", said)
    assert "state     running" in said
    driver.send_signal(signal.SIGINT)
    _, complaint = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 3
    assert json.loads(complaint.splitlines()[-1])["event"] == "cut short"
    told = json.loads(job(run, "--log-format", "json", script="status.py").stdout)
    assert (told["state"], told["total"], set(told["training"])) == ("cut short", 2, {"owl", "taxi"})


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_while_it_scores_says_so_and_goes_on(
    number: signal.Signals, begin: "Callable[..., subprocess.Popen[str]]", tmp_path: Path
) -> None:
    """Catches a status that says "scoring" for ever."""
    run, manifest = tmp_path / "run", write_manifest(tmp_path, ["owl"])
    arguments = (manifest, "--output", run, *QUICKLY, "--protocol", few_pictures(tmp_path))
    driver = begin(*arguments, "--log-format", "json")
    read_until(driver, '"event": "scoring"')
    driver.send_signal(number)
    _, complaint = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 3, complaint
    assert "state     cut short; the same command goes on from here" in job(run, script="status.py").stdout
    assert job(*arguments).returncode == 0
    assert "state     finished" in job(run, script="status.py").stdout


@pytest.mark.long
def test_a_run_stops_when_more_has_failed_than_its_owner_accepts(tmp_path: Path) -> None:
    """Catches a night's machines spent on a manifest whose bucket was emptied."""
    manifest = write_manifest(tmp_path, [f"gone-{number}" for number in range(6)], str(tmp_path / "nowhere"))
    ended = job(manifest, "--output", tmp_path / "run", *QUICKLY, "--max-failures", "2")
    assert ended.returncode == 3
    assert "3 concepts failed, more than --max-failures 2" in ended.stderr
    failures = table(tmp_path / "run", "failures")
    assert len(failures) == 3
    assert failures["reason"].str.contains("no images found").all()
    told = job(tmp_path / "run", script="status.py").stdout
    assert "failed    3\n" in told
    assert "state     cut short" in told


@pytest.mark.long
def test_a_whole_run_on_a_store_that_fails_and_stalls_gives_the_same_tables(
    bucket: Bucket, faults: Faults, tmp_path: Path
) -> None:
    """Catches one bad answer of a store that costs a concept, a row or the run."""
    source = Storage(f"{bucket.url}/images", bucket.options)
    for name in ("owl", "taxi"):
        for picture in sorted((DEMO / "images" / name).iterdir()):
            source.write_bytes(f"{name}/{picture.name}", picture.read_bytes())
    Storage(bucket.url, bucket.options).write_bytes(
        "manifest.csv", b"concept,images\nowl,images/owl\ntaxi,images/taxi\n"
    )
    plain, shaken = f"{bucket.url}/plain", f"{bucket.url}/shaken"
    options = (*QUICKLY, "--slots", "1", "--workers", "1")
    good = job(
        f"{bucket.url}/manifest.csv", "--output", plain, "--storage-option", f"endpoint_url={bucket.endpoint}", *options
    )
    assert good.returncode == 0, good.stderr
    faults.share, faults.stall_seconds = 0.06, 5.0
    ended = job(
        f"{bucket.url}/manifest.csv",
        "--output",
        shaken,
        "--storage-option",
        f"endpoint_url={faults.endpoint}",
        *options,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert faults.made >= 5, "the proxy has to have misbehaved"
    system = fsspec.filesystem("s3", **bucket.options)
    for run in (plain, shaken):
        system.get(f"{run.removeprefix('s3://')}/", f"{tmp_path}/{run.rsplit('/', 1)[1]}/", recursive=True)
    for name in ("embeddings", "samples", "scores"):
        one, other = (rows_but_for_seconds(tmp_path / run / name) for run in ("plain", "shaken"))
        assert one == other


def rows_but_for_seconds(folder: Path) -> list[dict[str, object]]:
    rows = pa.concat_tables([pq.read_table(part) for part in sorted(folder.glob("*.parquet"))]).to_pylist()
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


@pytest.fixture
def head(tmp_path: Path) -> Iterator[str]:
    """The dashboard's address of a Ray head in processes of its own, as a cluster has one."""
    port, dashboard = free_port(), free_port()
    environment = os.environ | {
        "RAY_AUTH_MODE": "disabled",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    command = [
        str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=2", f"--port={port}",
        f"--dashboard-port={dashboard}", "--include-dashboard=true", "--dashboard-agent-listen-port=0",
        f"--temp-dir={short_folder()}", "--disable-usage-stats",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    address = f"http://127.0.0.1:{dashboard}"
    try:
        wait_for_jobs(address, process)
        yield address
    finally:
        process.terminate()
        process.wait(60)
        end_all_with(f"={port}")


def short_folder() -> str:
    """Ray's sockets lie in it, and their paths must not be longer than 107 characters."""
    return tempfile.mkdtemp(prefix="ray")


def wait_for_jobs(address: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        assert process.poll() is None, "the head did not start"
        try:
            urllib.request.urlopen(f"{address}/api/jobs/", timeout=5).close()
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise AssertionError("the head's dashboard did not come up")


def submit(head: str, *arguments: object) -> "tuple[subprocess.CompletedProcess[str], JobDetails]":
    """The README's line, and what the cluster then knows of the job."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    ray, line = Path(sys.executable).with_name("ray"), ["python", "jobs/invert_all.py", *map(str, arguments)]
    command = [str(ray), "job", "submit", "--address", head, "--submission-id", name, "--working-dir", ".", "--", *line]
    ended = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=2 * PATIENCE, check=False,
        env=os.environ | {"RAY_AUTH_MODE": "disabled"},
    )  # fmt: skip
    return ended, JobSubmissionClient(head).get_job_info(name)


@pytest.mark.long
def test_ray_job_submit_runs_from_a_checkout_and_its_exit_code_arrives(head: str, tmp_path: Path) -> None:
    """Catches a job that finds its modules only where it was written, and a failed night that is reported as a good one."""
    run = tmp_path / "run"
    ended, details = submit(head, write_manifest(tmp_path, ["owl"]), "--output", run, *QUICKLY)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert (details.status, details.driver_exit_code) == ("SUCCEEDED", 0)
    assert (run / "report" / "index.html").exists()
    assert "1 concepts done, 0 failed" in ended.stdout

    (tmp_path / "empty").mkdir()
    with (tmp_path / "manifest.csv").open("a") as manifest:
        manifest.write(f"nothing,{tmp_path / 'empty'},,south\n")
    ended, details = submit(head, tmp_path / "manifest.csv", "--output", run, *QUICKLY)
    assert ended.returncode == 1
    assert (details.status, details.driver_exit_code) == ("FAILED", 1)
    assert "nothing: nothing: no images found" in ended.stdout


def test_metrics_of_a_run_appear_at_rays_prometheus_port(tmp_path: Path) -> None:
    """Catches a dashboard of empty panels."""
    script = tmp_path / "watch.py"
    script.write_text(METRICS_READER, encoding="utf-8")
    manifest = write_manifest(tmp_path, ["owl"])
    ended = subprocess.run(
        [sys.executable, script, manifest, tmp_path / "run"], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE,
        check=False, env=os.environ | {"PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = set(json.loads(ended.stdout.splitlines()[-1]))
    assert {f"ray_{name}" for name in GAUGES} | {f"ray_{name}_total" for name in COUNTERS} <= found


METRICS_READER = """
import json, sys, time, urllib.request
import ray
from pipeline.scheduling.driver import Progress
from pipeline.scheduling.prometheus import RunMetrics

ray.init(address="local", num_cpus=1, log_to_driver=False, configure_logging=False)
RunMetrics()(Progress(3, 1, 1, {"training": 1}, {"ready": 1}, 50, 2, 1, 4, 7.0))
port = ray.nodes()[0]["MetricsExportPort"]
names = set()
deadline = time.monotonic() + 120
while time.monotonic() < deadline and len(names) < 10:
    try:
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
    except OSError:
        time.sleep(0.5)
        continue
    names = {line.split("{")[0].split(" ")[0] for line in text.splitlines() if line.startswith("ray_wordmint")}
    time.sleep(0.5)
print(json.dumps(sorted(names)))
"""
