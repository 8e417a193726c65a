"""Signatures of URLs and secrets of options are struck out before anything is stored, logged, reported or raised."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jobs.application.night.alerts import Alerts
from jobs.application.requests import EvaluationRequest, PictureRequest, RunRequest
from jobs.application.starts.start_fit import FitRequest
from jobs.application.two_runs import DiffRequest
from jobs.cli.log import Log
from pipeline.inputs.manifest_problems import Problem, shortened
from pipeline.records import Concept, Failure, ImageSet, RejectedImage, Source, Word
from pipeline.scheduling.planning import _by_url, _digest
from pipeline.store.locations import parse_storage_options, without_credentials
from pipeline.store.run_folder import RunFolder
from pipeline.store.run_tables import embedding_rows, failure_rows
from pipeline.store.storage import Storage

SECRET = "s3cr3t-Value"
SIGNED = f"https://host/cat.png?X-Amz-Signature={SECRET}&size=1"


@pytest.mark.parametrize(
    "text",
    [
        SIGNED, f"https://h/a?sig={SECRET}", f"https://h/a?se=1&amp;sig={SECRET}", f"https://h/a?X-Goog-Signature={SECRET}",
        f"https://h/a?X-Amz-Security-Token={SECRET}", f"https://h/a?AWSAccessKeyId={SECRET}", f"https://h/a#access_token={SECRET}",
        f"https://h/a?GoogleAccessId={SECRET}", f"https://h/a?auth={SECRET}", f"https://h/a?jwt={SECRET};x=1",
        f"https://me:{SECRET}@h/a", f"https://{SECRET}@h/a", f"AccountName=a;AccountKey={SECRET};EndpointSuffix=b",
        f"SharedAccessSignature={SECRET}", f"Authorization: Bearer {SECRET}", f"authorization: Basic {SECRET}",
        f"https://me:pass@{SECRET}@h/a", f"s3://AKIA:ab/{SECRET}@bucket/a", f"https://me:{SECRET}/b@h/a", f"https://h/a?pass={SECRET}",
        f"https://h/a?hdnts=exp=1~hmac={SECRET}", f"https://h/?url=https%3A%2F%2Fg%2Fa%3Fx%3D1%26X-Amz-Signature%3D{SECRET}%26y%3D1",
    ],
)  # fmt: skip
def test_a_credential_is_struck_out_of_any_text(text: str) -> None:
    assert SECRET not in without_credentials(f"cannot read {text}: denied")


@pytest.mark.parametrize(
    "options",
    [
        {"connection_string": SECRET}, {"headers": {"Authorization": SECRET}}, {"sas_token": SECRET}, {"account_key": SECRET},
        {"client_kwargs": {"headers": {"authorisation": SECRET}}}, {"token": {"type": "x", "private": SECRET}}, {"pwd": SECRET},
        {"connectionString": SECRET}, {"passphrase": SECRET}, {"cookies": [SECRET]}, {"username": SECRET}, {"auth": ["me", SECRET]},
    ],
)  # fmt: skip
def test_the_value_of_an_option_that_is_secret_by_its_name_is_struck_out(options: dict[str, object]) -> None:
    assert SECRET not in without_credentials(f"the store said {SECRET!r}", options)


def test_what_is_no_secret_stays() -> None:
    options = {"endpoint_url": "http://minio:9000", "anon": True, "client_kwargs": {"region_name": "us-east-1"}}
    text = (
        "cannot read s3://bucket/a.png at http://minio:9000 in us-east-1: a basic error, a bearer of news, http://h:80/a@2x.png, "
        "http://[::1]:80/a@2x.png, ?url=https%3A%2F%2Fg%2Fa%3Fsize%3D1"
    )
    assert without_credentials(text, options) == text


@pytest.mark.parametrize("part", ["?key", "&?key", "%26key", "x://a:b", "?keysecret", "://", "Password ", "Bearer\n"])
def test_no_text_keeps_the_search_for_credentials_busy(part: str) -> None:
    """Catches a name or a cell of a few kilobytes for which an expression takes the cube of its length: hours."""
    text = part * (100_000 // len(part))
    assert without_credentials(text) == text


def test_no_record_of_a_request_shows_its_keys() -> None:
    """Catches a notebook that prints the request, keys and all."""
    options = {"secret": SECRET}
    for request in (
        RunRequest("m.csv", storage_options=options), EvaluationRequest(("run",), storage_options=options),
        PictureRequest("run", (), storage_options=options), DiffRequest("a", "b", storage_options=options),
        FitRequest("file", storage_options=options), Alerts(f"https://host/{SECRET}", f"https://host/{SECRET}"),
    ):  # fmt: skip
        assert SECRET not in repr(request)


def test_a_secret_in_another_spelling_is_struck_out() -> None:
    assert "b%2Fc" not in without_credentials("at ?x=ab%2Fcd%3D", {"secret": "ab/cd="})


def test_no_signature_is_in_a_words_row_or_in_a_failure(tmp_path: Path) -> None:
    """Catches a table that is published with the links by which everybody can fetch what they sign."""
    vectors = {"text_encoder": np.ones((1, 4), np.float32)}
    word = Word("owl", "<owl>", vectors, vectors, "", 1, "steps", 1e-3, 0.1, 1.0)
    sources = (Source(SIGNED, role="word"), Source(f"{SIGNED}&a=1", role="caption", picture=SIGNED))
    images = ImageSet(
        np.zeros((1, 8, 8, 3), np.uint8), (SIGNED,), ("d",), (RejectedImage(SIGNED, f"said {SIGNED}"),), sources
    )
    concept = Concept("owl", (), "<owl>", carried={"link": SIGNED}, word_file=SIGNED)
    failure = Failure("owl", "images", f"{SIGNED}: no word", fingerprint="f")
    run = RunFolder(Storage(str(tmp_path)))
    run.record_failure(failure)
    run.write_json("run.json", {"manifest": SIGNED, "deep": [{"a": SIGNED}]})
    stored = [json.dumps(embedding_rows(concept, "f", word, images).to_pylist(), default=str)]
    stored += [json.dumps(failure_rows([failure]).to_pylist())]
    stored += [path.read_text() for path in tmp_path.rglob("*.json")]
    assert len(stored) == 4
    for text in stored:
        assert "host/cat.png" in text
        assert SECRET not in text


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_signature_is_logged(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    Log(form).complain("x", f"cannot read {SIGNED}", url=SIGNED, failures={"owl": SIGNED})  # type: ignore[arg-type]
    assert SECRET not in capsys.readouterr().err
    assert SECRET not in str(Problem(1, "images", shortened(SIGNED), "is no picture"))


def test_a_file_is_known_again_by_its_url_without_the_signature_and_never_taken_for_another(tmp_path: Path) -> None:
    """Catches one file's digest taken for another's, where the stored URLs differ no more."""
    (tmp_path / "cat.png").write_bytes(b"cat")
    url = str(tmp_path / "cat.png")
    seen = Source(url, "version", "noted")
    assert (
        _digest(replace(seen, digest=""), _by_url([{"url": url, "identity": "version", "digest": "noted"}]), {})
        == "noted"
    )
    twice = [{"url": f"{SIGNED}", "identity": "v", "digest": each} for each in ("one", "other")]
    assert all(each.identity is None for each in _by_url(twice).values())


def test_options_come_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a key that every account of the machine sees among the arguments of the process."""
    from jobs.status import parser

    (tmp_path / "options").write_text(f"# of the bucket\nsecret={SECRET}\n\nendpoint_url=http://minio:9000\n")
    assert parse_storage_options([f"@{tmp_path / 'options'}", "anon=false"]) == {
        "secret": SECRET, "endpoint_url": "http://minio:9000", "anon": False,
    }  # fmt: skip
    monkeypatch.setenv("WORDMINT_STORAGE_OPTIONS", f"@{tmp_path / 'options'}")
    found = parser().parse_args(["run", "--storage-option", "anon=true"]).storage_option
    assert parse_storage_options(found) == {"secret": SECRET, "endpoint_url": "http://minio:9000", "anon": True}
