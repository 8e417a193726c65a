"""The summary of a run's pairs, one line per prompt, with the pictures of some pairs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from eval.pairs.meeting import Meeting
from eval.pairs.pair_run import read_pair_pictures, read_pair_scores
from eval.pairs.presence import PairScore
from eval.scores.metrics import interval
from eval.scores.score_tables import ScoredUnder, without_nan
from eval.scores.summary import Estimate
from pipeline.records import Sample
from pipeline.sampling.grid import draw_grid
from pipeline.store.run_folder import RunFolder

SHOWN = 12  # pairs with pictures on a page


@dataclass(frozen=True, slots=True)
class PairSummary:
    """A prompt with two words, over its pairs. All figures except the number of pairs are means over the pairs that have them.

    presence, alone, floor, noun: similarity to a word's training images of pictures with both words, with this word alone, with the
    other alone, and with two class nouns; means over both words. one_only: only_a and only_b. The others are those of PairScore.
    """

    template: str
    pairs: int
    both: Estimate
    both_alone: float
    both_nouns: float
    one_only: float
    told_apart: float
    presence: float
    alone: float
    floor: float
    noun: float


@dataclass(frozen=True, slots=True)
class Pairs:
    """lines: one a prompt. shown: scores of some pairs, the worst and the best among them, and a PNG of each."""

    lines: tuple[PairSummary, ...]
    shown: tuple[tuple[PairScore, bytes], ...]


def read_pairs(run: RunFolder, under: ScoredUnder) -> Pairs | None:
    """None for a run without pairs under these conditions."""
    scores = read_pair_scores(run, under)
    if not scores:
        return None
    shown = [(scores[meeting], pair_sheet(run, under, meeting)) for meeting in _some(scores)]
    return Pairs(summarise_pairs(list(scores.values())), tuple(shown))


def summarise_pairs(scores: Sequence[PairScore]) -> tuple[PairSummary, ...]:
    by_template: dict[str, list[PairScore]] = {}
    for score in scores:
        by_template.setdefault(score.template, []).append(score)
    return tuple(_summary(template, by_template[template]) for template in sorted(by_template))


def pairs_json(pairs: Pairs) -> list[dict[str, Any]]:
    """The lines for report/summary.json, without nan."""
    return [{**without_nan(asdict(line)), "both": without_nan(asdict(line.both))} for line in pairs.lines]


def pair_sheet(run: RunFolder, under: ScoredUnder, meeting: Meeting) -> bytes:
    """A PNG with a row of pictures with both words, and a row for each reference sentence; b"" if one of them is damaged."""
    rows = read_pair_pictures(run, under, meeting)
    samples = [
        Sample(row["concept"], "edit", row["prompt"], "", row["index"], row["seed"], row["image"]["bytes"])
        for row in rows
    ]
    try:
        return draw_grid(f"{meeting.a} and {meeting.b}", samples)
    except ValueError:
        return b""


def _summary(template: str, scores: Sequence[PairScore]) -> PairSummary:
    def values(*names: str) -> np.ndarray:
        numbers = np.array([getattr(score, name) for score in scores for name in names], np.float64)
        return numbers[~np.isnan(numbers)]

    def mean(*names: str) -> float:
        numbers = values(*names)
        return float(numbers.mean()) if len(numbers) else float("nan")

    both = values("both")
    low, high = np.clip(interval(both, np.random.default_rng(0)), 0, 1).tolist()
    return PairSummary(
        template, len(scores), Estimate(mean("both"), low, high, len(both)),
        mean("both_alone"), mean("both_nouns"), mean("only_a") + mean("only_b"), mean("told_apart"),
        mean("presence_a", "presence_b"), mean("alone_a", "alone_b"), mean("floor_a", "floor_b"),
        mean("noun_a", "noun_b"),
    )  # fmt: skip


def _some(scores: dict[Meeting, PairScore]) -> list[Meeting]:
    """At most SHOWN pairs, evenly spaced from the highest share of `both` to the lowest."""
    ranked = sorted(scores, key=lambda each: (-np.nan_to_num(scores[each].both, nan=-1), each.a, each.b, each.template))
    count = min(SHOWN, len(ranked))
    return [ranked[round(place * (len(ranked) - 1) / max(1, count - 1))] for place in range(count)]
