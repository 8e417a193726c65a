"""Two runs of the same concepts side by side: paired differences, one row a concept, pictures of both.

summaries of A and B -> Difference a metric, ConceptPair a concept -> page, CSV, LaTeX
"""

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa

from eval.nightly.gate import holm, signed_rank
from eval.report.report_page import data_url, templates, thumbnail
from eval.scores.metric_table import METRICS
from eval.scores.metrics import interval
from eval.scores.score_tables import CONDITIONS, ScoredUnder
from eval.scores.summary import ConceptSummary, values_of

FIGURES = tuple(metric.figure for metric in METRICS)
# What scores have to have in common to be compared; the model is what two runs may differ in.
COMPARABLE = ("protocol", "clip_digest", "sampler", "sampler_steps", "guidance")
WORST = "reconstruction"  # the figure that the table is sorted by
PICTURE_BYTES = 18_000_000


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure over the `n` concepts that both runs have it for. a, b: its means.

    change: the mean of B minus A, with its 95 % interval over concepts (nan below two).
    p: two-sided, by Wilcoxon's signed-rank test, after Holm's correction over all figures; nan below two concepts.
    """

    figure: str
    n: int
    a: float
    b: float
    change: float
    low: float
    high: float
    p: float


@dataclass(frozen=True, slots=True)
class ConceptPair:
    """A concept of both runs. a, b: figure -> its value, nan where there is none."""

    concept: str
    a: Mapping[str, float]
    b: Mapping[str, float]

    def change(self, figure: str) -> float:
        return self.b[figure] - self.a[figure]


class NotComparableError(ValueError):
    """Two runs that have no scores, or no concepts, in common."""


def common_conditions(a: pa.Table, b: pa.Table) -> tuple[ScoredUnder, ScoredUnder]:
    """The conditions of each run's scores that may be compared; of several, those of the most scores.

    a, b: SCORES. Raises NotComparableError, saying what each run was scored by.
    """
    mine, theirs = (_conditions(scores) for scores in (a, b))
    both = [(one, other) for one in mine for other in theirs if _comparable(one) == _comparable(other)]
    if not both:
        raise NotComparableError(
            f"these runs have no scores in common: A was scored by {_conditions_named(mine)}, B by {_conditions_named(theirs)}; "
            "score both alike, with jobs/evaluate.py and its --protocol and --clip"
        )
    return max(both, key=lambda pair: min(mine[pair[0]], theirs[pair[1]]))


def _conditions(scores: pa.Table) -> dict[ScoredUnder, int]:
    counts: dict[ScoredUnder, int] = {}
    for row in scores.select(CONDITIONS).to_pylist():
        under = ScoredUnder(**row)
        counts[under] = counts.get(under, 0) + 1
    return counts


def _comparable(under: ScoredUnder) -> tuple[object, ...]:
    return tuple(getattr(under, name) for name in COMPARABLE)


def _conditions_named(conditions: Mapping[ScoredUnder, int]) -> str:
    said = sorted({f"{each.protocol} and {each.clip}" for each in conditions})
    return "; ".join(said) or "nothing yet"


def paired_concepts(
    a: Sequence[ConceptSummary], b: Sequence[ConceptSummary], figures: Sequence[str] = FIGURES
) -> list[ConceptPair]:
    """The concepts of both, those first that lost most from A to B, those without a difference last.

    figures: those that are compared.
    Raises NotComparableError when no concept is in both.
    """
    mine, theirs = (_by_concept(some) for some in (a, b))
    names = mine.keys() & theirs.keys()
    if not names:
        raise NotComparableError(
            f"these runs have no concept in common: A has {_some(mine)}, B has {_some(theirs)}; "
            "concepts are paired by their names"
        )
    pairs = [
        ConceptPair(name, *({each: _mean(some[name], each) for each in figures} for some in (mine, theirs)))
        for name in names
    ]
    return sorted(pairs, key=lambda pair: (math.isnan(pair.change(WORST)), pair.change(WORST), pair.concept))


def _by_concept(words: Sequence[ConceptSummary]) -> dict[str, list[ConceptSummary]]:
    """Concept -> its words, of which there are several if it was learned several times."""
    concepts: dict[str, list[ConceptSummary]] = {}
    for word in words:
        concepts.setdefault(word.repeat_of, []).append(word)
    return concepts


def _mean(words: Sequence[ConceptSummary], figure: str) -> float:
    values = values_of(words, figure)
    return float(values[0]) if len(values) else math.nan


def _some(names: Mapping[str, object]) -> str:
    few = sorted(names)[:3]
    return f"{', '.join(few)} and {len(names) - len(few)} more" if len(names) > len(few) else ", ".join(few) or "none"


def differences(pairs: Sequence[ConceptPair]) -> list[Difference]:
    """One a figure that some concept of both runs has."""
    compared = []
    for figure in pairs[0].a if pairs else ():
        values = np.array([(pair.a[figure], pair.b[figure]) for pair in pairs])
        values = values[~np.isnan(values).any(axis=1)]
        if len(values):
            change = values[:, 1] - values[:, 0]
            low, high = interval(change, np.random.default_rng(0))
            p = min(1.0, 2 * min(signed_rank(change), signed_rank(-change))) if len(change) > 1 else math.nan
            a, b = values.mean(axis=0)
            compared.append(Difference(figure, len(values), a, b, float(change.mean()), low, high, p))
    tested = [each.p for each in compared if not math.isnan(each.p)]
    corrected = iter(holm(tested))
    return [
        Difference(each.figure, each.n, each.a, each.b, each.change, each.low, each.high,
                   math.nan if math.isnan(each.p) else next(corrected))
        for each in compared
    ]  # fmt: skip


def csv_of(pairs: Sequence[ConceptPair]) -> str:
    """One row a concept: each figure in A, in B, and the change."""
    figures = [name for name in pairs[0].a if any(not math.isnan(pair.a[name] + pair.b[name]) for pair in pairs)]
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(["concept", *(_cell(f"{name}_{part}") for name in figures for part in ("a", "b", "change"))])
    for pair in pairs:
        cells = [value for name in figures for value in (pair.a[name], pair.b[name], pair.change(name))]
        writer.writerow([_cell(pair.concept), *("" if math.isnan(value) else f"{value:.6f}" for value in cells)])
    return sink.getvalue()


def _cell(text: str) -> str:
    """A text that a spreadsheet would calculate, as a stranger's name such as =HYPERLINK(...), stays one behind an apostrophe."""
    return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@")) else text


