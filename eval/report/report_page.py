"""The report: one self-contained page that works from a file:// URL and loads nothing from a network.

    summary, grids, failures, configuration -> HTML

Concept names, prompts, reasons and carried columns are untrusted text: jinja escapes what it writes, everything else
reaches the page as JSON and becomes text nodes, and the page's own policy lets nothing run but its own script.
"""

import hashlib
import io
import json
import math
from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from eval.nightly.history import GATED, Verdict
from eval.pairs.pair_summary import Pairs
from eval.pairs.presence import PairScore
from eval.report.chart import line_over_nights
from eval.report.troubles import troubles_of
from eval.scores.groups import Group, groups_by, summarise_groups, telling_column
from eval.scores.metric import Column, Metric
from eval.scores.summary import VERDICTS, ConceptSummary, Estimate, Summary
from pipeline.inputs.picture_file import decode_drawn
from pipeline.models.find import MINI, MINI_SAID
from pipeline.records import Event, Failure

# Beyond these, grids are linked and concepts are sampled; `python -m jobs.bench.report_page` measures how such a page opens.
PICTURE_BYTES = 11_000_000
ROW_BYTES = 12_000_000
MOST_CONCEPTS = 10_000
MOST_REASONS = 100
MOST_NAMES = 20  # of failed concepts listed under one reason
MOST_GROUPS = 200
LONGEST_TEXT = 500
LONGEST_CONFIGURATION = 100_000
# Tried in order until a grid is small enough: twelve grids, in base64, stay below 1.5 MB.
THUMBNAIL_BYTES = 90_000
THUMBNAIL_SIZES = ((900, 82), (900, 65), (900, 45), (640, 45), (480, 30))


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Failures that share a stage and a reason. names: the first of their concepts; more: how many others."""

    stage: str
    reason: str
    count: int
    names: tuple[str, ...]
    more: int


@dataclass(frozen=True, slots=True)
class Judge:
    """Another judge of the same pictures, such as DINO. name: as it was asked for. figures: in words -> mean over the concepts."""

    name: str
    figures: Mapping[str, float]

    @classmethod
    def of(cls, name: str, summary: Summary) -> "Judge":
        """With the figures that this judge has a value for."""
        named = ("reconstruction", "subject_fidelity", "vqa_score")
        figures = {each.replace("_", " "): summary.estimate(each).value for each in named}
        floors = {f"vqa score, {part}": summary.mean(f"vqa_score_{part}") for part in ("floor", "ceiling")}
        return cls(name, {each: value for each, value in (figures | floors).items() if not math.isnan(value)})


@dataclass(frozen=True, slots=True)
class Background:
    """What a report shows besides the run itself.

    column: of the manifest, to group by; None takes one that tells a few groups apart.
    nights: oldest first, tonight last. judges: others than the one that made the summary. events: of the run, by time.
    pairs: two words in one picture, where the protocol has such prompts.
    """

    column: str | None = None
    nights: Sequence[Verdict] = ()
    judges: Sequence[Judge] = ()
    events: Sequence[Event] = ()
    pairs: Pairs | None = None


@dataclass(frozen=True, slots=True)
class Gauge:
    """Positions of the figures on a bar of length 100."""

    value: float
    floor: float
    ceiling: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Headline:
    """A metric as the page's headline shows it. noun, wordless: the plain pictures without the word."""

    metric: Metric
    estimate: Estimate
    floor: float
    ceiling: float
    gauge: Gauge | None
    noun: float
    wordless: float
    about: Markup


