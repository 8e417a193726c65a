"""log.py: what a job says reaches every stream, whatever its encoding."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from jobs.cli.log import OURS, Log, show_log

SAID = "runs/\u732b \U0001f989 caf\xe9 \udcff"


def stream(encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")


def written(to: io.TextIOWrapper) -> str:
    to.flush()
    to.seek(0)
    return to.read()


@pytest.fixture(autouse=True)
def _loggers_as_they_were() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in OURS]
    before = [(each.handlers, each.propagate, each.level) for each in loggers]
    yield
    for each, (handlers, propagate, level) in zip(loggers, before, strict=True):
        each.handlers, each.propagate = handlers, propagate
        each.setLevel(level)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "shift_jis", "utf-8", "utf-16"])
def test_a_stream_that_cannot_hold_a_sign_gets_it_escaped(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a run that ends because a path has a cat in it and the container no UTF-8 locale."""
    for name, say in (("stdout", Log.say), ("stderr", Log.complain)):
        told: Any = say
        text, lines, logged = stream(encoding), stream(encoding), stream(encoding)
        monkeypatch.setattr(f"sys.{name}", text)
        told(Log(), "output", SAID)
        expected = SAID.encode(encoding, "backslashreplace").decode(encoding)
        assert written(text).removeprefix("wordmint: ") == f"{expected}\n"
        monkeypatch.setattr(f"sys.{name}", lines)
        told(Log("json"), "output", SAID, url=SAID)
        assert json.loads(written(lines))["url"] == SAID
        monkeypatch.setattr("sys.stderr", logged)
        show_log()
        logging.getLogger("jobs.anything").warning(SAID)
        assert written(logged) == f"wordmint: {expected}\n"


ATTACKS = "owl\x1b[2J\x1b]0;title\x07\r\x08\x9b31m\u202egnp.exe\u2066.png"


@pytest.mark.parametrize("format", ["text", "json"])
def test_nothing_that_a_terminal_obeys_reaches_it(format: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a picture's name that clears the screen, sets the title or turns the line around."""
    Log(format).say("output", f"{ATTACKS}\nsecond line", url=ATTACKS)
    Log(format).complain("output", ATTACKS)
    show_log(format)
    logging.getLogger("pipeline.anything").warning("%s", ATTACKS)
    out, err = capsys.readouterr()
    for said in (out, err):
        assert not {sign for sign in said if not sign.isprintable()} - {"\n"}
        assert "owl" in said
    assert format == "json" or "\nsecond line\n" in out


def test_a_logged_line_end_cannot_begin_a_message_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    show_log()
    logging.getLogger("pipeline.anything").warning("owl\nwordmint: finished, all done")
    assert capsys.readouterr().err == "wordmint: owl\n  wordmint: finished, all done\n"
