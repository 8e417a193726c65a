"""Scores every word of a run folder that is not yet scored under this protocol, model, CLIP and sampler.

    embeddings/ + samples/ -> (evaluations/) -> scores/ and features/

A part of the scores is a function of the samples' parts that it stands for, and is one Ray task: pictures never reach
the driver, and a part in which every word is scored costs no more than reading its small tables.
"""

import functools
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from eval.clip import ClipScorer, load_clip
from eval.confusion import FEATURES
from eval.dino import PREFIX, load_timm
from eval.pictures import LearnedWord, RunModel, draw_missing, learned_words, pictures_of
from eval.scoring import Encoded, ImageScorer, encode_concept, score_concept
from eval.tables import SCORES, ScoredUnder, conformed, made_under, score_rows
from pipeline.protocols import Protocol
from pipeline.publish import part_path, plan_parts, read_table, write_table
from pipeline.randomness import numpy_generator
from pipeline.records import Failure
from pipeline.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class Judgement:
    """How words are to be scored.

    model, clip: as they were asked for; the clip may be DINO ("timm:..."), which scores pictures only.
    device: where the CLIP runs.
    drawing: how to draw what the protocol asks for and there is not; None takes `samples/` for the protocol's.
    """

    protocol: Protocol
    model: str
    model_digest: str
    clip: str
    device: str = "cpu"
    drawing: RunModel | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """fresh: concepts scored by this call; what was scored before is left alone. under: what all were scored by.

    failures: words without a score, because what the protocol asks for cannot be drawn or scored.
    """

    fresh: int
    under: ScoredUnder
    failures: tuple[Failure, ...] = field(default=())


def score_run(run: RunFolder, judgement: Judgement) -> Evaluation:
    parts = plan_parts(run, 0)
    gpus = 1 if judgement.device == "cuda" else 0
    task = functools.partial(ray.remote, num_cpus=1, max_retries=3)
    under = ray.get(task(num_gpus=gpus)(conditions).remote(judgement))
    todo = ray.get([task()(unscored).remote(run, number, parts, under) for number in range(parts["scores"])])
    failures: tuple[Failure, ...] = ()
    if judgement.drawing:
        names = [name for some in todo for name in some]
        failures = draw_missing(run, names, parts, judgement.protocol, judgement.drawing)
    score = task(num_gpus=gpus)(score_part)
    scored = ray.get([score.remote(run, number, some, parts, judgement) for number, some in enumerate(todo) if some])
    failures += tuple(failure for _, failed in scored for failure in failed)
    return Evaluation(sum(fresh for fresh, _ in scored), under, failures)


def conditions(judgement: Judgement) -> ScoredUnder:
    scorer = load_scorer(judgement.clip, judgement.device)
    return ScoredUnder.of(judgement.protocol, judgement.model, judgement.model_digest, scorer)


def unscored(run: RunFolder, number: int, parts: Mapping[str, int], under: ScoredUnder) -> list[str]:
    """Concepts of one part of `embeddings/` whose present word has no scores made by just this."""
    words = read_table(run, part_path("embeddings", number, parts["embeddings"]), ["concept", "fingerprint"])
    if words is None:
        return []
    done = _scored(read_table(run, part_path("scores", number, parts["scores"])), under)
    pairs = zip(words["concept"].to_pylist(), words["fingerprint"].to_pylist(), strict=True)
    # A word of two text encoders has two rows.
    return sorted({name for name, print_ in pairs if (name, print_) not in done})


def score_part(
    run: RunFolder, number: int, names: Collection[str], parts: Mapping[str, int], judgement: Judgement
) -> tuple[int, list[Failure]]:
    """Scores these concepts, all of one part; returns how many, and what could not be scored."""
    words = learned_words(run, number, parts)
    scorer = load_scorer(judgement.clip, judgement.device)
    under = ScoredUnder.of(judgement.protocol, judgement.model, judgement.model_digest, scorer)
    texts = scorer if isinstance(scorer, ClipScorer) else None
    seed = judgement.drawing.seed if judgement.drawing else None
    wanted = {name: words[name] for name in names}
    scores, features, failures = [SCORES.empty_table()], [FEATURES.empty_table()], []
    for word, samples in pictures_of(run, wanted, parts, judgement.protocol, seed):
        rng = numpy_generator(0, word.concept.name, f"bootstrap {under.protocol}")
        try:
            encoded = encode_concept(samples, scorer)
            scored = score_concept(encoded, texts, rng)
        except ValueError as error:
            failures.append(Failure(word.concept.name, "scoring", str(error)))
            continue
        scores.append(score_rows(word.fingerprint, scored, under, judgement.protocol))
        features.append(_feature_row(word, encoded, under))
    fresh = pa.concat_tables(scores)
    if len(fresh):
        _merge(run, part_path("scores", number, parts["scores"]), fresh, words, under)
        _merge(run, part_path("features", number, parts["scores"]), pa.concat_tables(features), words, under)
    return len(scores) - 1, failures


def load_scorer(name: str, device: str = "cpu") -> ImageScorer:
    """A CLIP by eval.clip's names, or DINO by eval.dino's."""
    return load_timm(name, device) if name.startswith(PREFIX) else load_clip(name, device)


def _merge(run: RunFolder, path: str, fresh: pa.Table, words: Mapping[str, LearnedWord], under: ScoredUnder) -> None:
    """Rows of words that have been learned anew since are dropped, and what `fresh` replaces; a stranger's are kept."""
    old = read_table(run, path)
    kept = fresh.schema.empty_table() if old is None else conformed(old, fresh.schema)
    replaced = set(fresh["concept"].to_pylist())
    mine = {name: value for name, value in asdict(under).items() if name in fresh.schema.names}
    still = [
        row["fingerprint"] == (words[row["concept"]].fingerprint if row["concept"] in words else row["fingerprint"])
        and not (row["concept"] in replaced and mine.items() <= row.items())
        for row in kept.select(["concept", "fingerprint", *mine]).to_pylist()
    ]
    table = pa.concat_tables([kept.filter(pa.array(still, pa.bool_())), fresh])
    write_table(run, path, table.sort_by("concept"))


def _feature_row(word: LearnedWord, encoded: Encoded, under: ScoredUnder) -> pa.Table:
    row = {
        "concept": word.concept.name, "fingerprint": word.fingerprint, "protocol": under.protocol, "clip": under.clip,
        "clip_digest": under.clip_digest, "training": encoded.of("training").mean(axis=0, dtype=np.float64),
        "samples": list(encoded.plain),
    }  # fmt: skip
    return pa.Table.from_pylist([row], FEATURES)


def _scored(scores: pa.Table | None, under: ScoredUnder) -> set[tuple[str, str]]:
    """(concept, fingerprint) of the rows made by just this; a version that knew no diversity left some to be made."""
    if scores is None:
        return set()
    mine = made_under(scores.filter(pc.equal(scores["metric"], "diversity")), under)
    return set(zip(mine["concept"].to_pylist(), mine["fingerprint"].to_pylist(), strict=True))