def render_report(
    summary: Summary,
    grids: Mapping[str, bytes],
    failures: Sequence[Failure],
    configuration: Mapping[str, Any],
    title: str = "wordmint",
    background: Background | None = None,
) -> str:
    """The page as text, to be written as UTF-8 to `report/index.html`.

    grids: concept -> PNG. They are read one at a time, so a lazy mapping holds one in memory.
    configuration: the run's settings, shown as they are; JSON-like and without secrets.

    Of more than 10,000 concepts, or 12 MB of them, the extremes and an even spread are shown, and pictures are embedded
    until they fill 11 MB; the rest are linked as `../grids/<concept>.png`. The headline always counts all.

    Raises ValueError for a column to group by that no concept has.
    """
    background = background or Background()
    shown, rows = _shown(summary.concepts, summary.columns)
    column = background.column or telling_column(summary.concepts)
    groups: tuple[Group, ...] = ()
    if column is not None:
        groups = summarise_groups(summary.concepts, groups_by(summary.concepts, column), np.random.default_rng(0))
    data = _script_data({
        "concepts": sorted(rows, key=lambda row: str(row["concept"])),
        "pictures": _pictures(shown, grids),
        "floor": _number(summary.reconstruction_floor),
        "ceiling": _number(summary.reconstruction_ceiling),
        "columns": [{"name": each.name, "label": each.label, "percent": each.percent} for each in summary.columns if each.label],
        "verdicts": VERDICTS,
        "facts": [_fact(metric) for metric in summary.metrics],
    })  # fmt: skip
    settings = _clipped(json.dumps(configuration, indent=2, ensure_ascii=False, default=str), LONGEST_CONFIGURATION)
    reasons = _grouped(failures)
    # The policy runs only scripts with this nonce. Untrusted text cannot hold it: the nonce is a digest of that text too.
    troubles, pairs = troubles_of(background.events), background.pairs
    sheets = _pair_sheets(pairs) if pairs else []
    everything = (data, settings, reasons, column, groups, background.nights, troubles, pairs and pairs.lines)
    nonce = hashlib.sha256(repr(everything).encode("utf-8", "replace")).hexdigest()[:32]
    page = templates().get_template("report.html.j2").render(
        title=title, summary=summary, shown=len(shown), failures=reasons, configuration=settings, data=Markup(data),
        headlines=[_headline(metric, summary) for metric in summary.metrics if metric.title],
        sorts=[each for metric in summary.metrics for each in metric.sorts],
        column=column, groups=groups[:MOST_GROUPS], more_groups=max(0, len(groups) - MOST_GROUPS),
        nights=background.nights, lines=[line_over_nights(background.nights, metric) for metric in GATED],
        shipped=MINI_SAID if summary.scored_under and summary.scored_under.model == MINI else "",
        verdicts=_verdicts(summary.concepts), judges=background.judges, troubles=troubles, pairs=pairs, sheets=sheets,
        nonce=nonce, style=_own("report.css"), script=_own("report.js"),
    )  # fmt: skip
    # A lone surrogate, which JSON input can hold, is a string to Python but not to UTF-8.
    return page.encode("utf-8", "replace").decode("utf-8")


def data_url(webp: bytes) -> str:
    return f"data:image/webp;base64,{b64encode(webp).decode('ascii')}"


