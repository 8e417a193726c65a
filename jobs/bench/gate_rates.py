"""Simulates how often the nightly gate raises an alarm, and how often it holds words back: the tables of eval/nightly/README.md.

  python -m jobs.bench.gate_rates

Takes some minutes on one core; needs no model and no Ray.
"""

import math

from eval.nightly.simulation import FALL, RUIN, acceptance_rates, rates

CONCEPTS, NIGHTS = (2, 8, 50, 500, 5000), 500
CHANGED = (2, 5, 8, 50, 500)


def main() -> None:
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
    main()
