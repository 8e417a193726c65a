"""Scores the words of a run folder that are not yet scored under this protocol, model, CLIP and sampler.

    embeddings/ + samples/ -> (evaluations/) -> scores/ and features/

The pictures stream through Ray Data, one part of `samples/` at a time, to actors that hold the CLIP. Only counts return to
the driver. A part in which every word is scored costs no more than reading its small tables.
"""

import functools
import hashlib
import json
import logging
import warnings
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from eval.judges.judge import (
    OUTLINE,
    TIMM,
    TRANSFORMERS,
    VQA,
    AnsweringJudge,
    ClipScorer,
    Judge,
    PinsTokenizer,
    load_judge,
    load_scorer,
)
from eval.judges.outside_metric import MetricError, OutsideMetric
from eval.scores.confusion import FEATURES
from eval.scores.drawn_pictures import LearnedWord, RunModel, draw_missing, learned_words, pictures_of
from eval.scores.encoded import Encoded, encode_concept, without_features
from eval.scores.fragments import fragments, leave_fragment, take_in
from eval.scores.metric import Metric
from eval.scores.metric_table import expected_metrics, metric_of
from eval.scores.score_tables import SCORES, ScoredUnder, made_under, picture_rows, score_rows
from eval.scores.scoring import score_concept, score_metric
from eval.scores.stopping import cut, decide
from pipeline.protocols import Protocol
from pipeline.randomness import numpy_generator
from pipeline.records import Failure, Score
from pipeline.store.damaged import DamagedFileError, say_damaged
from pipeline.store.lease import lease
from pipeline.store.parts import conformed, part_path, read_layout, read_table
from pipeline.store.run_folder import RunFolder, shard_of

# Decoding PNGs keeps a core busy while the CLIP uses a small part of a GPU.
GPU_SHARE = 0.25
DAY = 24 * 60 * 60
FEATURES_OF = ["concept", "fingerprint", "protocol", "clip_digest"]
TRIES = 3  # attempts at a part whose actor dies; Ray Data's default is unlimited


