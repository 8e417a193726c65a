"""A run whose manifest is of signed URLs leaves their secrets nowhere."""

import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.store.word_files import encode_word
from tests.job_process import DEMO, QUICKLY, few_pictures, job

SECRET = "s3cr3tSignature"


@pytest.mark.long
def test_no_signature_of_a_manifests_urls_is_in_the_run_folder_the_report_or_the_output(tmp_path: Path) -> None:
    """Catches a link that is published with what it signs."""
    served = tmp_path / "served"
    served.mkdir()
    pictures = sorted((DEMO / "images" / "owl").glob("*.*"))[:2]
    for number, path in enumerate(pictures):
        (served / f"{number}.png").write_bytes(path.read_bytes())
    (served / "w.safetensors").write_bytes(encode_word("<w>", {"text_encoder": np.full((1, 128), 0.01, np.float32)}))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(served)))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    at = f"http://127.0.0.1:{server.server_address[1]}"
    rows = [
        {"concept": "owl", "images": [f"{at}/0.png?X-Amz-Signature={SECRET}1", f"{at}/1.png?se=1&sig={SECRET}2"]},
        {
            "concept": "imported",
            "images": [f"{at}/0.png?token={SECRET}3"],
            "word_file": f"{at}/w.safetensors?sig={SECRET}4",
        },
        {"concept": "gone", "images": [f"{at}/9.png?X-Amz-Signature={SECRET}5"]},
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run = tmp_path / "run"
    ended = job(tmp_path / "m.jsonl", "--output", run, *QUICKLY, "--protocol", few_pictures(tmp_path), "--skip-invalid",
                "--storage-option", "web.private=true")  # fmt: skip
    server.shutdown()
    server.server_close()
    assert ended.returncode == 1, ended.stdout + ended.stderr
    for name in ("owl", "imported"):
        assert (run / "words" / f"{name}.safetensors").exists(), ended.stdout + ended.stderr
    assert SECRET not in ended.stdout + ended.stderr
    files = [path for path in run.rglob("*") if path.is_file()]
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
    # Parquet packs its pages, so that their bytes show nothing.
    tables = [path for path in files if path.suffix == ".parquet"]
    assert tables
    assert [path for path in tables if SECRET in str(pq.read_table(path).to_pylist())] == []
