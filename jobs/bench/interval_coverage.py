"""Simulates the coverage of our 95 % intervals: the tables of docs/measured.md.

  python -m jobs.bench.interval_coverage

Takes some minutes on one core; needs no model and no Ray.
"""

from eval.comparison.coverage import SHAPES, Statistic, cost_coverage, coverage, two_way_coverage

COUNTS, REPEATS, COSTS = (2, 3, 4, 8, 16, 20, 64), 2000, 500
TWO_WAY = ((3, 20), (3, 60), (5, 20))


def main() -> None:
    statistics: tuple[Statistic, ...] = ("mean", "median", "diversity")
    print("| values | " + " | ".join(f"{name}, {shape}" for name in statistics for shape in shapes_of(name)) + " |")
    print("|---" * (1 + sum(len(shapes_of(name)) for name in statistics)) + "|")
    for count in COUNTS:
        cells = [
            f"{coverage(name, shape, count, REPEATS):.1%}" if count > 2 or name != "diversity" else "none"
            for name in statistics
            for shape in shapes_of(name)
        ]
        print(f"| {count} | {' | '.join(cells)} |", flush=True)
    print(
        "\n| seeds, concepts | mean, seeds alike | mean, a seed good or bad for all concepts | cost to 95 % of the gain |"
    )
    print("|---|---|---|---|")
    for seeds, concepts in TWO_WAY:
        alike, common = (two_way_coverage(seeds, concepts, shared, REPEATS) for shared in (0.0, 0.5))
        cost = cost_coverage(seeds, concepts, COSTS)
        print(f"| {seeds}, {concepts} | {alike:.1%} | {common:.1%} | {cost:.1%} |", flush=True)


def shapes_of(statistic: Statistic) -> tuple[str, ...]:
    return ("normal",) if statistic == "diversity" else tuple(SHAPES)


if __name__ == "__main__":
    main()
