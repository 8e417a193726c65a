"""Scores the words of run folders, compares them with earlier nights, and rewrites their reports."""

import math
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cluster.addresses import ClusterError
from cluster.session import Session
from eval.judges.outside_metric import find_metrics
from jobs.application.local_paths import absolute_name, local_paths
from jobs.application.phases import phase, told_ray_session
from jobs.application.recorded import allowed, refuse_changed
from jobs.application.requests import EvaluationRequest, EvaluationResult, Listener, NotComparedError, NotStartedError
from jobs.application.run_scores import check_metrics
from pipeline.models.families import family_of
from pipeline.models.find import ModelError, find_model
from pipeline.protocols import PROTOCOLS, Protocol, ProtocolError, find_protocol
from pipeline.records import Failure
from pipeline.scheduling.shared_paths import UnseenPathError, seen_everywhere
from pipeline.settings import ModelSettings
from pipeline.store.catalogue.chosen import read_chosen
from pipeline.store.catalogue.listed import listed, read_lists
from pipeline.store.run_folder import RunFolder
from pipeline.store.storage import Storage, StorageError, without_credentials
from pipeline.text_files import paragraph

if TYPE_CHECKING:
    from eval.judges.judge import ImageScorer
    from eval.judges.outside_metric import OutsideMetric
    from eval.nightly.history import Verdict
    from eval.scores.score_run import Evaluation, Judgement
    from eval.scores.summary import Summary

LISTED = 20


@dataclass(frozen=True, slots=True)
class EvaluatedRun:
    """A run folder and how its words were made. model: the name to load it by; run.json may have another one."""

    folder: RunFolder
    configuration: dict[str, Any]
    protocol: Protocol
    clip: str
    model: str

    def judgement(
        self, session: Session, clip: str, metrics: "Sequence[OutsideMetric]" = (), *, keep_features: bool = False
    ) -> "Judgement":
        from eval.scores.drawn_pictures import RunModel
        from eval.scores.score_run import Judgement

        made = self.configuration
        drawing = RunModel(
            self.model, session.device, ModelSettings(**made["model_settings"]), made["settings"]["seed"],
            made["settings"]["resolution"], self.folder.storage.options,
        )  # fmt: skip
        return Judgement(
            self.protocol,
            made["model"],
            made["model_digest"],
            clip,
            session.device,
            drawing,
            tuple(metrics),
            keep_features,
        )


def evaluate(request: EvaluationRequest, events: Listener | None = None) -> EvaluationResult:
    """Scores the words that have no score yet, compares the night with earlier ones and writes the reports.

    The same night twice changes nothing. Raises NotStartedError before anything is started, and NotComparedError if the runs
    were scored but cannot be compared as one night.
    """
    events = events or Listener()
    try:
        with phase(events, "reading the runs and their models"):
            runs = [open_run(url, request) for url in request.runs]
        night = request.night or datetime.now(UTC).date().isoformat()
        check_runs(runs, night)
        metrics = find_metrics(request.metrics)
        options = request.storage_options
        history = Storage(request.history, options) if request.history else runs[0].folder.storage.folder("history")
        # open_clip and torch take seconds to import; a mistyped run should be reported at once.
        from eval.judges.judge import load_judge, load_scorer
        from eval.scores.score_run import check_tokenizer

        with phase(events, "loading the judges"):
            scorers = {name: load_scorer(name) for name in {*(run.clip for run in runs), *filter(None, [request.dino])}}
        for scorer in scorers.values():
            for run in runs:
                check_tokenizer(run.folder, scorer)
        if vqa := vqa_name(request):
            load_judge(vqa)
        check_comparison(runs, scorers[runs[0].clip], history, night, request)
    except (ModelError, ProtocolError, StorageError, OSError, ValueError, KeyError) as error:
        raise NotStartedError(str(error)) from error
    judges = [name for run in runs for name in (run.model, run.clip, request.dino or "", vqa_name(request) or "")]
    with ExitStack() as stack:
        try:
            session = stack.enter_context(told_ray_session(request.ray_address, events))
            for run in () if session.local else runs:
                stack.enter_context(seen_everywhere(run.folder.storage, local_paths(*judges)))
        except (ClusterError, UnseenPathError) as error:
            raise NotStartedError(str(error)) from error
        check_metrics(metrics)
        return _evaluate(runs, history, night, session, request, events, metrics)


