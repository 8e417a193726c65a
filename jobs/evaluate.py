"""Score the words of one run or several, say what got better or worse since the last good night, write the reports anew.

  python jobs/evaluate.py runs/demo
  python jobs/evaluate.py s3://bucket/run-7 s3://bucket/run-8 --history s3://bucket/history --fail-on-drop 0.01
  python jobs/evaluate.py runs/demo --protocol paper --group-by shop
  python jobs/evaluate.py runs/demo --protocol prompts.toml --dino timm:vit_small_patch16_224.dino:WEIGHTS.safetensors
  python jobs/evaluate.py runs/demo --protocol paper --until-ci 0.005

Only what is not scored yet under this protocol, model, CLIP and sampler is scored; pictures that the protocol asks for and
that were not drawn in training are drawn from the words. The same night twice changes nothing.

Exit codes: 0 scored, and no worse than before; 1 scored, but worse, or some words could not be; 2 nothing was started, or
these runs cannot be compared.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cluster.session import Session, ray_session
from jobs.application.recorded import allowed
from jobs.cli.arguments import add_storage_and_cluster
from pipeline.models.families import family_of
from pipeline.models.find import ModelError, find_model
from pipeline.protocols import PROTOCOLS, Protocol, ProtocolError, find_protocol
from pipeline.records import Failure
from pipeline.settings import ModelSettings
from pipeline.store.run_folder import RunFolder
from pipeline.store.storage import Storage, StorageError, parse_storage_options, without_credentials

if TYPE_CHECKING:
    from eval.nightly.history import Verdict
    from eval.scores.score_run import Evaluation, Judgement

GOOD, WORSE, NOT_STARTED = 0, 1, 2
LISTED = 20


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evaluate.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run folder, as given to invert_all.py's --output")
    parser.add_argument(
        "--protocol",
        metavar="NAME|FILE",
        help=f"{', '.join(sorted(PROTOCOLS))} or a .toml file (default: the run's own)",
    )
    parser.add_argument(
        "--clip",
        metavar="NAME",
        help="open_clip model that scores (default: the run's own, if that is the shipped one)",
    )
    parser.add_argument(
        "--model",
        metavar="ID|PATH",
        help="that the words were learned on (default: the run's own, if that is the shipped one)",
    )
    parser.add_argument("--dino", metavar="timm:ARCH:FILE", help="a second judge, of pictures only")
    parser.add_argument(
        "--until-ci", type=float, default=0.0, metavar="X",
        help="draw a prompt's pictures in rounds, only until its score is known to within X on either side",
    )  # fmt: skip
    nightly = parser.add_argument_group("nightly")
    nightly.add_argument(
        "--history", metavar="URL", help="folder of the nights before (default: history/ in the first RUN)"
    )
    nightly.add_argument(
        "--night",
        metavar="NAME",
        help="nights follow each other in the order of their names (default: today's date, UTC)",
    )
    nightly.add_argument(
        "--fail-on-drop", type=float, metavar="X",
        help="exit 1 on a loss beyond chance of X in a fifth of the concepts, or as much in total",
    )  # fmt: skip
    nightly.add_argument("--group-by", metavar="COLUMN", help="of the manifest, to report and to hold the gate by")
    add_storage_and_cluster(parser)
    return parser


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder with what its words were made by. model: the name to load it by, which run.json may have another for."""

    folder: RunFolder
    configuration: dict[str, Any]
    protocol: Protocol
    clip: str
    model: str

    def judgement(self, session: Session, clip: str) -> "Judgement":
        from eval.scores.drawn_pictures import RunModel
        from eval.scores.score_run import Judgement

        made = self.configuration
        drawing = RunModel(
            self.model, session.device, ModelSettings(**made["model_settings"]), made["settings"]["seed"],
            made["settings"]["resolution"], self.folder.storage.options,
        )  # fmt: skip
        return Judgement(self.protocol, made["model"], made["model_digest"], clip, session.device, drawing)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    try:
        options = parse_storage_options(arguments.storage_option)
        runs = [open_run(url, options, arguments) for url in arguments.runs]
        night = arguments.night or datetime.now(UTC).date().isoformat()
        check_arguments(arguments, runs, night)
        history = Storage(arguments.history, options) if arguments.history else runs[0].folder.storage.folder("history")
        # open_clip and torch take seconds to import; a mistyped run should be told at once.
        from eval.scores.score_run import check_tokenizer, load_scorer

        for name in {run.clip for run in runs} | ({arguments.dino} if arguments.dino else set()):
            scorer = load_scorer(name)
            for run in runs:
                check_tokenizer(run.folder, scorer)
    except (ModelError, ProtocolError, StorageError, OSError, ValueError, KeyError) as error:
        print(f"wordmint: nothing was started.\n{error}", file=sys.stderr)
        return NOT_STARTED
    with ray_session(arguments.ray_address) as session:
        return evaluate(runs, history, night, session, arguments)


def open_run(url: str, options: dict[str, Any], arguments: argparse.Namespace) -> Run:
    """Raises when there is no such run, it names what may not be loaded on its word, or its model has other weights now than
    its words were learned on.
    """
    folder, shown = RunFolder(Storage(url, options)), without_credentials(url, options).rstrip("/")
    configuration = folder.read_json("run.json")
    clip = allowed(configuration["clip"], arguments.clip, "--clip", shown)
    model = find_model(allowed(configuration["model"], arguments.model, "--model", shown), options)
    if model.digest != configuration["model_digest"]:
        raise ModelError(
            f"{shown}: its words were learned on {model.name} with weights "
            f"{configuration['model_digest'][:12]}; here it has {model.digest[:12]}, and means something else by them"
        )
    if arguments.protocol:
        protocol = find_protocol(arguments.protocol)
    elif settings := configuration.get("protocol_settings"):
        protocol = Protocol.of_dict(settings)
    else:
        protocol = PROTOCOLS[configuration["protocol"].split("-v")[0]]
    family_of(model.family).refuse_unsuited(protocol.sampler)
    protocol = replace(protocol, until_ci=arguments.until_ci)
    return Run(folder, configuration, protocol, clip, model.name)


