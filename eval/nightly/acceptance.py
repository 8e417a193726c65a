"""Which of tonight's new words may become public: a rule for each word, and the test over all words that were learned again.

A word is held back if it has no score, if it is no better than an untrained word by `Rule.least` of the way to real pictures, or
if its reconstruction fell against the accepted word by more than `Rule.drop` and by more than twice what both words' 95 % intervals
over their pictures allow. If the test over all of them says that the words learned again are worse, all of these are held back.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from eval.nightly.gate import RATE, Comparison, Pairs, compare
from eval.scores.score_tables import ScoredUnder
from eval.scores.summary import ConceptSummary
from pipeline.store.catalogue.accepted import JudgedWord

# The intervals are over a word's pictures. Another seed makes another word, whose noise is about as large and is not in them.
WIDTH = 2.0
GATED = ("reconstruction", "editability")


@dataclass(frozen=True, slots=True)
class Rule:
    """drop: of one word's reconstruction. least: share of the way from the untrained word to real pictures. night_drop: as `drop`
    of `eval.nightly.gate.compare`.
    """

    drop: float = 0.05
    least: float = 0.1
    night_drop: float = 0.01


@dataclass(frozen=True, slots=True)
class Judged:
    """held: concept -> why its new word is not accepted. again: how many new words have an accepted word to compare with.

    comparisons: the test over these. worse: whether it holds all of them back. fewest: with fewer words it can raise no alarm.
    """

    held: Mapping[str, str]
    again: int
    comparisons: tuple[Comparison, ...]
    worse: bool
    fewest: int


def judge_words(words: Sequence[ConceptSummary], accepted: Mapping[str, JudgedWord], under: str, rule: Rule) -> Judged:
    """words: tonight's new ones. accepted: concept -> the public word. under: `digest_of` tonight's conditions; words that were
    scored under others are not compared.
    """
    before = {
        word.concept: old
        for word in words
        if (old := accepted.get(word.concept)) and old.scored_under == under and old.reconstruction is not None
    }
    again = [word for word in words if word.concept in before and not math.isnan(word.reconstruction)]
    pairs = [_pairs(metric, again, before) for metric in GATED]
    comparisons = compare(pairs, rule.night_drop) if again else ()
    worse = any(each.alarm for each in comparisons)
    held = {word.concept: why for word in words if (why := reason(word, before.get(word.concept), rule))}
    if worse:
        said = "; ".join(
            f"{each.metric} {each.before:.3f} -> {each.after:.3f}, p = {each.p:.2g}"
            for each in comparisons
            if each.alarm
        )
        held |= {
            word.concept: f"the {len(again)} words learned again are worse together ({said})"
            for word in again
            if word.concept not in held
        }
    return Judged(held, len(again), comparisons, worse, math.ceil(math.log2(len(GATED) / RATE)))


def reason(word: ConceptSummary, before: JudgedWord | None, rule: Rule) -> str:
    """Why this word is not accepted by itself; "" if it is. before: the accepted word, scored alike."""
    if math.isnan(word.reconstruction):
        return "it has no score"
    way, floor = word.covered, word.reconstruction_floor
    if not math.isnan(way) and way < rule.least:
        return (
            f"its pictures are {way:.0%} of the way from the untrained word's to real ones (reconstruction "
            f"{word.reconstruction:.3f}, untrained {floor:.3f}); {rule.least:.0%} are asked for"
        )
    if math.isnan(way) and word.reconstruction <= floor:
        return f"its reconstruction, {word.reconstruction:.3f}, is no better than the untrained word's, {floor:.3f}"
    if before is None or before.reconstruction is None:
        return ""
    fall = before.reconstruction - word.reconstruction
    widths = (
        _half(word.reconstruction_low, word.reconstruction_high),
        _half(before.reconstruction_low, before.reconstruction_high),
    )
    if fall > rule.drop and fall > WIDTH * math.hypot(*widths):
        return (
            f"its reconstruction fell from {before.reconstruction:.3f} to {word.reconstruction:.3f}, by more than {rule.drop:g} "
            "and than its interval"
        )
    return ""


def digest_of(under: ScoredUnder) -> str:
    """Of the conditions that make scores comparable; the model may differ, because a worse one must be noticed."""
    alike = {name: value for name, value in asdict(under).items() if name not in ("model", "model_digest")}
    return hashlib.sha256(json.dumps(alike, sort_keys=True).encode()).hexdigest()[:16]


def judged_word(word: ConceptSummary, since: str, under: str, why: str = "") -> JudgedWord:
    """A candidate's row. why: the reason that holds it back."""
    return JudgedWord(
        word.concept, word.fingerprint, "candidate", since, _plain(word.reconstruction), _plain(word.reconstruction_low),
        _plain(word.reconstruction_high), _plain(word.editability), under, why,
    )  # fmt: skip


def _pairs(metric: str, again: Sequence[ConceptSummary], before: Mapping[str, JudgedWord]) -> Pairs:
    scored = [
        (word.concept, float(old), word.figure(metric))
        for word in again
        if (old := getattr(before[word.concept], metric)) is not None and not math.isnan(word.figure(metric))
    ]
    old, new = ([each[side] for each in scored] for side in (1, 2))
    return Pairs(metric, "", [each[0] for each in scored], np.array(old), np.array(new))


def _half(low: float | None, high: float | None) -> float:
    """Half an interval's width; 0 without one."""
    return 0.0 if low is None or high is None or math.isnan(low + high) else (high - low) / 2


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value
