"""Compares two run folders with the same concepts, from their tables and grids; nothing is learned, drawn or scored."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from eval.judges.outside_metric import find_metrics
from jobs.application.phases import phase
from jobs.application.requests import Listener, NotComparedError, NotStartedError
from pipeline.store.parts import read_layout, read_parts
from pipeline.store.run_folder import RunFolder
from pipeline.store.storage import Storage, StorageError, without_credentials
from pipeline.text_files import paragraph

if TYPE_CHECKING:
    from eval.report.run_diff import ConceptPair, Difference

LISTED = 10


@dataclass(frozen=True, slots=True)
class DiffRequest:
    """a, b: URLs of run folders. output: folder for the page and the tables, a path or any fsspec URL.
    metrics: from outside, as RunRequest's; those that the runs were scored by.
    """

    a: str
    b: str
    output: str = "runs/diff"
    metrics: tuple[str, ...] = ()
    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class DiffResult:
    """url: of the folder. differences: one for each metric. pairs: one for each concept, the worst first."""

    url: str
    differences: "tuple[Difference, ...]"
    pairs: "tuple[ConceptPair, ...]"


def diff(request: DiffRequest, events: Listener | None = None) -> DiffResult:
    """Writes index.html, concepts.csv, table.tex and differences.json.

    Raises NotStartedError if a run or its tables cannot be read, and NotComparedError if the runs have no scores or no concepts
    in common.
    """
    events = events or Listener()
    options = request.storage_options
    try:
        runs = [RunFolder(Storage(url, options)) for url in (request.a, request.b)]
        for run in runs:
            run.read_run()
        output = Storage(request.output, options)
        outside = find_metrics(request.metrics)
    except (StorageError, ValueError) as error:
        raise NotStartedError(str(error)) from error
    from eval.report.run_diff import (
        NotComparableError,
        common_conditions,
        csv_of,
        differences,
        latex_of,
        page_of,
        paired_concepts,
    )
    from eval.scores.score_tables import SCORES
    from jobs.application.report_run import Grids, summarise_run

    try:
        with phase(events, "reading the scores"):
            scores = [read_parts(run, "scores", read_layout(run)["scores"], SCORES) for run in runs]
        under = common_conditions(*scores)
        with phase(events, "comparing"):
            summaries = [summarise_run(run, each, outside) for run, each in zip(runs, under, strict=True)]
            pairs = paired_concepts(
                summaries[0].concepts, summaries[1].concepts, [metric.figure for metric in summaries[0].metrics]
            )
            compared = differences(pairs)
    except NotComparableError as error:
        raise NotComparedError(str(error)) from error
    except (StorageError, ValueError) as error:
        raise NotStartedError(str(error)) from error
    first, second = _names([without_credentials(run.storage.url, options) for run in runs])
    held = [{concept.repeat_of for concept in summary.concepts} for summary in summaries]
    only = (sorted(held[0] - held[1]), sorted(held[1] - held[0]))
    with phase(events, "writing the page") as counts:
        shown = counts.of("read the pictures of", "concepts")
        page = page_of((first, second), under, compared, pairs, only, (Grids(runs[0]), Grids(runs[1])), shown)
    output.write_bytes("index.html", page.encode("utf-8", "replace"))
    output.write_bytes("concepts.csv", csv_of(pairs).encode())
    output.write_bytes("table.tex", latex_of(compared, first, second).encode())
    RunFolder(output).write_json(
        "differences.json", {"a": first, "b": second, "differences": [_without_nan(asdict(each)) for each in compared]}
    )
    url = without_credentials(output.url, options)
    events.say("diff", _said(compared, pairs, only), n=len(pairs))
    events.say("page", f"page      {url.rstrip('/')}/index.html", url=url)
    return DiffResult(url, tuple(compared), tuple(pairs))


def _names(urls: list[str]) -> tuple[str, str]:
    """The names of the two folders, or their whole URLs if the names are equal."""
    short = [url.rstrip("/").rsplit("/", 1)[-1] for url in urls]
    first, second = short if short[0] != short[1] else urls
    return first, second


def _without_nan(row: dict[str, Any]) -> dict[str, Any]:
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}


def _said(compared: "list[Difference]", pairs: "list[ConceptPair]", only: tuple[list[str], list[str]]) -> str:
    lines = [f"compared  {len(pairs)} concepts of both runs; {len(only[0])} only in A, {len(only[1])} only in B"]
    for each in compared:
        spread = "" if math.isnan(each.low) else f" ({each.low:+.3f} to {each.high:+.3f})"
        p = "" if math.isnan(each.p) else f", p = {each.p:.2g}"
        lines.append(f"  {each.figure}: {each.a:.3f} -> {each.b:.3f}, {each.change:+.3f}{spread} over {each.n}{p}")
    fell = [pair for pair in pairs if pair.change("reconstruction") < 0][:LISTED]
    if fell:
        lines.append("  fell most in reconstruction: " + ", ".join(pair.concept for pair in fell))
    return paragraph(lines)
