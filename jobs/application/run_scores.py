"""The judge of a run: checked before anything is learned, and asked when all words are."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jobs.application.requests import Listener, NotStartedError
from pipeline.models.find import MINI
from pipeline.protocols import Protocol
from pipeline.protocols.protocol import fill
from pipeline.records import Concept
from pipeline.store.run_folder import RunFolder

if TYPE_CHECKING:
    from eval.scores.score_run import Judgement


def check_judge(clip: str, protocol: Protocol, concepts: Sequence[Concept]) -> None:
    """Loads the CLIP, because its name or files may be wrong. The shipped one needs no check. Raises NotStartedError."""
    if clip == MINI:
        return
    from eval.judges.clip import OpenClipScorer
    from eval.scores.score_run import load_scorer

    longest = max((each.noun or "" for each in concepts), key=len, default="")
    texts = [fill(template, "", longest) for template in protocol.templates_for(concepts)]
    try:
        scorer = load_scorer(clip)
        if isinstance(scorer, OpenClipScorer):
            scorer.refuse_long(texts)
    except (OSError, ValueError) as error:
        raise NotStartedError(f"--clip {clip}: {error}") from error


def score_and_report(run: RunFolder, judgement: "Judgement", events: Listener) -> None:
    """Scores what has no score yet, and writes the report."""
    from eval.pairs.pair_run import score_pairs
    from eval.scores.score_run import score_run
    from jobs.application.report_run import headline, write_report

    events.say("scoring", "scoring")
    scored = score_run(run, judgement)
    for failure in score_pairs(run, judgement, scored.under):
        events.say("pair", f"pair      {failure.concept}: {failure.reason}", concept=failure.concept)
    summary = write_report(run, scored.under, run.read_json("run.json"))
    if summary.concepts:
        events.say("scores", headline(summary))
