"""Draws and scores the pairs of a run whose words are scored: one Ray task per part, which draws only missing pictures.

embeddings/ + features/ -> pairs/<protocol>/pictures/*.parquet -> pairs/<protocol>/scores-<judge>/*.parquet
"""

import functools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import torch
from PIL import Image

from eval.judges.judge import load_scorer
from eval.pairs.meeting import Meeting, meetings_of
from eval.pairs.pair_pictures import HELD, PAIR_PICTURES, PairRequest, draw_pairs, pair_requests
from eval.pairs.presence import PairScore, pair_score, view_similarities
from eval.scores.confusion import FEATURES, features_of
from eval.scores.drawn_pictures import LearnedWord, learned_words, loaded
from eval.scores.score_run import TRIES, Judgement
from eval.scores.score_tables import ScoredUnder, with_nan, without_nan
from pipeline.inputs.picture_file import decode_drawn
from pipeline.records import Concept, Failure
from pipeline.store.parts import part_path, read_layout, read_parts, read_table, write_table
from pipeline.store.run_folder import RunFolder, shard_of
from pipeline.store.run_tables import EMBEDDINGS, KEY

OF_CONCEPTS = ("concept", "fingerprint", "placeholder", "initializer", "class", "kind", "carried")
PAIR_SCORES = pa.schema([
    *KEY, ("partner", pa.string()), ("partner_fingerprint", pa.string()), ("template", pa.string()), ("n", pa.int64()),
    *((each.name, pa.float64()) for each in fields(PairScore)[4:]),
])  # fmt: skip
SHOWN = ["concept", "fingerprint", "partner", "partner_fingerprint", "template", "held", "index", "seed"]


@dataclass(frozen=True, slots=True)
class Word:
    """A word without its vectors."""

    concept: Concept
    fingerprint: str


def score_pairs(
    run: RunFolder, judgement: Judgement, under: ScoredUnder, step: Callable[[int, int], None] = lambda *_: None
) -> tuple[Failure, ...]:
    """Draws and scores the protocol's pairs. Returns pairs that could not be drawn, and concepts without their partner.

    step: called with the number of pairs that are scored, and of all that are to be.
    """
    if not judgement.protocol.pairs or judgement.drawing is None:
        return ()
    parts = read_layout(run)
    words = _words(run, parts)
    meetings, failures = meetings_of(
        {name: word.concept for name, word in words.items()}, judgement.protocol, judgement.drawing.seed
    )
    by_part: dict[int, list[Meeting]] = defaultdict(list)
    for meeting in meetings:
        by_part[shard_of(meeting.a, parts["samples"])].append(meeting)
    todo = {number: some for number, some in by_part.items() if not _is_scored(run, number, parts, some, words, under)}
    if not todo:
        return failures
    training = _training_features(run, parts, under)
    scored = [[each for each in some if each.a in training and each.b in training] for some in todo.values()]
    gpus = 1 if judgement.device == "cuda" else 0
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=TRIES)(_score_part)
    pending = [
        task.remote(run, number, some, judgement, under, {name: training[name] for each in some for name in (each.a, each.b)})
        for number, some in zip(todo, scored, strict=True)
    ]  # fmt: skip
    total, done = sum(map(len, scored)), 0
    for part, some in zip(pending, scored, strict=True):
        undrawn: list[Failure] = ray.get(part)
        failures += tuple(undrawn)
        step(done := done + len(some), total)
    return failures


def scores_folder(under: ScoredUnder) -> str:
    return f"pairs/{under.protocol}/scores-{under.clip_digest[:12]}"


def pictures_folder(protocol_label: str) -> str:
    return f"pairs/{protocol_label}/pictures"


def read_pair_scores(run: RunFolder, under: ScoredUnder) -> dict[Meeting, PairScore]:
    """The rows of the run's present words."""
    parts = read_layout(run)
    words = _words(run, parts)
    rows = read_parts(run, scores_folder(under), parts["samples"], PAIR_SCORES).to_pylist()
    return {Meeting(each.concept, each.partner, each.template): each for each in _scores_of(rows, words)}


def read_pair_pictures(run: RunFolder, under: ScoredUnder, meeting: Meeting) -> list[dict[str, Any]]:
    """The rows of PAIR_PICTURES of one meeting, by the words they hold and their index."""
    parts = read_layout(run)["samples"]
    table = read_table(run, part_path(pictures_folder(under.protocol), shard_of(meeting.a, parts), parts))
    rows = [] if table is None else _of_meeting(table, meeting).to_pylist()
    return sorted(rows, key=lambda row: (HELD.index(row["held"]), row["index"]))


