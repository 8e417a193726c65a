"""Compare the paper's baselines, as settings of one trainer on the same concepts, in reconstruction and editability.

  python jobs/compare.py --output runs/compare
  python jobs/compare.py --output runs/compare --steps-curve
  python jobs/compare.py --output s3://bucket/compare --manifest s3://bucket/manifest.csv --model ID

Without a manifest, the concepts are individuals, new kinds of things and styles that the shipped model was not trained on. Each
variant and training seed has its own run folder in the output; words and pictures that are there are not made again, so that the
same command resumes. It writes index.html, table.md and points.parquet after each training seed; with --steps-curve, curve.html,
curve.md and curve.parquet.

Exit codes: 0 compared; 1 compared, but some concepts failed; 2 nothing was started; 3 interrupted.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from cluster.addresses import ClusterError
from cluster.session import Session, ray_session
from eval.comparison.comparison_page import page_of
from eval.comparison.curve import MEASURED, costs_of, costs_table, courses_of, courses_svg, courses_table
from eval.comparison.picture_sets import manifest_of, picture_set, similarity_to_all
from eval.comparison.plane import Point, marks_of, plane_svg, point_rows, table_of, tables_by_kind
from eval.comparison.variants import (
    BASE,
    CAPTION,
    PLACES,
    SETS,
    TRAINED,
    Variant,
    ceilings,
    folder_of,
    points_of_run,
    untrained_points,
)
from eval.judges.clip import load_clip
from eval.scores.score_tables import without_nan
from jobs.api import NotStartedError, Placement, RunRequest
from jobs.application.local_paths import absolute_name
from jobs.application.requests import require
from jobs.application.run_scores import check_judge
from jobs.cli.arguments import add_storage_and_cluster, folder
from jobs.cli.log import Log, open_log
from jobs.invert_all import CUT_SHORT, SOME_FAILED, exit_code
from jobs.mini.recipe.things import HELD_OUT
from pipeline.inputs.manifest import ManifestError, RowDefaults, read_manifest
from pipeline.models.find import MINI, Model, ModelError, find_model
from pipeline.protocols import PROTOCOLS
from pipeline.settings import InversionSettings
from pipeline.store.parquet.parquet_tables import data_of
from pipeline.store.run_folder import RunFolder
from pipeline.store.storage import Storage, StorageError, parse_storage_options, without_credentials
from pipeline.training.recipes import PUBLISHED, recipe_of, vectors_of

COMPARED, NOT_STARTED = 0, 2
CONCEPTS, SEEDS = 60, 3  # 28 individuals, 28 new kinds, four styles
PROTOCOL = "compare-v2"  # without floors, which would be the same for every variant, and few pictures of many words
CAPTION_COLUMN = "description"
STYLES = 4  # that three_kinds.py has filters of
# Columns of three_kinds.py's manifest: a concept's kind, and its name, a person's shortest caption.
KIND, NAME = "group", "thing"
KNOWN = (*TRAINED, *PLACES, *SETS)
FEWEST_CONCEPTS, MOST_STEPS, MOST_SEEDS = 6, 1_000_000, 1000


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="compare.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output",
        default="runs/compare",
        metavar="URL",
        help="folder for the runs and the page (default: %(default)s)",
    )
    parser.add_argument(
        "--manifest",
        metavar="URL",
        help="concepts to compare on (default: three kinds that the shipped model was not trained on)",
    )
    parser.add_argument(
        "--concepts",
        type=int,
        default=CONCEPTS,
        metavar="N",
        help="number of these: four styles, and as many individuals as new kinds (default: %(default)s)",
    )
    parser.add_argument(
        "--art",
        type=folder,
        default=Path("runs/mini/art"),
        help="folder of their drawings, downloaded if it is missing",
    )
    parser.add_argument(
        "--model",
        type=absolute_name,
        default=MINI,
        metavar="ID|PATH",
        help="as for invert_all.py (default: %(default)s)",
    )
    parser.add_argument(
        "--clip",
        type=absolute_name,
        default="mini",
        metavar="NAME",
        help="open_clip model that scores (default: %(default)s)",
    )
    parser.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help=f"most optimiser steps of a variant (default: as the model's words are learned, {recipe_of(MINI).steps} for the "
        f"shipped model, {PUBLISHED.steps:,} for others)",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=SEEDS,
        metavar="N",
        help="trainings of every word, with the seeds 0 to N-1 (default: %(default)s)",
    )
    parser.add_argument(
        "--variants",
        metavar="NAME,...",
        help=f"some of {', '.join(variant.name for variant in KNOWN)} (default: all without a number of pictures and "
        f"before the encoder; {BASE} is always there)",
    )
    parser.add_argument(
        "--caption-column",
        action="append",
        metavar="COLUMN",
        help=f"manifest column with a caption of each concept (default: {CAPTION_COLUMN}, or the names of things without "
        "--manifest); repeat it for "
        "captions of another length",
    )
    parser.add_argument(
        "--steps-curve",
        action="store_true",
        help="instead of the baselines, plot quality against U-Net evaluations for published recipes and ours",
    )
    parser.add_argument(
        "--curve-steps",
        type=int,
        default=800,
        metavar="N",
        help="most steps for which a published recipe is trained (default: %(default)s)",
    )
    add_storage_and_cluster(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    log = open_log(arguments)
    try:
        options = parse_storage_options(arguments.storage_option)
        variants = chosen(arguments.variants)
        model = find_model(arguments.model)
        settings = recipe_of(arguments.model)
        if arguments.steps is not None:
            settings = replace(settings, steps=arguments.steps)
        require("--concepts", arguments.concepts, FEWEST_CONCEPTS, 2 * HELD_OUT + STYLES)
        require("--curve-steps", arguments.curve_steps, 1, MOST_STEPS)
        require("--seeds", arguments.seeds, 1, MOST_SEEDS)
        output = Storage(arguments.output, options)
        manifest = arguments.manifest or three_kinds(arguments, variants)
        concepts = read_manifest(manifest, dict(options)).concepts
        # Before Ray is started, as each run checks it within the session.
        check_judge(arguments.clip, arguments.model, PROTOCOLS[PROTOCOL], concepts)
    except (ManifestError, ModelError, NotStartedError, StorageError, OSError, ValueError) as error:
        log.complain("not started", f"nothing was started.\n{error}")
        return NOT_STARTED
    try:
        if arguments.steps_curve:
            return steps_curve(arguments, settings, manifest, model, output, log)
        return compare(arguments, settings, variants, manifest, output, log)
    except ClusterError as error:
        log.complain("not started", f"nothing was started.\n{error}")
        return NOT_STARTED
    except KeyboardInterrupt:
        log.complain("cut short", "cut short; the same command goes on from here.")
        return CUT_SHORT


def chosen(names: str | None) -> tuple[Variant, ...]:
    """The variants named, and the base. Raises ValueError."""
    if names is None:
        return TRAINED
    wanted = {BASE, *(name.strip() for name in names.split(","))}
    if unknown := wanted - {variant.name for variant in KNOWN}:
        raise ValueError(f"--variants: there is no {min(unknown)!r}; see --help")
    return tuple(variant for variant in KNOWN if variant.name in wanted)


def three_kinds(arguments: argparse.Namespace, variants: Sequence[Variant]) -> str:
    """Path of a manifest of individuals, new kinds and styles, written into the local output folder. Each has four pictures, or as
    many as the largest set takes.
    """
    from jobs.mini.recipe import art
    from jobs.mini.three_kinds import POSES, write_three_kinds

    if arguments.concepts % 2:
        raise ValueError(
            f"--concepts {arguments.concepts}: it takes an even number, {STYLES} of them styles, half of the others individuals"
        )
    if "://" in arguments.output:
        raise ValueError(
            "--output is a URL: give a --manifest, as the shipped model's concepts are written to a local folder"
        )
    pictures = max([len(POSES), *(variant.pictures or 0 for variant in variants)])
    more = f"-of-{pictures}" if pictures > len(POSES) else ""
    folder = Path(arguments.output) / f"three-kinds-{arguments.concepts}{more}"
    if (folder / "manifest.csv").exists():
        return str(folder / "manifest.csv")
    count = (arguments.concepts - STYLES) // 2
    return str(write_three_kinds(art.load_art(arguments.art), folder, count, load_clip(), pictures))


def compare(
    arguments: argparse.Namespace,
    settings: InversionSettings,
    variants: Sequence[Variant],
    manifest: str,
    output: Storage,
    log: Log,
) -> int:
    """One Ray session for all runs. The page is written after each training seed, over the seeds so far."""
    codes = []
    with ray_session(arguments.ray_address) as session:
        for seed in range(arguments.seeds):
            compared = []
            for variant in variants:
                learned_from = manifest if variant.pictures is None else set_manifest(variant, manifest, output)
                if learned_from is None:
                    log.say("left out", f"variant   {variant.name}: left out, as no concept has so many pictures")
                    continue
                log.say("variant", f"variant   {variant.name}: {variant}; training seed {seed}")
                request = RunRequest(
                    manifest=learned_from,
                    protocol=PROTOCOL,
                    output=output.folder(folder_of(variant, seed)).url,
                    model=arguments.model,
                    clip=arguments.clip,
                    settings=replace(settings, seed=seed, **variant.settings),
                    row_defaults=RowDefaults(vectors=variant.vectors),
                    storage_options=output.options,
                    placement=Placement(ray_address=arguments.ray_address),
                )
                codes.append(exit_code(request, log))
                if codes[-1] > SOME_FAILED:
                    return codes[-1]
                compared.append(variant)
            show(arguments, session, compared, seed + 1, manifest, output, log)
    return max(codes)


def show(
    arguments: argparse.Namespace,
    session: Session,
    variants: Sequence[Variant],
    seeds: int,
    manifest: str,
    output: Storage,
    log: Log,
) -> None:
    """Writes the page over these training seeds."""
    base = base_run(output)
    points = [
        point for seed in range(seeds) for variant in variants for point in points_of_variant(variant, seed, output)
    ]
    points += untrained_points(base, None, arguments.model, arguments.clip, session.device, output)
    points += captions(arguments, session, output, log)
    concepts = read_manifest(manifest, dict(output.options)).concepts
    kinds = {each.name: each.carried.get(KIND) or each.kind for each in concepts}
    ceiling = float(np.nanmean(ceilings(base)))
    marks = marks_of(points, BASE)
    tables = [table_of(marks, BASE), *tables_by_kind(points, kinds, BASE)]
    page = page_of("wordmint: the paper's baselines", [plane_svg(marks, BASE, ceiling)], tables)
    text = "\n".join(table.markdown() for table in tables)
    write(output, {"index.html": page, "table.md": text}, "points.parquet", point_rows(points))
    log.say("compared", f"{text}\ncompared  {without_credentials(output.url).rstrip('/')}/index.html")


def base_run(output: Storage) -> RunFolder:
    return RunFolder(output.folder(folder_of(TRAINED[0], 0)))


def set_manifest(variant: Variant, manifest: str, output: Storage) -> str | None:
    """The URL of a manifest with as many pictures a concept as the variant is trained on; None if no concept has them."""
    assert variant.pictures is not None
    sets = picture_set(base_run(output), variant.pictures, variant.curated)
    if not sets:
        return None
    path = f"sets/{variant.folder}.csv"
    output.write_bytes(path, manifest_of(read_manifest(manifest, dict(output.options)).concepts, sets))
    return f"{output.url.rstrip('/')}/{path}"


def points_of_variant(variant: Variant, seed: int, output: Storage) -> list[Point]:
    run = RunFolder(output.folder(folder_of(variant, seed)))
    points = points_of_run(run, variant.name, seed)
    if variant.pictures is None:
        return points
    similar = similarity_to_all(run, base_run(output))
    return [replace(each, reconstruction=similar.get(each.concept, math.nan)) for each in points]


def captions(arguments: argparse.Namespace, session: Session, output: Storage, log: Log) -> list[Point]:
    """Of every length of caption that the manifest has a column of."""
    points = []
    for column in arguments.caption_column or [CAPTION_COLUMN if arguments.manifest else NAME]:
        some = untrained_points(base_run(output), column, arguments.model, arguments.clip, session.device, output)
        if not some:
            log.say("left out", f"variant   {CAPTION}: left out, as no concept has a column {column!r}")
        points += some
    return points


def steps_curve(
    arguments: argparse.Namespace, settings: InversionSettings, manifest: str, model: Model, output: Storage, log: Log
) -> int:
    from eval.comparison.steps_curve import measure, recipes_of

    recipes = recipes_of(settings, arguments.curve_steps, vectors_of(arguments.model))
    concepts = [replace(each, carried={}) for each in read_manifest(manifest, dict(output.options)).concepts]
    with ray_session(arguments.ray_address):
        rows = measure(concepts, model, arguments.clip, recipes, output, arguments.seeds)
    courses, reference = courses_of(rows), recipes[0].name
    costs = costs_table(costs_of(courses, reference, np.random.default_rng(0)), reference)
    everything = courses_table(courses)
    seeds, compared = courses[0].reconstruction.shape[:2]
    diverged = len(concepts) - compared
    said = f"{seeds} training seeds, {compared} concepts" + (
        f"; {diverged} more diverged under one recipe or another" if diverged else ""
    )
    table = f"{costs.markdown()}\n{everything.markdown()}\n{said}\n"
    page = page_of("wordmint: quality against cost", [courses_svg(courses)], [costs, everything], said)
    looks = pa.Table.from_pylist(
        [without_nan({name: getattr(row, name) for name in MEASURED.names}) for row in rows], MEASURED
    )
    write(output, {"curve.html": page, "curve.md": table}, "curve.parquet", looks)
    log.say("curve", f"{table}\ncurve     {without_credentials(output.url).rstrip('/')}/curve.html")
    return COMPARED


def write(output: Storage, texts: dict[str, str], name: str, table: pa.Table) -> None:
    for path, text in texts.items():
        output.write_bytes(path, text.encode())
    output.write_bytes(name, data_of(table))


if __name__ == "__main__":
    sys.exit(main())
