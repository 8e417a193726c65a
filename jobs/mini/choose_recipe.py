"""Compares recipes for the shipped model's words: python -m jobs.mini.choose_recipe [--output runs/recipes]

Learns individuals, new kinds and styles that no report uses, by each of RECIPES and with several training seeds, and prints the
mean over the seeds, the lowest and the highest of each figure of `make mini-report`. What is done is not done again.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np

from cluster.session import ray_session
from eval.judges.clip import load_clip
from eval.judges.judge import ImageScorer
from eval.judges.outline import OutlineScorer
from jobs.api import RunRequest, invert
from jobs.cli.arguments import folder, whole_number
from jobs.cli.log import Log
from jobs.mini.recipe import art
from jobs.mini.recipe.individuals import KEPT_BACK
from jobs.mini.report_by_kind import PROMPTS, Figure, figures_of_words
from jobs.mini.three_kinds import POSES, STYLES, write_three_kinds
from pipeline.inputs.manifest import RowDefaults
from pipeline.models.find import MINI
from pipeline.settings import InversionSettings, Start
from pipeline.training.recipes import recipe_of

REPORTED = 28  # of individuals, and of new kinds: compare.py uses as many, `make mini-report` fewer of them
PROTOCOL = f"""name = "choose-recipe"
plain_images = 4
edit_images = 1
untrained_images = 2
{PROMPTS}"""

SAID = {"learning_rate": "rate", "min_snr": "min-SNR", "batch_size": "pictures"}  # in names of recipes


@dataclass(frozen=True, slots=True)
class Recipe:
    """What differs between recipes; the rest is as the shipped model's recipe has it."""

    vectors: int
    steps: int
    learning_rate: float = 0.01
    min_snr: float = 0.1
    start: Start = "pictures"
    batch_size: int = 4

    @property
    def settings(self) -> InversionSettings:
        return replace(recipe_of(MINI), **{name: value for name, value in asdict(self).items() if name != "vectors"})

    @property
    def name(self) -> str:
        """What it has, and what it has other than most.

        >>> Recipe(3, 96).name, Recipe(1, 48, 0.02, start="words").name
        ('vectors 3, steps 96', 'vectors 1, steps 48, rate 0.02, start words')
        """
        values = ((each, getattr(self, each.name)) for each in fields(self))
        return ", ".join(f"{SAID.get(each.name, each.name)} {value}" for each, value in values if value != each.default)

    @property
    def folder(self) -> str:
        """Of its run.

        >>> Recipe(3, 96, 0.02).folder
        'vectors-3-steps-96-rate-0.02'
        """
        return self.name.replace(", ", "-").replace(" ", "-")


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(1, 48),
        Recipe(1, 96),
        Recipe(1, 48, start="words"),
        Recipe(2, 96),
        Recipe(3, 48),
        Recipe(3, 96),
        Recipe(3, 72),
        Recipe(3, 192),
        Recipe(3, 192, min_snr=1),
        Recipe(6, 96),
        Recipe(6, 192),
        Recipe(6, 192, min_snr=1),
        Recipe(6, 384),
        Recipe(3, 96, batch_size=2),
        Recipe(3, 48, learning_rate=0.02),
        Recipe(3, 96, learning_rate=0.005),
        Recipe(3, 96, learning_rate=0.02),
        Recipe(3, 96, min_snr=1),
        Recipe(3, 96, min_snr=0),
        Recipe(3, 96, start="words"),
    )
}


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=folder, default=Path("runs/recipes"))
    parser.add_argument(
        "--art", type=folder, default=Path("runs/mini/art"), help="folder of the drawings, downloaded if it is missing"
    )
    parser.add_argument(
        "--concepts",
        type=whole_number(2, KEPT_BACK - REPORTED - len(POSES) * len(STYLES)),
        default=16,
        help="individuals, and as many new kinds (default: %(default)s)",
    )
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=[*RECIPES], metavar="NAME", help="only these")
    parser.add_argument("--seeds", type=whole_number(1, 100), default=3, help="training seeds (default: %(default)s)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    arguments.output.mkdir(parents=True, exist_ok=True)
    drawings = art.load_art(arguments.art)
    manifest = write_three_kinds(drawings, arguments.output / "concepts", arguments.concepts, first=REPORTED)
    (protocol := arguments.output / "choose-recipe.toml").write_text(PROTOCOL, encoding="utf-8")
    judges: list[ImageScorer] = [load_clip(), OutlineScorer()]
    measured: dict[str, list[list[Figure]]] = {}
    with ray_session():
        for seed in range(arguments.seeds):
            for name in arguments.recipes:
                recipe = RECIPES[name]
                run = arguments.output / f"{recipe.folder}-{seed}"
                request = RunRequest(
                    str(manifest), output=str(run), protocol=str(protocol), settings=replace(recipe.settings, seed=seed),
                    row_defaults=RowDefaults(vectors=recipe.vectors),
                )  # fmt: skip
                result = invert(request, Log())
                if result.failures:
                    print(f"no word for {', '.join(result.failures)}", file=sys.stderr)
                    return 1
                measured.setdefault(name, []).append(figures_of_words(run, drawings, judges))
            (arguments.output / "table.md").write_text(table := table_of(measured), encoding="utf-8")
            print(table)
    return 0


def table_of(measured: Mapping[str, Sequence[Sequence[Figure]]]) -> str:
    """measured: recipe -> of each seed, the same figures in the same order."""
    (first, *_), *_ = measured.values()
    lines = [" | ".join(["", "measured", *measured, ""]).strip(), "|---" * (len(measured) + 1) + "|"]
    for place, figure in enumerate(first):
        cells = [_cell([seed[place].value for seed in seeds]) for seeds in measured.values()]
        lines.append(f"| {figure.name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(values: Sequence[float]) -> str:
    """Mean, lowest, highest.

    >>> _cell([0.5, 0.75, 0.7])
    '0.650 (0.500 to 0.750)'
    """
    return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    sys.exit(main())
