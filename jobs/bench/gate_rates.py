"""Simulates how often the nightly gate raises an alarm: the table of eval/nightly/README.md.

  python -m jobs.bench.gate_rates

Takes some minutes on one core; needs no model and no Ray.
"""

import math

from eval.nightly.simulation import rates

CONCEPTS, NIGHTS = (2, 8, 50, 500, 5000), 500


def main() -> None:
    for baseline in (False, True):
        print(f"{'With a baseline beside' if baseline else 'Against'} the last good night:\n")
        print(
            "| concepts | alarms, nothing changed | loss said to be noticed | alarms at that loss | alarms, 0.02 in a fifth |"
        )
        print("|---|---|---|---|---|")
        for concepts in CONCEPTS:
            found = rates(concepts, NIGHTS, baseline=baseline)
            loss, noticed = (
                ("none", "") if math.isnan(found.detectable) else (f"{found.detectable:.4f}", f"{found.noticed:.1%}")
            )
            print(f"| {concepts:,} | {found.quiet:.1%} | {loss} | {noticed} | {found.fifth:.1%} |", flush=True)
        print()


if __name__ == "__main__":
    main()
