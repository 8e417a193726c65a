"""last_output.py: the last lines of a worker that is gone."""

from pathlib import Path

from pipeline.scheduling.last_output import end_of, last_output
from pipeline.scheduling.worker_interface import Pulse


def _pulse(file: Path) -> Pulse:
    return Pulse(0, 0, 1, {}, None, output=end_of(str(file)), output_file=str(file))


def test_short_last_lines_are_told_although_those_before_were_longer(tmp_path: Path) -> None:
    """Catches a stale pulse that is preferred because it holds more characters."""
    file = tmp_path / "worker.err"
    file.write_text("".join(f"{number} {'x' * 150}\n" for number in range(30)))
    pulse = _pulse(file)
    with file.open("a") as opened:
        opened.write("".join(f"short {number}\n" for number in range(20)) + "the GPU fell off the bus\n")
    assert "the GPU fell off the bus" in last_output(pulse)


def test_a_file_on_another_machine_is_told_from_the_last_pulse(tmp_path: Path) -> None:
    file = tmp_path / "worker.err"
    file.write_text("loading\n")
    pulse = _pulse(file)
    file.unlink()
    assert last_output(pulse) == "loading"