@dataclass(frozen=True, slots=True)
class Judgement:
    """How words are to be scored.

    model, clip: names as the user gave them. The clip may be DINO ("timm:..."), which scores pictures only, or a vision-language
    model ("vqa:..."), which draws none and scores those that a judge before it had drawn.
    device: where the CLIP runs.
    drawing: how to draw pictures that the protocol needs and that are missing; None: the protocol's are in `samples/`.
    metrics: from outside, computed besides ours. keep_features: in `picture_features/`, of all pictures and texts.
    """

    protocol: Protocol
    model: str
    model_digest: str
    clip: str
    device: str = "cpu"
    drawing: RunModel | None = None
    metrics: tuple[OutsideMetric, ...] = ()
    keep_features: bool = False

    @property
    def reads_texts(self) -> bool:
        if self.clip.startswith(TRANSFORMERS):
            from eval.judges.transformers_folder import reads_texts

            return reads_texts(self.clip)
        return self.clip != OUTLINE and not self.clip.startswith((TIMM, VQA))

    @property
    def answers(self) -> bool:
        return self.clip.startswith(VQA)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """fresh: number of concepts scored by this call; earlier scores stay. under: the conditions of all scores.

    failures: words without a score, because the protocol's pictures cannot be drawn or scored; and words for which a metric from
    outside failed, once for each.
    """

    fresh: int
    under: ScoredUnder
    failures: tuple[Failure, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Left:
    """The concepts of a run, by name, that have no score under these conditions."""

    under: ScoredUnder
    names: tuple[str, ...]


def left_to_score(run: RunFolder, judgement: Judgement) -> Left:
    parts = read_layout(run)
    gpus = 1 if judgement.device == "cuda" else 0
    task = functools.partial(ray.remote, num_cpus=1, max_retries=TRIES)
    take_in_fragments(run, parts)
    under = ray.get(task(num_gpus=gpus)(conditions).remote(judgement, run))
    metrics = expected_metrics(judgement.protocol, judgement.reads_texts, judgement.answers, judgement.metrics)
    todo = ray.get([
        task()(unscored).remote(run, number, parts, under, metrics, judgement.keep_features)
        for number in range(parts["scores"])
    ])  # fmt: skip
    names = tuple(name for some in todo for name in some)
    return Left(under, names)


def score_run(
    run: RunFolder,
    judgement: Judgement,
    left: Left | None = None,
    drawn: Callable[[int, int], None] = lambda *_: None,
    scored: Callable[[int, int], None] = lambda *_: None,
) -> Evaluation:
    """left: as left_to_score found it; None finds it. What cannot be drawn or scored is among the failures.

    drawn, scored: called with the number of words that are, and of all that are to be.
    """
    left = left or left_to_score(run, judgement)
    under, names = left.under, left.names
    parts = read_layout(run)
    failures: tuple[Failure, ...] = ()
    if judgement.drawing and not judgement.answers:
        judge = functools.partial(load_scorer, judgement.clip, judgement.device)
        failures = draw_missing(run, names, parts, judgement.protocol, judgement.drawing, judge, drawn)
    fresh, unsuited = stream(run, names, parts, judgement, scored)
    take_in_fragments(run, parts)
    return Evaluation(fresh, under, failures + tuple(unsuited))


def take_in_fragments(run: RunFolder, parts: Mapping[str, int]) -> None:
    """Moves all fragments into the tables: those of this evaluation, and those of one that was interrupted.

    The driver does this, part by part: a part is a few megabytes, which takes less time than starting a process.
    """
    if not fragments(run):
        return
    with lease(run.storage, "scores") as storage:
        run = RunFolder(storage)
        # List again: the previous holder of the lease may have moved some of them into the parts.
        for part, names in fragments(run).items():
            take_in_part(run, part, names, parts)


def take_in_part(run: RunFolder, part: int, names: Sequence[str], parts: Mapping[str, int]) -> None:
    """Merges one part. run: of the lease on the tables. names: of its fragments."""
    words = read_table(run, part_path("embeddings", part, parts["embeddings"]), ["concept", "fingerprint"])
    rows = [] if words is None else words.to_pylist()
    take_in(run, part, names, parts, {row["concept"]: row["fingerprint"] for row in rows})


def stream(
    run: RunFolder,
    names: Sequence[str],
    parts: Mapping[str, int],
    judgement: Judgement,
    step: Callable[[int, int], None],
) -> tuple[int, list[Failure]]:
    """Scores these concepts into fragments; returns how many, and what could not be scored."""
    by_part: dict[int, list[str]] = defaultdict(list)
    for name in names:
        by_part[shard_of(name, parts["samples"])].append(name)
    if not by_part:
        return 0, []
    with warnings.catch_warnings():
        # Ray Data warns about its own defaults, and about any limit on attempts.
        warnings.simplefilter("ignore", DeprecationWarning)
        import ray.data  # imported here, because it takes a second and a night with nothing to score does not need it
        from ray.data import ActorPoolStrategy, DataContext

        logging.getLogger("ray.data").setLevel(
            logging.ERROR
        )  # silences its progress messages, and the message that they are off
        context = DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_no_progress_timeout_s = DAY  # a part with large pictures can take half an hour on a slow CPU
        items = [{"number": number, "names": json.dumps(some)} for number, some in sorted(by_part.items())]
        scored = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            Scorer,
            fn_constructor_args=(run, dict(parts), judgement),
            batch_size=1,
            compute=ActorPoolStrategy(min_size=1, max_size=len(items)),
            num_cpus=1,
            num_gpus=GPU_SHARE if judgement.device == "cuda" else None,
            max_restarts=-1,  # actors are restarted without limit, but the attempts at a part are limited
            max_task_retries=TRIES,
        )
        rows: list[dict[str, Any]] = []
        fresh = 0
        for row in scored.iter_rows():
            rows.append(row)
            fresh += row["fresh"]
            step(fresh, len(names))
    failures = [Failure(**each) for row in rows for each in json.loads(row["failures"])]
    return fresh, failures


