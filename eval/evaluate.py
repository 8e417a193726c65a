"""Scores every word of a run folder that is not yet scored under this protocol, model and CLIP.

    samples/*.parquet -> scores/*.parquet -> report/

A part of the scores is a function of the samples' parts that it stands for, and is one Ray task: pictures never reach
the driver.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

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


@dataclass(frozen=True, slots=True)
class Judgement:
    """How words are to be scored. model, clip: as they were asked for. device: where the CLIP runs."""

    protocol: Protocol
    model: str
    model_digest: str
    clip: str
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """fresh: concepts scored by this call; what was scored before is left alone. under: what all were scored by."""

    fresh: int
    under: ScoredUnder


def score_run(run: RunFolder, judgement: Judgement) -> Evaluation:
    """One Ray task for each part of `scores/`."""
    parts = plan_parts(run, 0)
    gpus = 1 if judgement.device == "cuda" else 0
    score = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=3)(score_part)
    done: list[Evaluation] = ray.get([score.remote(run, number, parts, judgement) for number in range(parts["scores"])])
    return Evaluation(sum(each.fresh for each in done), done[0].under)


def score_part(run: RunFolder, number: int, parts: Mapping[str, int], judgement: Judgement) -> Evaluation:
    """Brings one part of `scores/` up to date with its parts of `samples/`."""
    path = part_path("scores", number, parts["scores"])
    scores = read_table(run, path)
    scorer = load_clip(judgement.clip, judgement.device)
    under = ScoredUnder.of(judgement.protocol, judgement.model, judgement.model_digest, scorer)
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
        keys = zip(table["concept"].to_pylist(), table["fingerprint"].to_pylist(), strict=True)
        # Scores of a word that has been learned anew since are dropped here; a stranger's are kept.
        still = [current.get(name, print_) == print_ for name, print_ in keys]
        write_table(run, path, table.filter(pa.array(still)).sort_by("concept"))
    return Evaluation(fresh, under)


def _scored(scores: pa.Table | None, under: ScoredUnder) -> set[tuple[str, str]]:
    """(concept, fingerprint) of the rows made by just this protocol, model, CLIP and sampler."""
    mine = asdict(under).items()
    rows = [] if scores is None else scores.to_pylist()
    return {(row["concept"], row["fingerprint"]) for row in rows if all(row[key] == value for key, value in mine)}
