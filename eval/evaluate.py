"""Scores every word of a run folder that is not yet scored under this protocol, model and CLIP.

    samples/*.parquet -> scores/*.parquet -> report/

A part of the scores is a function of the samples' parts that it stands for, and is one Ray task: pictures never reach
the driver.
"""

from collections.abc import Mapping


import pyarrow as pa
import pyarrow.compute as pc
import ray

from eval.clip import load_clip
from eval.scoring import score_concept
from eval.tables import SCORES, ScoredUnder, score_rows
from pipeline.protocols import Protocol
from pipeline.publish import part_path, plan_parts, read_table, write_table
from pipeline.randomness import numpy_generator
from pipeline.run_folder import RunFolder
from pipeline.tables import samples_of


def score_run(
    run: RunFolder, protocol: Protocol, model: str, model_digest: str, clip: str, *, cpus: float = 1, gpus: float = 0
) -> int:
    """Returns how many concepts were scored by this call; what is scored already is left alone."""
    parts = plan_parts(run, 0)
    score = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=3)(score_part)
    device = "cuda" if gpus else "cpu"
    return sum(
        ray.get(
            [
                score.remote(run, number, parts, protocol, model, model_digest, clip, device)
                for number in range(parts["scores"])
            ]
        )
    )


def score_part(
    run: RunFolder,
    number: int,
    parts: Mapping[str, int],
    protocol: Protocol,
    model: str,
    model_digest: str,
    clip: str,
    device: str,
) -> int:
    """Brings one part of `scores/` up to date with its parts of `samples/`."""
    path = part_path("scores", number, parts["scores"])
    scores = read_table(run, path)
    scorer = load_clip(clip, device)
    under = ScoredUnder.of(protocol, model, model_digest, scorer)
    tables = [] if scores is None else [scores]
    before = _scored(scores, under)
    current: dict[str, str] = {}
    fresh = 0
    for source in range(number, parts["samples"], parts["scores"]):
        samples = read_table(run, part_path("samples", source, parts["samples"]))
        if samples is None:
            continue
        for name in pc.unique(samples["concept"]).to_pylist():
            rows = samples.filter(pc.equal(samples["concept"], name))
            current[name] = rows["fingerprint"][0].as_py()
            if (name, current[name]) not in before:
                rng = numpy_generator(0, name, f"bootstrap {under.protocol}")
                tables.append(score_rows(current[name], score_concept(samples_of(rows), scorer, rng), under))
                fresh += 1
    if fresh:
        table = pa.concat_tables([some.cast(SCORES) for some in tables])
        still = [
            current.get(name) == print_
            for name, print_ in zip(table["concept"].to_pylist(), table["fingerprint"].to_pylist(), strict=True)
        ]
        write_table(run, path, table.filter(pa.array(still)).sort_by("concept"))
    return fresh


def _scored(scores: pa.Table | None, under: ScoredUnder) -> set[tuple[str, str]]:
    if scores is None:
        return set()
    mine = {field: getattr(under, field) for field in ("protocol", "model_digest", "clip_digest")}
    return {
        (row["concept"], row["fingerprint"]) for row in scores.select(["concept", "fingerprint", *mine]).to_pylist()
        if all(row[field] == value for field, value in mine.items())
    }  # fmt: skip