def latex_of(compared: Sequence[Difference], a: str, b: str) -> str:
    """A tabular of the differences, for a paper. a, b: names of the runs."""
    rows = [
        rf"{_escaped(each.figure.replace('_', ' '))} & {each.n} & {each.a:.3f} & {each.b:.3f} & "
        rf"${each.change:+.3f}$ {_range(each)} & {_p(each.p)} \\"
        for each in compared
    ]
    head = rf"metric & $n$ & {_escaped(a)} & {_escaped(b)} & change (95\,\%) & $p$ \\"
    return "\n".join([r"\begin{tabular}{lrrrrr}", head, r"\hline", *rows, r"\end{tabular}", ""])


def _range(each: Difference) -> str:
    return "" if math.isnan(each.low) else f"[{each.low:+.3f}, {each.high:+.3f}]"


def _p(value: float) -> str:
    return "--" if math.isnan(value) else f"{value:.3f}" if value >= 0.001 else "$<$0.001"


def _escaped(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(sign, f"\\{sign}" if sign in "&%$#_{}" else sign) for sign in text)


def page_of(
    names: tuple[str, str],
    under: tuple[ScoredUnder, ScoredUnder],
    compared: Sequence[Difference],
    pairs: Sequence[ConceptPair],
    only: tuple[Sequence[str], Sequence[str]],
    grids: tuple[Mapping[str, bytes], Mapping[str, bytes]],
    step: Callable[[int, int], None] = lambda *_: None,
) -> str:
    """One self-contained HTML page.

    names: of the runs. only: the concepts that are in A alone, and in B alone. grids: concept -> PNG, of each run; embedded
    in the order of the pairs until they take 18 MB. step: called with the number of pairs whose grids were read, and of all.
    """
    differing = [each.name for each in fields(ScoredUnder) if len({getattr(one, each.name) for one in under}) > 1]
    return templates().get_template("run_diff.html.j2").render(
        names=names, under=under[0], differing=differing, compared=compared, pairs=pairs,
        figures=[each.figure for each in compared],
        only=only, pictures=_pictures(pairs, grids, step),
        worst=WORST, isnan=math.isnan,
    )  # fmt: skip


def _pictures(
    pairs: Sequence[ConceptPair],
    grids: tuple[Mapping[str, bytes], Mapping[str, bytes]],
    step: Callable[[int, int], None],
) -> dict[str, list[str]]:
    """Concept -> its grids in A and in B as data URLs, "" for one that is missing."""
    pictures: dict[str, list[str]] = {}
    left = PICTURE_BYTES
    for number, pair in enumerate(pairs, 1):
        small = [thumbnail(some[pair.concept]) if pair.concept in some else None for some in grids]
        urls = [data_url(each) if each else "" for each in small]
        step(number, len(pairs))
        left -= sum(len(url) for url in urls)
        if left < 0:
            break
        if any(urls):
            pictures[pair.concept] = urls
    return pictures
