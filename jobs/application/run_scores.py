"""The judge of a run: checked before anything is learned, and asked when all words are."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jobs.application.choose_words import choose_words, said_of_chosen
from jobs.application.night.gate_words import gate_words
from jobs.application.phases import phase
from jobs.application.requests import Gate, Listener, NotStartedError
from pipeline.models.find import MINI
from pipeline.protocols import Protocol
from pipeline.protocols.protocol import ProtocolError
from pipeline.records import Concept
from pipeline.scheduling.shared_paths import on_every_node
from pipeline.store.catalogue.chosen import ChosenWord, forget_chosen
from pipeline.store.run_folder import RunFolder
from pipeline.text_files import paragraph

if TYPE_CHECKING:
    from eval.judges.outside_metric import OutsideMetric
    from eval.scores.score_run import Judgement


def check_judge(clip: str, model: str, protocol: Protocol, concepts: Sequence[Concept]) -> None:
    """Loads the CLIP, because its name or files may be wrong, or the protocol's prompts too long for it. The shipped model reads no
    longer prompts than the shipped CLIP: these need no check. Raises NotStartedError.
    """
    if clip == model == MINI:
        return
    from eval.judges.judge import load_scorer
    from eval.scores.fitting import refuse_long_texts

    try:
        refuse_long_texts(load_scorer(clip), protocol, concepts)
    except (OSError, ValueError) as error:
        raise NotStartedError(f"--clip {clip}: {error}") from error


def check_metrics(outside: "Sequence[OutsideMetric]") -> None:
    """That every machine of the cluster has the metrics from outside, before anything is learned. Raises NotStartedError."""
    if not outside:
        return
    from eval.judges.outside_metric import MetricError, refuse_others
    from eval.report.summary_files import refuse_taken

    try:
        refuse_taken(outside)
        on_every_node(refuse_others, tuple(outside), MetricError)
    except MetricError as error:
        raise NotStartedError(str(error)) from error


def refuse_long_protocol(run: RunFolder, judgement: "Judgement", given: str) -> None:
    """Of a finished run under another protocol, whose pictures no worker checks. given: its name.

    Raises NotStartedError.
    """
    from eval.scores.fitting import refuse_long_prompts
    from eval.scores.score_run import left_to_score

    try:
        refuse_long_prompts(run, judgement, left_to_score(run, judgement).names)
    except ProtocolError as error:
        raise NotStartedError(f"--protocol {given}: {error}") from error


def score_and_report(
    run: RunFolder, judgement: "Judgement", events: Listener, gate: Gate | None = None, choose: bool = False
) -> None:
    """Scores what has no score yet, lets new words pass the gate if there is one, chooses among repeats, and writes the report."""
    from eval.nightly.acceptance import Rule
    from eval.pairs.pair_run import score_pairs
    from eval.scores.score_run import score_run
    from jobs.application.report_run import headline, summarise_run, write_report

    events.say("scoring", "scoring")
    with phase(events, "drawing and scoring") as counts:
        scored = score_run(run, judgement, None, counts.of("drew", "words"), counts.of("scored", "words"))
        pairs = score_pairs(run, judgement, scored.under, counts.of("scored", "pairs"))
    for failure in scored.failures:
        events.complain("score", paragraph([f"score     {failure.concept}: {failure.reason}"]), concept=failure.concept)
    for failure in pairs:
        events.say("pair", paragraph([f"pair      {failure.concept}: {failure.reason}"]), concept=failure.concept)
    if gate is not None:
        rule = Rule(gate.word_drop, gate.least_covered, gate.night_drop)
        with phase(events, "judging new words") as counts:
            published = counts.of("published", "accepted words")
            gate_words(run, summarise_run(run, scored.under), rule, gate.keep_words, events, published)
    chosen: tuple[ChosenWord, ...] = ()
    if choose:
        chosen = choose_words(run, judgement, events)
    else:
        forget_chosen(run)
    with phase(events, "reporting") as counts:
        pictures = counts.of("read the pictures of", "words for the report")
        configuration = run.read_json("run.json")
        summary = write_report(run, scored.under, configuration, outside=judgement.metrics, step=pictures)
    if summary.concepts:
        events.say("scores", headline(summary))
    if chosen:
        events.say("chosen", said_of_chosen(summary.concepts, chosen))
