"""Many scenes on disk: the pictures as one array, a line of JSON for each scene and its caption."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from jobs.mini.recipe.scenes import Scene


@dataclass(frozen=True, slots=True)
class Pool:
    """pictures: uint8 (N, 64, 64, 3). scenes, captions: N each, what the pictures show and how it is said."""

    pictures: np.ndarray
    scenes: list[Scene]
    captions: list[str]


def save_pool(folder: Path, name: str, pool: Pool) -> None:
    np.save(folder / f"{name}.npy", pool.pictures)
    with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as lines:
        for scene, said in zip(pool.scenes, pool.captions, strict=True):
            lines.write(json.dumps({"caption": said, **asdict(scene)}) + "\n")


def load_pool(folder: Path, name: str) -> Pool:
    """The pictures are mapped from the file, not read."""
    rows = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    captions = [row.pop("caption") for row in rows]
    scenes = [Scene(tuple(row.pop("things")), tuple(row.pop("drawings")), **row) for row in rows]
    return Pool(np.load(folder / f"{name}.npy", mmap_mode="r"), scenes, captions)