def _score_part(
    run: RunFolder,
    number: int,
    meetings: Sequence[Meeting],
    judgement: Judgement,
    under: ScoredUnder,
    training: Mapping[str, np.ndarray],
) -> list[Failure]:
    """training: concept -> the mean feature (D,) of its training images."""
    torch.set_num_threads(1)
    parts = read_layout(run)
    words = _with_vectors(run, parts, {name for meeting in meetings for name in (meeting.a, meeting.b)})
    path = part_path(pictures_folder(under.protocol), number, parts["samples"])
    stored = read_table(run, path)
    table = PAIR_PICTURES.empty_table() if stored is None else stored.cast(PAIR_PICTURES)
    there = {tuple(row[name] for name in SHOWN) for row in table.select(SHOWN).to_pylist()}
    kept, failures, scores = [], [], []
    scorer = load_scorer(judgement.clip, judgement.device)
    for meeting in meetings:
        try:
            missing = _missing(meeting, words, judgement, there)
            drawn = _drawn(missing, words, judgement) if missing else PAIR_PICTURES.empty_table()
            mine = _of_words(pa.concat_tables([_of_meeting(table, meeting), drawn]), meeting, words)
            pictures = {held: _opened(mine, held) for held in HELD}
        except ValueError as error:  # a prompt that does not fit, or a damaged picture
            failures.append(Failure(meeting.a, "sampling", f"beside {meeting.b}: {error}"))
            continue
        kept.append(mine)
        means = np.stack([training[meeting.a], training[meeting.b]])
        similarities = {held: view_similarities(pictures[held], means, scorer) for held in HELD}
        scores.append({
            **without_nan(asdict(pair_score(meeting, similarities))),
            "fingerprint": words[meeting.a].fingerprint, "partner_fingerprint": words[meeting.b].fingerprint,
        })  # fmt: skip
    write_table(run, path, pa.concat_tables([PAIR_PICTURES.empty_table(), *kept]))
    target = part_path(scores_folder(under), number, parts["samples"])
    write_table(run, target, pa.Table.from_pylist(scores, PAIR_SCORES))
    return failures


def _missing(
    meeting: Meeting, words: Mapping[str, LearnedWord], judgement: Judgement, there: set[Any]
) -> list[PairRequest]:
    assert judgement.drawing is not None
    a, b = words[meeting.a], words[meeting.b]
    requests = pair_requests(meeting, a.concept, b.concept, judgement.protocol, judgement.drawing.seed)
    key = (meeting.a, a.fingerprint, meeting.b, b.fingerprint, meeting.template)
    return [each for each in requests if (*key, each.held, each.index, each.seed) not in there]


def _drawn(requests: Sequence[PairRequest], words: Mapping[str, LearnedWord], judgement: Judgement) -> pa.Table:
    assert judgement.drawing is not None
    return draw_pairs(loaded(judgement.drawing), requests, words, judgement.protocol, judgement.drawing.resolution)


def _opened(rows: pa.Table, held: str) -> list[Image.Image]:
    pictures = rows.filter(pc.equal(rows["held"], held)).sort_by("index")["image"].to_pylist()
    return [decode_drawn(each["bytes"] or b"") for each in pictures]


def _of_meeting(table: pa.Table, meeting: Meeting) -> pa.Table:
    for column, value in (("concept", meeting.a), ("partner", meeting.b), ("template", meeting.template)):
        table = table.filter(pc.equal(table[column], value))
    return table


def _of_words(table: pa.Table, meeting: Meeting, words: Mapping[str, LearnedWord]) -> pa.Table:
    """The table without pictures of words that have been learned again since."""
    table = table.filter(pc.equal(table["fingerprint"], words[meeting.a].fingerprint))
    return table.filter(pc.equal(table["partner_fingerprint"], words[meeting.b].fingerprint))


def _is_scored(
    run: RunFolder,
    number: int,
    parts: Mapping[str, int],
    meetings: Sequence[Meeting],
    words: Mapping[str, Word],
    under: ScoredUnder,
) -> bool:
    table = read_table(run, part_path(scores_folder(under), number, parts["samples"]))
    scores = [] if table is None else _scores_of(table.to_pylist(), words)
    return {(each.concept, each.partner, each.template) for each in scores} >= {
        (each.a, each.b, each.template) for each in meetings
    }


def _scores_of(rows: Sequence[Mapping[str, Any]], words: Mapping[str, Word]) -> list[PairScore]:
    names = [each.name for each in fields(PairScore)]
    return [
        PairScore(**with_nan({name: row[name] for name in names}))
        for row in rows
        if all(
            row[name] in words and words[row[name]].fingerprint == row[digest]
            for name, digest in (("concept", "fingerprint"), ("partner", "partner_fingerprint"))
        )
    ]


def _training_features(run: RunFolder, parts: Mapping[str, int], under: ScoredUnder) -> dict[str, np.ndarray]:
    table = read_parts(run, "features", parts["scores"], FEATURES)
    made = pc.and_(pc.equal(table["protocol"], under.protocol), pc.equal(table["clip_digest"], under.clip_digest))
    return {name: each.training for name, each in features_of(table.filter(made)).items()}


def _words(run: RunFolder, parts: Mapping[str, int]) -> dict[str, Word]:
    table = read_parts(run, "embeddings", parts["embeddings"], pa.schema([EMBEDDINGS.field(n) for n in OF_CONCEPTS]))
    return {
        row["concept"]: Word(
            Concept(
                name=row["concept"], images=(), placeholder=row["placeholder"], initializer=row["initializer"] or None,
                noun=row["class"], kind=row["kind"], carried=dict(row["carried"] or ()),
            ),
            row["fingerprint"],
        )
        for row in table.to_pylist()
    }  # fmt: skip


def _with_vectors(run: RunFolder, parts: Mapping[str, int], names: set[str]) -> dict[str, LearnedWord]:
    read = functools.cache(lambda number: learned_words(run, number, parts))
    return {name: read(shard_of(name, parts["embeddings"]))[name] for name in names}
