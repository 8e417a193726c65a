"""Simulates how often the nightly gate raises an alarm, and how often it holds words back: the tables of eval/nightly/README.md.

  python -m jobs.bench.gate_rates
  python -m jobs.bench.gate_rates runs/demo

Without a run: some minutes on one core. With scored runs: the verdicts and the gate's floor on words of which it is known what they
are worth, and what other limits would say of them, in seconds, from tables that the runs hold. Neither needs a model or Ray.
"""

import argparse
import math
import sys
from collections.abc import Sequence

import numpy as np

from eval.nightly.acceptance import Rule
from eval.nightly.simulation import FALL, RUIN, acceptance_rates, rates
from eval.nightly.stand_ins import GROUPS, LEARNED, stand_ins
from eval.report.run_diff import NotComparableError, common_conditions
from eval.scores.score_tables import SCORES
from eval.scores.summary import VERDICTS, ConceptSummary
from jobs.application.report_run import read_features, summarise_run
from pipeline.store.parts import read_layout, read_parts
from pipeline.store.run_folder import RunFolder
from pipeline.store.storage import Storage, StorageError

CONCEPTS, NIGHTS = (2, 8, 50, 500, 5000), 500
CHANGED = (2, 5, 8, 50, 500)
LIMITS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
NOT_STARTED = 2


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gate_rates.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", metavar="RUN", help="a scored run folder (may be repeated)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    runs = parser().parse_args(argv).runs
    if not runs:
        print_simulated()
        return 0
    words: dict[str, list[ConceptSummary]] = {group: [] for group in GROUPS}
    try:
        for url in runs:
            for group, some in of_run(url).items():
                words[group] += some
    except (StorageError, NotComparableError, ValueError) as error:
        print(f"nothing was measured.\n{error}", file=sys.stderr)
        return NOT_STARTED
    print_verdicts(words)
    return 0


def of_run(url: str) -> dict[str, list[ConceptSummary]]:
    run = RunFolder(Storage(url))
    parts = read_layout(run)["scores"]
    scores = read_parts(run, "scores", parts, SCORES)
    under, _ = common_conditions(scores, scores)
    words = [each for each in summarise_run(run, under).concepts if each.kind != "negative" and each.repeat == "1"]
    rows = read_features(run, parts, under, ()).to_pylist()
    return stand_ins(words, rows)


def print_verdicts(words: dict[str, list[ConceptSummary]]) -> None:
    print(
        f"| pictures by | pictures of | {' | '.join(VERDICTS)} | below the gate's floor | covered: 5 %, median, 95 % |"
    )
    print("|---" * (len(VERDICTS) + 4) + "|")
    least, shares = Rule().least, {}
    for group in GROUPS:
        verdicts = [each.verdict for each in words[group]]
        shares[group] = np.array([each.covered for each in words[group] if not math.isnan(each.covered)])
        counts = " | ".join(str(verdicts.count(verdict)) for verdict in VERDICTS)
        below = int((shares[group] < least).sum())
        print(f"| {group} | {len(verdicts)} | {counts} | {below} | {quantiles(shares[group])} |")
    print(f"\n| covered at least | {' | '.join(GROUPS)} |\n{'|---' * (len(GROUPS) + 1)}|")
    for limit in LIMITS:
        above = (f"{(share >= limit).mean():.0%}" if len(share) else "" for share in shares.values())
        print(f"| {limit} | {' | '.join(above)} |")
    effects = np.array([each.effect for each in words[LEARNED]])
    varied = np.array(
        [each.diversity / each.diversity_ceiling for each in words[LEARNED] if each.diversity_ceiling > 0]
    )
    print("\nOf concepts' own words, 5 %, median, 95 %:")
    print(f"effect: {quantiles(effects[~np.isnan(effects)])}")
    print(f"diversity over that of the training images: {quantiles(varied[~np.isnan(varied)])}")


def quantiles(values: np.ndarray) -> str:
    return ", ".join(f"{each:.2f}" for each in np.quantile(values, (0.05, 0.5, 0.95))) if len(values) else ""


def print_simulated() -> None:
    print(
        f"| words changed | good words held back | quiet nights held back | missed: a word lost {FALL} | a word lost {RUIN} "
        "| a fifth lost 0.02 | all lost 0.02 |"
    )
    print("|---|---|---|---|---|---|---|")
    for changed in CHANGED:
        words = acceptance_rates(changed, NIGHTS)
        figures = (
            words.good_held, words.quiet_nights, words.fallen_missed, words.ruined_missed, words.fifth_missed, words.all_missed,
        )  # fmt: skip
        print(f"| {changed} | " + " | ".join(f"{figure:.1%}" for figure in figures) + " |", flush=True)
    print()
    for baseline in (False, True):
        print(f"{'With a baseline beside' if baseline else 'Against'} the last good night:\n")
        print(
            "| concepts | alarms, nothing changed | loss said to be noticed | alarms at that loss | alarms, 0.02 in a fifth |"
        )
        print("|---|---|---|---|---|")
        for concepts in CONCEPTS:
            measured = rates(concepts, NIGHTS, baseline=baseline)
            loss, noticed = (
                ("none", "")
                if math.isnan(measured.detectable)
                else (f"{measured.detectable:.4f}", f"{measured.noticed:.1%}")
            )
            print(f"| {concepts:,} | {measured.quiet:.1%} | {loss} | {noticed} | {measured.fifth:.1%} |", flush=True)
        print()


if __name__ == "__main__":
    sys.exit(main())
