"""On what a benchmark ran: the machine, and the commit."""

import os
import platform
import subprocess
from pathlib import Path

import torch


def machine() -> str:
    processor = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            processor = line.split(":")[1].strip()
            break

    python, system = platform.python_version(), platform.system()
    return f"{processor}, {os.cpu_count()} cores, {system}, Python {python}, torch {torch.__version__}"


def commit() -> str:
    """ "unknown" outside a repository, or where there is no git."""
    try:
        said = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return said.stdout.strip() or "unknown"
