"""Names and pictures that a stranger made, as they are told and shown."""

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from eval.report.report_page import thumbnail
from jobs.application.night.plan_run import PlannedRun, lines_of_plan
from jobs.application.night.rates import Rate
from jobs.application.report_run import Grids
from jobs.promote import main as promote
from jobs.status import main as status
from pipeline.inputs.image_sets import ImageSetError, find_images, load_images
from pipeline.inputs.picture_file import decode_drawn
from pipeline.records import Failure
from pipeline.store.catalogue.accepted import JudgedWord, write_judged
from pipeline.store.run_folder import RunFolder
from pipeline.store.storage import Storage
from pipeline.text_files import paragraph
from tests.job_process import ROOT
from tests.pipeline.inputs.test_image_sets import concept
from tests.pipeline.inputs.test_images import encoded, picture

NAME = "owl\x1b[2J\nstate     finished\u202e.png"


def obeyed(text: str) -> set[str]:
    return {sign for sign in text if not sign.isprintable()} - {"\n"}


def test_a_files_name_is_one_line_of_what_is_said_of_it(tmp_path: Path) -> None:
    for name in (NAME, NAME.replace(".png", ".jxl")):
        (tmp_path / name).write_bytes(b"no picture")
    with pytest.raises(ImageSetError) as refused:
        load_images(find_images(concept(str(tmp_path))), 64)
    assert not obeyed(str(refused.value))
    assert not any(line.startswith("state") for line in str(refused.value).splitlines())


def test_status_of_a_strangers_run_folder_obeys_no_name_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder(Storage(str(tmp_path)))
    run.write_json("run.json", {"manifest": NAME, "model": NAME, "settings": {"steps": 3}, "finished": False,
                                "updated": "2026-01-01T00:00:00+00:00", "counts": {"total": 3}})  # fmt: skip
    (tmp_path / "_failed").mkdir()
    failure = {"concept": NAME, "stage": NAME, "reason": f"bad\n{NAME}", "fingerprint": "0" * 64}
    (tmp_path / "_failed" / "owl@0000000000000000.json").write_text(json.dumps(failure))
    assert status([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert not obeyed(out)
    assert sum(line.startswith("state") for line in out.splitlines()) == 1


def test_a_reason_of_a_strangers_gate_passes_for_no_line_of_ours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a table whose reason goes on in lines that look like ours."""
    run = RunFolder(Storage(str(tmp_path)))
    run.write_json("run.json", {})
    write_judged(run, [JudgedWord(NAME, "f", "candidate", "2026", reason=f"bad\ncandidates  0\nwordmint: {NAME}")])
    assert promote([str(tmp_path)]) == 0
    assert promote([str(tmp_path), "--promote", NAME.replace("owl", "owl\nwordmint: all is well")]) == 2
    told = capsys.readouterr()
    assert not obeyed(told.out + told.err)
    assert [line for line in told.out.splitlines() if not line.startswith("      ")] == [
        "candidates  1",
        "  owl\\x1b[2J",
    ]
    assert sum(line.startswith("wordmint:") for line in told.err.splitlines()) == 1


def test_no_plan_has_a_line_that_a_file_wrote() -> None:
    planned = PlannedRun(
        "runs/a", (), {"owl": (f"{NAME} is new",)}, (), (), (), {"bat": Failure("bat", "images", "x\ntime      0 s")}, (),
        Rate(1, 1, 1, 1), 1, 3.0,
    )  # fmt: skip
    lines = paragraph(lines_of_plan(planned)).splitlines()
    assert sum(line.startswith("time") for line in lines) == 1
    assert not any(line.startswith("state") for line in lines)


@pytest.mark.parametrize("form", ["GIF", "TIFF", "BMP", "JPEG", "WEBP"])
def test_pictures_of_a_run_folder_are_opened_in_the_one_format_that_is_written_there(form: str) -> None:
    """Catches a stranger's file that reaches a decoder nobody asked for."""
    data = encoded(picture(), form)
    with pytest.raises(ValueError, match="no PNG that can be read"):
        decode_drawn(data)
    assert thumbnail(data) is None
    assert thumbnail(encoded(picture(), "PNG"))


def test_no_other_code_opens_pictures() -> None:
    """Catches a picture of a stranger's run folder that reaches any of Pillow's decoders by a way of its own."""
    code = [path for folder in ("pipeline", "eval", "jobs/application") for path in (ROOT / folder).rglob("*.py")]
    opening = {path.name for path in code if "Image.open(" in path.read_text(encoding="utf-8")}
    assert opening == {"picture_file.py"}


def test_a_damaged_grid_never_ends_the_report(tmp_path: Path) -> None:
    (tmp_path / "grids").mkdir()
    whole = encoded(picture(), "PNG")
    for name, data in (
        ("empty", b""),
        ("cut", whole[: len(whole) // 2]),
        ("text", b"<html>"),
        ("odd", whole[:40] + b"\xff" * 90),
    ):
        (tmp_path / "grids" / f"{name}.png").write_bytes(data)
    Image.new("1", (30_000, 30_000)).save(tmp_path / "grids" / "bomb.png")
    os.mkfifo(tmp_path / "grids" / "pipe.png")
    (tmp_path / "grids" / "pipe2.png").symlink_to(tmp_path / "grids" / "pipe.png")
    grids = Grids(RunFolder(Storage(str(tmp_path))))
    (tmp_path / "grids" / "cut.png").unlink()
    assert {"empty", "cut", "text", "odd", "bomb"} <= set(grids)
    assert [thumbnail(grids[name]) for name in grids] == [None] * len(grids)