def open_run(url: str, request: EvaluationRequest) -> EvaluatedRun:
    """Raises StorageError if there is no such run, UnnamedError if the run names a model or CLIP that does not ship with wordmint
    and the request does not name it, and ModelError if the model is not the one that the words were learned on.
    """
    options = request.storage_options
    folder, shown = RunFolder(Storage(url, options)), without_credentials(url, options).rstrip("/")
    configuration = folder.read_run(
        "model", "model_digest", "clip", "settings.seed", "settings.resolution", "model_settings", "protocol"
    )
    clip = allowed(configuration["clip"], request.clip, "--clip", shown)
    model = find_model(allowed(configuration["model"], request.model, "--model", shown), options)
    refuse_changed(model, configuration, shown)
    if request.protocol:
        protocol = find_protocol(request.protocol)
    elif settings := configuration.get("protocol_settings"):
        protocol = Protocol.of_dict(settings)
    else:
        protocol = PROTOCOLS[configuration["protocol"].split("-v")[0]]
    family_of(model.family).refuse_unsuited(protocol.sampler)
    protocol = replace(protocol, until_ci=request.until_ci)
    return EvaluatedRun(folder, configuration, protocol, clip, model.name)


def check_runs(runs: Sequence[EvaluatedRun], night: str) -> None:
    """Raises ValueError if the runs cannot be compared as one night, or if its name is invalid."""
    from eval.nightly.history import NIGHT

    if not NIGHT.fullmatch(night):
        raise ValueError(f"--night {night!r}: it takes letters a-z and A-Z, digits, '.', ':', '_' and '-', 41 at most")
    for what in ("protocol", "clip"):
        values = {run.protocol.label if what == "protocol" else run.clip for run in runs}
        if len(values) > 1:
            raise ValueError(
                f"these runs differ in their {what}: {', '.join(sorted(values))}; choose one with --{what}"
            )


def check_comparison(
    runs: Sequence[EvaluatedRun], scorer: "ImageScorer", history: Storage, night: str, request: EvaluationRequest
) -> None:
    """Raises ValueError for a baseline that was never scored, a concept that is in several of the runs, and a column to group by
    that no concept has.
    """
    from eval.nightly.history import History
    from eval.scores.groups import refuse_unknown_column
    from eval.scores.score_tables import ScoredUnder
    from jobs.application.report_run import carried_columns, first_words

    if len(runs) > 1:
        refuse_doubles([name for run in runs for name in first_words(run.folder)])
    first = runs[0]
    under = ScoredUnder.of(first.protocol, first.configuration["model"], first.configuration["model_digest"], scorer)
    History(history, under).baseline(night, request.baseline)
    if request.group_by:
        refuse_unknown_column(request.group_by, {name for run in runs for name in carried_columns(run.folder)})


def _evaluate(
    runs: Sequence[EvaluatedRun],
    history_folder: Storage,
    night: str,
    session: Session,
    request: EvaluationRequest,
    events: Listener,
    metrics: "Sequence[OutsideMetric]",
) -> EvaluationResult:
    from eval.nightly.canary import read_canary
    from eval.nightly.choosing import known_by
    from eval.nightly.history import History, judge_night
    from eval.pairs.pair_run import score_pairs
    from eval.scores.fitting import refuse_long_prompts
    from eval.scores.groups import groups_by
    from eval.scores.score_run import left_to_score, score_run
    from jobs.application.report_run import summarise_run

    judgements = [run.judgement(session, run.clip, metrics, keep_features=request.keep_features) for run in runs]
    with phase(events, "reading the scores"):
        left = [left_to_score(run.folder, each) for run, each in zip(runs, judgements, strict=True)]
    try:
        for run, judgement, unscored in zip(runs, judgements, left, strict=True):
            refuse_long_prompts(run.folder, judgement, unscored.names)
    except ProtocolError as error:
        raise NotStartedError(f"--protocol {request.protocol or runs[0].protocol.label}: {error}") from error
    with phase(events, "drawing and scoring") as counts:
        steps = counts.of("drew", "words"), counts.of("scored", "words")
        scored = [
            score_run(run.folder, *each, *steps)
            for run, each in zip(runs, zip(judgements, left, strict=True), strict=True)
        ]
    for run, judgement, each in zip(runs, judgements, scored, strict=True):
        with phase(events, "scoring pairs") as counts:
            pairs = score_pairs(run.folder, judgement, each.under, counts.of("scored", "pairs"))
        for failure in pairs:
            events.say("pair", paragraph([f"{failure.concept}: {failure.reason}"]), concept=failure.concept)
    with phase(events, "evaluating"):
        summaries = [summarise_run(run.folder, each.under) for run, each in zip(runs, scored, strict=True)]
        canary = read_canary(runs[0].folder, judgements[0], night)
    # A night counts each concept once.
    words = [concept for summary in summaries for concept in summary.concepts]
    concepts = known_by(words, [each for run in runs for each in read_chosen(run.folder)])
    try:
        groups = groups_by(concepts, request.group_by) if request.group_by else {}
        history = History(history_folder, scored[0].under)
        verdict = judge_night(
            history, night, concepts, groups, request.fail_on_drop, canary,
            words=sum(run.configuration.get("counts", {}).get("done", 0) for run in runs) - len(words) + len(concepts),
            baseline=request.baseline,
            listed=listed_in([run.folder for run in runs]),
        )  # fmt: skip
    except ValueError as error:
        raise NotComparedError(str(error)) from error
    history.record(verdict, concepts, groups)
    nights = [each for each in history.verdicts() if each.night <= night]
    reports = [
        _report(run, each, nights, session, request, events, metrics) for run, each in zip(runs, scored, strict=True)
    ]
    failures = [failure for each in scored for failure in each.failures]
    events.say("night", said_of(verdict, failures), night=verdict.night, good=verdict.good)
    return EvaluationResult(verdict, tuple(reports), tuple(failures))