class Scorer:
    """The CLIP in a Ray Data actor, which scores the pictures part by part."""

    def __init__(self, run: RunFolder, parts: Mapping[str, int], judgement: Judgement) -> None:
        self._run, self._parts, self._judgement = run, parts, judgement
        self._scorer = load_judge(judgement.clip, judgement.device)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        fresh, failures = [], []
        for number, names in zip(batch["number"].tolist(), batch["names"].tolist(), strict=True):
            count, failed = score_part(self._run, number, json.loads(names), self._parts, self._judgement, self._scorer)
            fresh.append(count)
            failures.append(json.dumps([asdict(each) for each in failed]))
        return {"fresh": fresh, "failures": failures}


def conditions(judgement: Judgement, run: RunFolder | None = None) -> ScoredUnder:
    """run: the folder that pins the CLIP's tokenizer. Raises ValueError, as `check_tokenizer` does."""
    scorer = load_judge(judgement.clip, judgement.device)
    if run is not None and isinstance(scorer, PinsTokenizer):
        pinned = {"clip": scorer.name, "tokenizer": scorer.tokenizer_digest}
        if not run.storage.create_exclusive(_tokenizer_path(scorer), json.dumps(pinned).encode()):
            check_tokenizer(run, scorer)
    return ScoredUnder.of(judgement.protocol, judgement.model, judgement.model_digest, scorer)


def check_tokenizer(run: RunFolder, scorer: Judge) -> None:
    """Raises ValueError if the run has scores of this CLIP that were made with another tokenizer.

    Scores are compared by the CLIP's fingerprint, which covers weights and preprocessing. The tokenizer is pinned beside the
    scores by the first evaluation.
    """
    if not isinstance(scorer, PinsTokenizer) or not run.storage.exists(_tokenizer_path(scorer)):
        return
    try:
        pinned = run.read_json(_tokenizer_path(scorer)).get("tokenizer")
    except DamagedFileError as error:
        say_damaged(_tokenizer_path(scorer), str(error))
        run.storage.delete(_tokenizer_path(scorer))
        return
    if pinned != scorer.tokenizer_digest:
        raise ValueError(
            f"CLIP {scorer.name!r} has another tokenizer now than this run was first scored with, so its scores could not be "
            f"compared: give the CLIP of then, or delete {_tokenizer_path(scorer)} and scores/ to score everything anew"
        )


def _tokenizer_path(scorer: Judge) -> str:
    return f"_judges/{scorer.fingerprint[:16]}.json"


def unscored(
    run: RunFolder,
    number: int,
    parts: Mapping[str, int],
    under: ScoredUnder,
    metrics: Collection[tuple[str, str | None]],
    features: bool = False,
) -> list[str]:
    """Concepts of one part of `embeddings/` whose present word lacks one of the metrics under these conditions.

    metrics: (name, version) each. features: those without a row in `picture_features/`, too.
    """
    words = read_table(run, part_path("embeddings", number, parts["embeddings"]), ["concept", "fingerprint"])
    if words is None:
        return []
    done = _scored(read_table(run, part_path("scores", number, parts["scores"])), under, metrics)
    pairs = zip(words["concept"].to_pylist(), words["fingerprint"].to_pylist(), strict=True)
    # A word of two text encoders has two rows.
    if features:
        kept = read_table(run, part_path("picture_features", number, parts["scores"]), FEATURES_OF)
        of = [] if kept is None else kept.to_pylist()
        mine = (under.protocol, under.clip_digest)
        done &= {(row["concept"], row["fingerprint"]) for row in of if (row["protocol"], row["clip_digest"]) == mine}
    return sorted({name for name, fingerprint in pairs if (name, fingerprint) not in done})


