"""The jobs as their users start them, each in a process of its own; and a finished run that many tests read."""

import csv
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from tests.pipeline.inputs.test_images import BAD, encoded, picture

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "jobs" / "demo"
PATIENCE = 600  # seconds any of these runs may take on a slow machine
QUICKLY = ("--steps", "8", "--slots", "2", "--workers", "1")
STEPS, GUIDANCE = 6, 5.0  # of the sampler


def write_manifest(folder: Path, names: list[str], images: str = str(DEMO / "images")) -> Path:
    path = folder / "manifest.csv"
    with path.open("w", newline="", encoding="utf-8") as opened:
        rows = csv.writer(opened)
        rows.writerow(["concept", "images", "class", "shop"])
        rows.writerows([name, f"{images}/{name}", "", "north"] for name in names)
    return path


def few_pictures(folder: Path, name: str = "few", edit: str = "a photo of {} at night") -> Path:
    """A protocol that draws little."""
    path = folder / f"{name}.toml"
    path.write_text(
        f'plain_images = 2\nedit_images = 1\nuntrained_images = 1\nsampler = "dpm++"\nsteps = {STEPS}\n'
        f'guidance = {GUIDANCE}\n[edits]\nobject = ["{edit}"]\n',
        encoding="utf-8",
    )
    return path


def job(
    *arguments: object, script: str = "invert_all.py", environment: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(ROOT / "jobs" / script), *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False, env={**os.environ, **(environment or {})},
    )  # fmt: skip


def table(run: Path, name: str) -> pd.DataFrame:
    return pd.concat([pq.read_table(part).to_pandas() for part in sorted((run / name).glob("*.parquet"))])


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """LEARNED concepts have a word; wrong: each of the others -> what is said of it.

    arguments: those of the command but for --log-format. events: what its log says. protocol: the file.
    """

    folder: Path
    protocol: Path
    arguments: tuple[str, ...]
    events: list[dict[str, Any]]
    wrong: dict[str, str]


LEARNED = ["mixed", "owl"]
CLASSES = {"owl": "bird"}


def finish_run(folder: Path) -> FinishedRun:
    """One concept that can be learned; one for each thing that can be wrong with images; one that has all of these and
    is learned from its good pictures.
    """
    (folder / "no-folder-but-a-file").write_bytes(b"x")
    wrong = {
        "nowhere": "no such file, nor a folder", "matches-nothing": "matches no picture", "no-such-file": "no such file",
        "an-unknown-store": "nothing is known of nfs4",
    }  # fmt: skip
    rows: dict[str, str] = {
        "owl": str(DEMO / "images" / "owl"), "nowhere": "nowhere", "matches-nothing": "*.xyz",
        "an-unknown-store": "nfs4://x/y", "no-such-file": "gone.png",
    }  # fmt: skip
    for number, (make, said) in enumerate(BAD.values()):
        for kind in (f"{number}", f"mixed-{number}"):
            (folder / kind).mkdir()
            (folder / kind / "picture.jpg").write_bytes(make())
        rows[f"bad-{number}"], wrong[f"bad-{number}"] = str(number), said.replace("\\", "")
        (folder / f"mixed-{number}" / "good.png").write_bytes(encoded(picture(size=(64, 64 + number))))
    rows["mixed"] = json.dumps([f"mixed-{number}/*" for number in range(len(BAD))])
    manifest = folder / "manifest.jsonl"
    manifest.write_text(
        "\n".join(
            json.dumps({"concept": name, "images": images, "shop": "north", "class": CLASSES.get(name)})
            for name, images in rows.items()
        ),
        encoding="utf-8",
    )
    protocol = few_pictures(folder)
    arguments = (
        str(manifest),
        "--output",
        str(folder / "run"),
        *QUICKLY,
        "--protocol",
        str(protocol),
        "--skip-invalid",
    )
    ended = job(*arguments, "--log-format", "json")
    assert ended.returncode == 1, ended.stdout + ended.stderr
    return FinishedRun(
        folder / "run", protocol, arguments, [json.loads(line) for line in ended.stdout.splitlines()], wrong
    )