def thumbnail(png: bytes) -> bytes | None:
    """WebP, at most 900 pixels wide and about 90 kB; None when the picture cannot be read."""
    try:
        picture = decode_drawn(png)
    except ValueError:
        return None
    webp = b""
    for width, quality in THUMBNAIL_SIZES:
        height = max(1, round(picture.height * width / picture.width))
        small = picture if picture.width <= width else picture.resize((width, height), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        small.save(buffer, "WEBP", quality=quality, method=4)
        webp = buffer.getvalue()
        if len(webp) <= THUMBNAIL_BYTES:
            break
    return webp


def _shown(
    concepts: Sequence[ConceptSummary], columns: Sequence[Column]
) -> tuple[list[ConceptSummary], list[dict[str, Any]]]:
    """At most MOST_CONCEPTS with their rows, in the order in which they are embedded while there is room: the worst and the
    best in turn, then the others at even distances.
    """
    ranked = sorted(concepts, key=lambda concept: (math.isnan(concept.covered), concept.covered, concept.concept))
    rated = [concept for concept in ranked if not math.isnan(concept.covered)]
    extremes = min(50, len(rated) // 2)
    first = [each for pair in zip(rated[:extremes], rated[::-1][:extremes], strict=True) for each in pair]
    chosen = {concept.concept for concept in first}
    others = [concept for concept in concepts if concept.concept not in chosen]
    room = min(MOST_CONCEPTS - len(first), len(others))
    # Rows may be long. If not all fit, take an even spread; a cut by name would never show the last ones.
    rows = {concept.concept: _row(concept, columns) for concept in (*first, *_spread(others, room))}
    used = sum(len(json.dumps(row)) for row in rows.values())
    if used > ROW_BYTES:
        room = room * ROW_BYTES // used
    shown = first + _spread(others, room)
    return shown, [rows.get(concept.concept) or _row(concept, columns) for concept in shown]


def _spread(concepts: Sequence[ConceptSummary], count: int) -> list[ConceptSummary]:
    return [concepts[position * len(concepts) // count] for position in range(count)]


def _verdicts(concepts: Sequence[ConceptSummary]) -> list[tuple[str, int]]:
    """Each verdict that occurs, the worst first, and how many concepts have it."""
    counts = Counter(concept.verdict for concept in concepts)
    return [(verdict, counts[verdict]) for verdict in VERDICTS if counts[verdict]]


def _pictures(concepts: Iterable[ConceptSummary], grids: Mapping[str, bytes]) -> dict[str, str]:
    """Concept -> its grid as a data URL, in the order given until PICTURE_BYTES are used."""
    pictures: dict[str, str] = {}
    left = PICTURE_BYTES
    for concept in concepts:
        small = thumbnail(grids[concept.concept]) if concept.concept in grids else None
        if small is None:
            continue
        url = data_url(small)
        left -= len(url)
        if left < 0:
            break
        pictures[concept.concept] = url
    return pictures


def _pair_sheets(pairs: Pairs) -> list[tuple[PairScore, str]]:
    """Each pair that is shown, and its pictures as a data URL."""
    small = [(score, thumbnail(sheet)) for score, sheet in pairs.shown]
    return [(score, data_url(some)) for score, some in small if some]


def _headline(metric: Metric, summary: Summary) -> Headline:
    name, estimate = metric.figure, summary.estimate(metric.figure)
    floor = summary.mean(f"{name}_floor") if metric.floor_value is None else metric.floor_value
    ceiling = summary.mean(f"{name}_ceiling")
    gauge = _gauge(estimate, floor, ceiling) if metric.floor_value is None else None
    noun, wordless = summary.mean(f"{name}_floor_noun"), summary.mean(f"{name}_floor_wordless")
    return Headline(metric, estimate, floor, ceiling, gauge, noun, wordless, Markup(metric.about))


def _fact(metric: Metric) -> dict[str, Any]:
    """The metric's columns in the page's view of one concept, with their labels."""
    parts = {column.of: column.name for column in metric.columns}
    labels = {"floor": metric.floor_label, "ceiling": metric.ceiling_label}
    bounds = [[labels[part], parts[part]] for part in ("floor", "ceiling") if part in parts]
    interval = [parts["low"], parts["high"]] if "low" in parts and "high" in parts else []
    return {"label": metric.figure.replace("_", " "), "name": parts["value"], "interval": interval, "bounds": bounds}


def _gauge(estimate: Estimate, floor: float, ceiling: float) -> Gauge | None:
    """None where one of the figures is missing."""
    figures = (estimate.value, floor, ceiling)
    if any(math.isnan(figure) for figure in figures):
        return None
    low, high = (estimate.value if math.isnan(bound) else bound for bound in (estimate.low, estimate.high))
    left, right = min(*figures, low), max(*figures, high)
    positions = (96 * (figure - left) / ((right - left) or 1) + 2 for figure in (*figures, low, high))
    return Gauge(*(round(position, 2) for position in positions))


def _row(concept: ConceptSummary, columns: Sequence[Column]) -> dict[str, Any]:
    return {
        "concept": concept.concept,
        "placeholder": _clipped(concept.placeholder),
        "class": _clipped(concept.noun or ""),
        "kind": concept.kind,
        "steps": concept.steps,
        "stopped_by": concept.stopped_by,
        "verdict": VERDICTS.index(concept.verdict),
        "carried": {_clipped(name): _clipped(value) for name, value in concept.carried.items()},
        "stated": {_clipped(name): _clipped(value) for name, value in concept.stated.items()},
        "link": f"../grids/{quote(concept.concept, safe='', errors='replace')}.png",
        "seconds": _number(concept.seconds),
        "nearest_own": _number(concept.nearest_own),
        **{column.name: _number(concept.figure(column.name)) for column in columns},
    }


def _grouped(failures: Sequence[Failure]) -> dict[str, list[FailureGroup]]:
    """Stage -> its reasons, the most frequent first."""
    concepts: dict[tuple[str, str], list[str]] = {}
    for failure in failures:
        concepts.setdefault((failure.stage, failure.reason), []).append(failure.concept)
    groups: dict[str, list[FailureGroup]] = {}
    frequent = sorted(concepts.items(), key=lambda item: (-len(item[1]), item[0]))
    for (stage, reason), names in sorted(
        frequent[:MOST_REASONS], key=lambda item: (item[0][0], -len(item[1]), item[0][1])
    ):
        listed = tuple(_clipped(name) for name in sorted(names)[:MOST_NAMES])
        groups.setdefault(stage, []).append(
            FailureGroup(stage, _clipped(reason), len(names), listed, len(names) - len(listed))
        )
    if rest := [name for _, names in frequent[MOST_REASONS:] for name in names]:
        said = f"{len(frequent) - MOST_REASONS:,} other reasons, each in failures/"
        groups["others"] = [FailureGroup("others", said, len(rest), (), len(rest))]
    return groups


def _clipped(text: str, longest: int = LONGEST_TEXT) -> str:
    return text if len(text) <= longest else f"{text[:longest]}… ({len(text):,} characters)"


def _number(value: float) -> float | None:
    """Rounded for the page. nan becomes null, because JSON has no nan."""
    return None if math.isnan(value) else round(value, 4)


def _script_data(value: Any) -> str:
    """JSON that is safe inside <script>: no text in it can close the element or open a comment."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _own(name: str) -> Markup:
    return Markup(Path(__file__).with_name(name).read_text(encoding="utf-8"))


def templates() -> Environment:
    """The templates of this folder. What is filled in is escaped, and a name that is not given is an error."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["clipped"] = _clipped
    environment.filters["figure"] = lambda value, digits=3: "–" if math.isnan(value) else f"{value:.{digits}f}"
    environment.filters["percent"] = lambda value: "–" if math.isnan(value) else f"{100 * value:.0f} %"
    return environment