def vqa_name(request: EvaluationRequest) -> str | None:
    """The name that load_judge knows."""
    return request.vqa and absolute_name(f"vqa:{request.vqa.removeprefix('vqa:')}")


def listed_in(runs: Sequence[RunFolder]) -> frozenset[str] | None:
    """The concepts of these runs' manifests; None where one is of a version that kept no list."""
    lists = [read_lists(run) for run in runs]
    return frozenset().union(*map(listed, lists)) if all(lists) else None


def refuse_doubles(names: Sequence[str]) -> None:
    again = sorted(name for name, count in Counter(names).items() if count > 1)
    if again:
        raise ValueError(
            f"{len(again)} concepts are in several of these runs, such as {', '.join(again[:5])}: a night has each once; "
            "compare two runs of the same concepts as two nights, with one --history"
        )


def _report(
    run: EvaluatedRun,
    scored: "Evaluation",
    nights: Sequence["Verdict"],
    session: Session,
    request: EvaluationRequest,
    events: Listener,
    metrics: "Sequence[OutsideMetric]",
) -> "Summary":
    from eval.report.report_page import Background, Judge
    from eval.scores.score_run import score_run
    from jobs.application.report_run import counts_said, headline, summarise_run, write_report

    judges = []
    for name in filter(None, (request.dino, vqa_name(request))):
        with phase(events, f"scoring by {name}") as counts:
            progress = counts.of("scored", f"words by {name}")
            second = score_run(run.folder, run.judgement(session, name), scored=progress)
        for failure in second.failures:
            said = paragraph([f"{failure.concept} has no score by {name}: {failure.reason}"])
            events.say("judge", said, concept=failure.concept)
        judges.append(Judge.of(name, summarise_run(run.folder, second.under)))
    configuration = {
        **run.configuration,
        "evaluated": asdict(scored.under),
        "protocol_settings": run.protocol.as_dict(),
    }
    background = Background(request.group_by, nights, judges)
    with phase(events, "reporting") as counts:
        pictures = counts.of("read the pictures of", "words for the report")
        summary = write_report(run.folder, scored.under, configuration, background, metrics, pictures)
    done = len(summary.concepts) - summary.unscored
    events.say(
        "scores",
        f"{scored.fresh} concepts scored now, {done} in all, by {scored.under.protocol}\n"
        f"{counts_said(summary)}\n{headline(summary)}",
        done=summary.done, failed=summary.failed, retired=summary.retired,
    )  # fmt: skip
    for judge in judges:
        said = ", ".join(f"{figure} {value:.3f}" for figure, value in judge.figures.items())
        events.say("judge", f"{judge.name}: {said}")
    url = without_credentials(run.folder.storage.url).rstrip("/") + "/report/index.html"
    events.say("report", f"report    {url}", url=url)
    return summary


def said_of(verdict: "Verdict", failures: Sequence[Failure]) -> str:
    """The night's verdict as a few lines of text."""
    against = f"against {verdict.against}" if verdict.against else "the first night scored this way"
    lines = [f"night     {verdict.night}: {'good' if verdict.good else 'NOT GOOD'}, {against}"]
    lines += [
        f"  {each.metric}: {each.before:.4f} -> {each.after:.4f} over {each.n} words learned again{since}, p = {each.p:.2g}"
        + noticed(each.detectable, verdict.drop)
        for since, comparisons in (("", verdict.comparisons), (f" since {verdict.baseline}", verdict.erosion))
        for each in comparisons
        if each.n and not each.group
    ]
    if canary := verdict.canary:
        lines.append(f"  canary: judged within {canary.judged:.5f}, drawn again within {canary.drawn:.5f}")
    lines += [f"  {reason}" for reason in verdict.reasons[:LISTED]]
    if len(verdict.reasons) > LISTED:
        lines.append(f"  and {len(verdict.reasons) - LISTED} more, in the report")
    lines += [f"  no score of {failure.concept}: {failure.reason}" for failure in failures[:LISTED]]
    if len(failures) > LISTED:
        lines.append(f"  and {len(failures) - LISTED} more without a score")
    return paragraph(lines)


def noticed(detectable: float, drop: float | None) -> str:
    """The smallest loss that the gate would probably have noticed, in words."""
    if drop is None:
        return ""
    if math.isnan(detectable):
        return "; too few words for any loss to raise an alarm"
    return f"; a loss of {detectable:.4f} would have raised an alarm four times in five"
