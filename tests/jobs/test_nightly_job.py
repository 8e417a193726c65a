"""jobs/nightly.py: one command a night, and who is told of it."""

import json
import re
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import jobs.invert_all
import jobs.nightly
from jobs.api import RunResult
from jobs.application.night.alerts import AlertError, Alerts
from jobs.nightly import main
from tests.job_process import DEMO, few_pictures


class Receiver:
    """A web server that keeps what it was sent. url: its address."""

    def __init__(self) -> None:
        self.got: list[tuple[str, str, str]] = []
        self.code = 200
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def take(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                outer.got.append((self.command, self.path, body))
                self.send_response(outer.code)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_POST = do_PUT = take  # noqa: N815 - the handler's own names

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def told(self) -> dict[str, Any]:
        ((method, _, body),) = self.got
        assert method == "POST"
        return dict(json.loads(body))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.server.shutdown()
    made.server.server_close()


def figures(path: Path) -> dict[str, float]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return {name: float(value) for name, value in (line.split() for line in lines if not line.startswith("#"))}


def test_a_night_that_cannot_start_is_told_with_its_reason(
    tmp_path: Path, receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches the night on which the manifest was gone and nobody heard of it."""
    code = main([
        str(tmp_path / "gone.csv"), "--output", str(tmp_path / "run"), "--webhook", f"{receiver.url}/hook-secret",
        "--prometheus", str(tmp_path / "night.prom"),
    ])  # fmt: skip
    assert code == 2
    told = receiver.told()
    assert told["exit_code"] == 2
    assert "nothing was started" in told["text"]
    assert "gone.csv" in told["text"]
    assert figures(tmp_path / "night.prom")["wordmint_night_exit_code"] == 2
    said = capsys.readouterr()
    assert "hook-secret" not in said.out + said.err


def test_a_receiver_that_refuses_is_said_without_its_address(
    tmp_path: Path, receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    receiver.code = 500
    assert (
        main(
            [str(tmp_path / "gone.csv"), "--output", str(tmp_path / "run"), "--webhook", f"{receiver.url}/hook-secret"]
        )
        == 2
    )
    said = capsys.readouterr().err
    assert "nobody was told: --webhook: the server answered 500" in said
    assert "hook-secret" not in said
    with pytest.raises(AlertError, match="--webhook: the server was not reached"):
        Alerts("http://127.0.0.1:9/secret").send("x")


def test_a_pushgateway_that_is_away_does_not_keep_the_webhook_from_being_told(
    tmp_path: Path, receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    away = "http://127.0.0.1:9/metrics/job/wordmint"
    code = main([
        str(tmp_path / "gone.csv"), "--output", str(tmp_path / "run"), "--webhook", receiver.url, "--prometheus", away
    ])  # fmt: skip
    assert code == 2
    assert receiver.told()["exit_code"] == 2
    assert "the figures of this night were not delivered: --prometheus: the server was" in capsys.readouterr().err


def test_a_comparison_that_breaks_off_ends_with_code_3_and_is_told(
    tmp_path: Path, receiver: Receiver, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a night that is stopped, or breaks, after its words are learned, and of which nobody hears."""
    (tmp_path / "manifest.csv").write_text("concept,images\nowl,owl/\n", encoding="utf-8")
    shutil.copytree(DEMO / "images" / "owl", tmp_path / "owl")
    learned = RunResult(str(tmp_path / "run"), {"owl": "f"}, {}, 1.0)
    monkeypatch.setattr(jobs.invert_all, "invert", lambda *_: learned)
    for error, said in ((KeyboardInterrupt(), "was cut short."), (RuntimeError("worker gone"), "worker gone")):
        receiver.got.clear()

        def broken(*_: object, error: BaseException = error) -> None:
            raise error

        monkeypatch.setattr(jobs.nightly, "evaluate", broken)
        assert main([
            str(tmp_path / "manifest.csv"), "--output", str(tmp_path / "run"), "--webhook", receiver.url
        ]) == 3  # fmt: skip
        told = receiver.told()
        assert told["exit_code"] == 3
        assert said in told["text"]
        assert "the words are learned" in capsys.readouterr().err


def test_the_plan_of_a_night_sets_bad_rows_aside_as_the_night_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a plan that is refused for a row that would cost the night nothing."""
    shutil.copytree(DEMO / "images" / "owl", tmp_path / "owl")
    (tmp_path / "manifest.csv").write_text("concept,images\nowl,owl/\n??,owl/\n", encoding="utf-8")
    options = ["--output", str(tmp_path / "run"), "--price-per-hour", "2", "--plan"]
    assert main([str(tmp_path / "manifest.csv"), *options]) == 0
    said = capsys.readouterr().out
    assert "new       1: owl" in said
    assert "line 3: line 3" in said
    assert re.search(r"money     about \d+\.\d\d, at 2 an hour and worker", said)
    assert main([str(tmp_path / "manifest.csv"), *options, "--group-by", "shop"]) == 2
    assert "there is no column 'shop' to group by" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "address",
    ["http://me:secret@127.0.0.1:9/x", "http://127.0.0.1:secret/x", "http://[::1/secret", "http://127.0.0.1/secret x", "http:///secret"],
)  # fmt: skip
def test_an_address_that_cannot_be_used_is_said_without_it(address: str) -> None:
    """Catches a traceback with the password in it, and a night that ends with the code of its traceback."""
    with pytest.raises(AlertError) as told:
        Alerts(address).send("x")
    with pytest.raises(AlertError) as said:
        Alerts(prometheus=address).export({})
    assert "secret" not in f"{told.value} {said.value}"


CALLS = {
    "<!channel>": "&lt;!channel&gt;", "<@U024BE7LH|bob>": "&lt;@\u200bU024BE7LH|bob&gt;", "@channel": "@\u200bchannel",
    "<http://evil.example|the report>": "&lt;http://evil.example|the report&gt;", "&lt;!here&gt;": "&amp;lt;!here&amp;gt;",
    "[the report](http://evil.example)": "[the report]\u200b(http://evil.example)",
    "![](http://evil.example/seen.png)": "![]\u200b(http://evil.example/seen.png)",
    "[a][1] [1]: http://evil.example": "[a]\u200b[1] [1]\u200b: http://evil.example",
}  # fmt: skip


@pytest.mark.parametrize("attack", CALLS)
def test_a_strangers_name_calls_nobody_in_a_chat_and_hides_no_address(
    attack: str, tmp_path: Path, receiver: Receiver
) -> None:
    """Catches a row of a manifest that rings the whole company, or a link that is another than it says."""
    assert main([f"{tmp_path}/{attack}.csv", "--output", str(tmp_path / "run"), "--webhook", receiver.url]) == 2
    said = receiver.told()
    assert CALLS[attack] in said["text"]
    for sign in ("<", ">", "@c", "](", "][", "]:"):
        assert sign not in said["text"]
    assert said["mrkdwn"] is said["unfurl_links"] is said["unfurl_media"] is False


def test_a_long_text_of_signs_is_cut_between_signs(receiver: Receiver) -> None:
    Alerts(receiver.url).send("&" * 100_000)
    assert receiver.told()["text"] == "&amp;" * 3000


def test_figures_go_to_a_pushgateway_as_prometheus_reads_them(receiver: Receiver) -> None:
    Alerts(prometheus=f"{receiver.url}/metrics/job/wordmint").export(
        {"wordmint_night_done": 3, "wordmint_night_seconds": 1.5}
    )
    ((method, path, body),) = receiver.got
    assert (method, path) == ("PUT", "/metrics/job/wordmint")
    assert all(re.fullmatch(r"# (HELP|TYPE) \w+ .+|\w+ [0-9.]+", line) for line in body.splitlines())
    assert "wordmint_night_seconds 1.5\n" in body


@pytest.mark.long
def test_two_nights_in_one_command_each(tmp_path: Path, receiver: Receiver, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a night whose parts do not agree, an alert for a good night, and none for a bad one."""
    shutil.copytree(DEMO / "images" / "owl", tmp_path / "owl")
    manifest, prom = tmp_path / "manifest.jsonl", tmp_path / "night.prom"

    def night(name: str, rows: dict[str, str], *more: str) -> int:
        lines = [json.dumps({"concept": each, "images": images, "shop": "north"}) for each, images in rows.items()]
        manifest.write_text("\n".join(lines), encoding="utf-8")
        return main([
            str(manifest), "--output", str(tmp_path / "run"), "--steps", "4", "--slots", "2", "--workers", "1", "--night", name,
            "--protocol", str(few_pictures(tmp_path)), "--webhook", receiver.url, "--prometheus", str(prom), "--group-by", "shop",
            *more,
        ])  # fmt: skip

    assert night("n1", {"owl": "owl"}, "--least-covered", "-1") == 0, capsys.readouterr()
    said = capsys.readouterr().out
    for line in (
        "new       1: owl",
        "gate      1 new word accepted",
        "night     n1: good",
        "1 concepts done, 0 failed",
    ):
        assert line in said
    assert receiver.got == []
    assert figures(prom)["wordmint_night_done"] == 1
    assert json.loads((tmp_path / "run" / "progress.json").read_text())["state"] == "finished"

    assert night("n2", {"owl": "owl", "cup": "owl", "gone": "nowhere"}, "--least-covered", "1") == 4
    told = receiver.told()
    assert told["exit_code"] == 4
    assert "cup: its pictures are" in told["text"]
    assert "1 failed" in told["text"]
    assert figures(prom)["wordmint_night_held"] == 1
    assert figures(prom)["wordmint_night_failed"] == 1
    assert sorted(path.name for path in (tmp_path / "run" / "words").iterdir()) == ["owl.safetensors"]
    assert sorted(path.name.split("@")[0] for path in (tmp_path / "run" / "history").iterdir()) == ["n1", "n2"]
