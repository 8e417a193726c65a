"""Checks a shell script of the cluster: bash syntax, and Slurm options that do not exist or come too late."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

# Options of sbatch(1), which reports an unknown option only when the job is submitted.
SBATCH = re.compile(
    r"#SBATCH --(account|begin|chdir|constraint|cpus-per-task|dependency|error|exclude|exclusive|export|gpus|gpus-per-node|gres|"
    r"job-name|mail-type|mail-user|mem|nice|nodelist|nodes|ntasks|ntasks-per-node|output|partition|qos|requeue|reservation|"
    r"signal|time|tmp)(=\S+)?"
)


def problems(path: Path) -> list[str]:
    """A sentence for each problem."""
    said = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, check=False).stderr
    lines = path.read_text(encoding="utf-8").splitlines()
    return [*said.splitlines(), *_slurm(lines), *_unsafe(path, lines)]


def _slurm(lines: list[str]) -> Iterator[str]:
    running = False
    for number, line in enumerate(lines, start=1):
        running = running or not re.match(r"#|\s*$", line)
        if line.startswith("#SBATCH") and running:
            yield f"line {number}: sbatch reads no options after the first command"
        if line.startswith("#SBATCH") and not SBATCH.fullmatch(line):
            yield f"line {number}: sbatch has no option {line.removeprefix('#SBATCH').strip()!r}"


def _unsafe(path: Path, lines: list[str]) -> Iterator[str]:
    strict = "set -eu" if lines[0].endswith("/sh") else "set -euo pipefail"
    if strict not in lines:
        yield f"{path.name}: without {strict!r} it goes on after an error"