def score_part(
    run: RunFolder,
    number: int,
    names: Collection[str],
    parts: Mapping[str, int],
    judgement: Judgement,
    scorer: Judge,
) -> tuple[int, list[Failure]]:
    """Writes the scores of these concepts, all from one part of `samples/`, as a fragment.

    Returns the number scored and the failures.
    """
    part = number % parts["scores"]
    words = learned_words(run, number % parts["embeddings"], parts)
    under = ScoredUnder.of(judgement.protocol, judgement.model, judgement.model_digest, scorer)
    texts = scorer if isinstance(scorer, ClipScorer) else None
    seed = judgement.drawing.seed if judgement.drawing else None
    wanted = {name: words[name] for name in names}
    outside = [metric_of(each) for each in judgement.metrics]
    scores, features, failures = [SCORES.empty_table()], [FEATURES.empty_table()], []
    of_pictures: list[pa.Table] = []
    for word, samples in pictures_of(run, wanted, parts, judgement.protocol, seed):
        rng = numpy_generator(0, word.concept.name, f"bootstrap {under.protocol}")
        try:
            if isinstance(scorer, AnsweringJudge):
                scored = score_concept(without_features(samples, word.concept), scorer, rng)
                encoded = None
            else:
                encoded = encode_concept(samples, scorer)
                if judgement.protocol.until_ci:
                    encoded = cut(encoded, decide(encoded, texts, judgement.protocol))
                scored = score_concept(encoded, texts, rng)
                failures += _add_outside(scored, encoded, outside, rng)
        except ValueError as error:
            failures.append(Failure(word.concept.name, "scoring", str(error)))
            continue
        scores.append(score_rows(word.fingerprint, scored, under, judgement.protocol))
        if encoded is not None:
            features.append(_feature_row(word, encoded, under))
            if judgement.keep_features:
                of_pictures.append(picture_rows(word.concept, word.fingerprint, encoded, under, texts))
    if len(scores) > 1:
        digest = hashlib.sha256(repr((under, sorted(names))).encode()).hexdigest()[:12]
        leave_fragment(
            run,
            part,
            f"{number:05d}@{digest}",
            pa.concat_tables(scores),
            pa.concat_tables(features),
            pa.concat_tables(of_pictures) if of_pictures else None,
        )
    return len(scores) - 1, failures


def _add_outside(
    scored: list[Score], encoded: Encoded, outside: Sequence[Metric], rng: np.random.Generator
) -> list[Failure]:
    """Adds the scores of metrics from outside, and returns their failures, which cost the word no other score."""
    failures = []
    for metric in outside:
        try:
            scored += score_metric(encoded, metric, None, rng)
        except MetricError as error:
            failures.append(Failure(encoded.concept, "scoring", str(error)))
    return failures


def _feature_row(word: LearnedWord, encoded: Encoded, under: ScoredUnder) -> pa.Table:
    row = {
        "concept": word.concept.name, "fingerprint": word.fingerprint, "protocol": under.protocol, "clip": under.clip,
        "clip_digest": under.clip_digest, "training": encoded.of("training").mean(axis=0, dtype=np.float64),
        "samples": list(encoded.plain), "pictures": list(encoded.of("training")),
        "untrained": list(encoded.of("untrained", encoded.plain_prompt)),
    }  # fmt: skip
    return pa.Table.from_pylist([row], FEATURES)


def _scored(
    scores: pa.Table | None, under: ScoredUnder, metrics: Collection[tuple[str, str | None]]
) -> set[tuple[str, str]]:
    """(concept, fingerprint) of the words that have all metrics under these conditions. A new metric thus reaches old runs."""
    if scores is None:
        return set()
    mine = made_under(conformed(scores, SCORES), under)
    metrics_of: dict[tuple[str, str], set[tuple[str, str | None]]] = defaultdict(set)
    for name, fingerprint, metric, version in zip(
        *(mine[key].to_pylist() for key in ("concept", "fingerprint", "metric", "metric_version")), strict=True
    ):
        metrics_of[name, fingerprint].add((metric, version))
    return {word for word, present in metrics_of.items() if present.issuperset(metrics)}