def check_arguments(arguments: argparse.Namespace, runs: Sequence[Run], night: str) -> None:
    from eval.nightly.history import NIGHT

    if not NIGHT.fullmatch(night):
        raise ValueError(f"--night {night!r}: it takes letters, digits, '.', ':', '_' and '-', 41 at most")
    if arguments.fail_on_drop is not None and not 0 < arguments.fail_on_drop < 1:
        raise ValueError(
            f"--fail-on-drop {arguments.fail_on_drop}: it takes a similarity between 0 and 1, such as 0.01"
        )
    if not 0 <= arguments.until_ci < 1:
        raise ValueError(f"--until-ci {arguments.until_ci}: it takes half a width of an interval, such as 0.005")
    for what in ("protocol", "clip"):
        found = {run.protocol.label if what == "protocol" else run.clip for run in runs}
        if len(found) > 1:
            raise ValueError(f"these runs were scored by different ones: {', '.join(sorted(found))}; give --{what}")


def evaluate(
    runs: Sequence[Run], history_folder: Storage, night: str, session: Session, arguments: argparse.Namespace
) -> int:
    from eval.nightly.canary import read_canary
    from eval.nightly.history import History, judge_night
    from eval.scores.groups import groups_by
    from eval.scores.score_run import score_run
    from jobs.application.report_run import summarise_run

    judgements = [run.judgement(session, run.clip) for run in runs]
    scored = [score_run(run.folder, each) for run, each in zip(runs, judgements, strict=True)]
    summaries = [summarise_run(run.folder, each.under) for run, each in zip(runs, scored, strict=True)]
    concepts = [concept for summary in summaries for concept in summary.concepts]
    canary = read_canary(runs[0].folder, judgements[0], night)
    try:
        refuse_doubles([concept.concept for concept in concepts])
        groups = groups_by(concepts, arguments.group_by) if arguments.group_by else {}
    except ValueError as error:
        print(f"wordmint: scored, but not compared.\n{error}", file=sys.stderr)
        return NOT_STARTED
    history = History(history_folder, scored[0].under)
    verdict = judge_night(history, night, concepts, groups, arguments.fail_on_drop, canary)
    history.record(verdict, concepts, groups)
    nights = [each for each in history.verdicts() if each.night <= night]
    for run, each in zip(runs, scored, strict=True):
        report(run, each, nights, session, arguments)
    failures = [failure for each in scored for failure in each.failures]
    say(verdict, failures)
    return WORSE if failures or not verdict.good else GOOD


def refuse_doubles(names: Sequence[str]) -> None:
    again = sorted(name for name, count in Counter(names).items() if count > 1)
    if again:
        raise ValueError(
            f"{len(again)} concepts are in several of these runs, such as {', '.join(again[:5])}: a night has each once; "
            "compare two runs of the same concepts as two nights, with one --history"
        )


def report(
    run: Run, scored: "Evaluation", nights: Sequence["Verdict"], session: Session, arguments: argparse.Namespace
) -> None:
    from eval.report.report_page import Background, Judge
    from eval.scores.score_run import score_run
    from jobs.application.report_run import headline, summarise_run, write_report

    judges = []
    if arguments.dino:
        second = score_run(run.folder, run.judgement(session, arguments.dino))
        found = summarise_run(run.folder, second.under)
        judges.append(Judge(arguments.dino, found.reconstruction, found.subject_fidelity))
    configuration = {
        **run.configuration,
        "evaluated": asdict(scored.under),
        "protocol_settings": run.protocol.as_dict(),
    }
    background = Background(arguments.group_by, nights, judges)
    summary = write_report(run.folder, scored.under, configuration, background)
    done = len(summary.concepts) - summary.unscored
    print(f"{scored.fresh} concepts scored now, {done} in all, by {scored.under.protocol}\n{headline(summary)}")
    for judge in judges:
        print(
            f"{judge.name}: reconstruction {judge.reconstruction.value:.3f}, "
            f"subject fidelity {judge.subject_fidelity.value:.3f}"
        )
    print(f"report    {without_credentials(run.folder.storage.url).rstrip('/')}/report/index.html")


def say(verdict: "Verdict", failures: Sequence[Failure]) -> None:
    """The night on one screen."""
    against = f"against {verdict.against}" if verdict.against else "the first night scored this way"
    print(f"night     {verdict.night}: {'good' if verdict.good else 'NOT GOOD'}, {against}")
    for each in verdict.comparisons:
        if each.n and not each.group:
            print(
                f"  {each.metric}: {each.before:.4f} -> {each.after:.4f} over {each.n} words learned anew, p = {each.p:.2g}; "
                f"a loss of {each.detectable:.4f} would have been noticed"
            )
    if verdict.canary:
        print(f"  canary: judged within {verdict.canary.judged:.5f}, drawn again within {verdict.canary.drawn:.5f}")
    for reason in verdict.reasons[:LISTED]:
        print(f"  {reason}")
    if len(verdict.reasons) > LISTED:
        print(f"  and {len(verdict.reasons) - LISTED} more, in the report")
    for failure in failures[:LISTED]:
        print(f"  {failure.concept} has no score: {failure.reason}")
    if len(failures) > LISTED:
        print(f"  and {len(failures) - LISTED} more without a score")


if __name__ == "__main__":
    sys.exit(main())
