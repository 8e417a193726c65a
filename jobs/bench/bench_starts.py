"""Measures on the shipped model what words gain by starting from their pictures.

  python -m jobs.bench.bench_starts --output runs/starts
  python -m jobs.bench.bench_starts --output runs/starts-small --archives 50 --concepts 8 --seeds 1 --starts archives

Learns an archive of words of known things in other colours, each from the word of its thing, and fits start files to the first of
them (--archives says to how many) and to the vocabulary. Then learns individuals and new kinds that are in no archive from their
class, the vocabulary's mean, the shipped start encoder and each file: words of one vector, by the shipped rate and batch size.
Looks at them on the way. The CLIP gives features and scores texts; likeness is the outline judge's, which gave no features.

Each finished part is kept in the output folder, and the same command goes on from there. Writes table.md.
"""

import argparse
import multiprocessing
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file

from eval.comparison.comparison_page import Table
from eval.comparison.curve import MEASURED, Measured, costs_of, costs_table, courses_of, courses_table
from eval.comparison.steps_curve import START_COST
from eval.comparison.two_way import two_way_interval
from eval.judges.clip import OpenClipScorer, load_clip
from eval.judges.outline import OutlineScorer
from eval.starts.archive import Archive, ArchivedWord
from eval.starts.archive_fit import fit_archive
from eval.starts.start_curve import Subject, Vectors, follow
from eval.starts.vocabulary import fit_vocabulary
from jobs.cli.arguments import folder, whole_number
from jobs.mini.recipe import art, things
from jobs.mini.recipe.individuals import KEPT_BACK, kinds_by_digest
from jobs.mini.three_kinds import INDIVIDUAL, NEW_KIND, individual_pages, new_kind_pages
from pipeline.models.base import Backbone
from pipeline.models.find import MINI, find_model
from pipeline.models.load import load_backbone
from pipeline.models.start_encoder import load_start_encoder
from pipeline.protocols import QUICK, Protocol
from pipeline.records import Concept, Word
from pipeline.sampling.sampler import pictures_of_noun
from pipeline.settings import DTYPES, InversionSettings, ModelSettings
from pipeline.training.inversion import train_step
from pipeline.training.recipes import recipe_of
from pipeline.training.slot import new_slot
from pipeline.training.start_vectors import start_vectors

LOOKS = (0, 10, 25, 50, 100)
TOGETHER = 8  # words in one batch
DRAWN = replace(QUICK, name="starts", plain_images=3, edit_images=1, untrained_images=0, steps=12)
RECIPE = replace(recipe_of(MINI), steps=96, start="words")  # for words of one vector
CLASS, MEAN, SHIPPED, VOCABULARY = "class", "vocabulary's mean", "pictures, as shipped", "vocabulary file"
OFFERED = ("pictures", "archives", "vocabulary")  # beside the rivals
RIVALS = {INDIVIDUAL: (CLASS, MEAN), NEW_KIND: (MEAN,)}  # a new kind has no class

Starts = Callable[[Concept, np.ndarray], dict[str, Vectors]]  # concept, pixels -> name of a start -> first vectors


@dataclass(frozen=True, slots=True)
class Part:
    """All subjects of a kind from one start with one training seed, and where its table is kept, and the first seed's."""

    subjects: Sequence[Subject]
    start: str
    settings: InversionSettings
    looks: Sequence[int]
    protocol: Protocol
    path: Path
    first: Path


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench_starts.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=folder, default=Path("runs/starts"))
    parser.add_argument(
        "--art", type=folder, default=Path("runs/mini/art"), help="folder of the drawings, downloaded if it is missing"
    )
    parser.add_argument(
        "--archives",
        type=whole_number(10, 300),
        nargs="+",
        default=[50, 150, 300],
        metavar="N",
        help="words in each archive (default: 50 150 300)",
    )
    parser.add_argument(
        "--concepts", type=whole_number(2, 60), default=40, metavar="N", help="of each kind (default: %(default)s)"
    )
    parser.add_argument(
        "--seeds", type=whole_number(1, 100), default=3, metavar="N", help="of the training (default: %(default)s)"
    )
    parser.add_argument(
        "--starts",
        nargs="+",
        choices=OFFERED,
        default=OFFERED,
        metavar="START",
        help=f"beside the class and the vocabulary's mean: {', '.join(OFFERED)} (default: all)",
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="auto",
        help="of the U-Net and its text encoder; bfloat16 takes about 0.6 of the time on CPUs that have it (default: %(default)s)",
    )
    parser.add_argument(
        "--processes",
        type=whole_number(1, 64),
        default=1,
        metavar="N",
        help="of one thread each (default: %(default)s)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    arguments.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    drawings, clip = art.load_art(arguments.art), load_clip()
    backbone = load_backbone(MINI, settings=ModelSettings(dtype=arguments.dtype))
    counts = sorted(arguments.archives) if "archives" in arguments.starts else []
    words = archive_of(backbone, clip, drawings, arguments.output / "archive", max(counts, default=0))
    starts = starts_of(backbone, clip, words, counts, arguments.starts)
    subjects = {kind: subjects_of(kind, backbone, drawings, arguments.concepts, starts) for kind in RIVALS}
    parts = {kind: parts_of(kind, some, arguments) for kind, some in subjects.items()}
    in_turn = sorted((part for some in parts.values() for part in some), key=lambda part: part.settings.seed)
    measure([part for part in in_turn if not part.path.exists()], arguments.dtype, arguments.processes)
    tables = "\n".join(page(kind, some, RIVALS[kind]) for kind, some in parts.items())
    (arguments.output / "table.md").write_text(tables, encoding="utf-8")
    print(tables)
    return 0


def archive_of(
    backbone: Backbone, clip: OpenClipScorer, drawings: art.Art, place: Path, count: int
) -> list[ArchivedWord]:
    """Words of known things, each in colours that it does not have, but for those that become individuals."""
    known = list(kinds_by_digest()[KEPT_BACK:])
    place.mkdir(exist_ok=True)
    archive = []
    for first in range(0, count, TOGETHER):
        some = [
            (f"{known[number % len(known)]} {number}", known[number % len(known)], number + number // len(known))
            for number in range(first, min(first + TOGETHER, count))
        ]
        pages = [_pixels(backbone, individual_pages(drawings, name, colours)) for _, name, colours in some]
        learned = place / f"{first} to {first + len(some)}.safetensors"  # a larger archive has more in its last batch
        if not learned.exists():
            slots = [
                new_slot(Concept(name, (), "<word>", initializer=thing), pixels, backbone, RECIPE)
                for (name, thing, _), pixels in zip(some, pages, strict=True)
            ]
            vectors: dict[str, np.ndarray] = {}
            while len(vectors) < len(slots):
                for slot, word in train_step(backbone, [slot for slot in slots if slot.concept.name not in vectors]):
                    assert isinstance(word, Word), word
                    (vectors[slot.concept.name],) = word.vectors.values()
            save_file(vectors, learned)
            print(f"archive: {first + len(some)} of {count} words", file=sys.stderr, flush=True)
        kept, (encoder,) = load_file(learned), backbone.encoders
        for (name, thing, _), pixels in zip(some, pages, strict=True):
            feature = clip.encode_images(list(pixels)).mean(0)
            archive.append(ArchivedWord(0, name, "", "<word>", thing, "object", {encoder: kept[name]}, feature))
    return archive


def starts_of(
    backbone: Backbone,
    clip: OpenClipScorer,
    words: Sequence[ArchivedWord],
    counts: Sequence[int],
    offered: Collection[str],
) -> Starts:
    """A start from the class only where there is one."""
    model = find_model(MINI)
    encoder = load_start_encoder(model)
    files = {
        f"archive of {count}": fit_archive(
            Archive(tuple(words[:count]), clip.fingerprint, 0, 0), MINI, model.digest, MINI
        ).start
        for count in counts
    }
    if "vocabulary" in offered:
        files[VOCABULARY] = fit_vocabulary(MINI, model.digest, MINI)[0]

    def starts(concept: Concept, pixels: np.ndarray) -> dict[str, Vectors]:
        features = clip.encode_images(list(pixels))
        made: dict[str, Vectors] = (
            {CLASS: backbone.initial_vectors(concept.initializer, 1)} if concept.initializer else {}
        )
        made[MEAN] = backbone.initial_vectors(None, 1)
        if "pictures" in offered:
            noun = concept.initializer
            drawn = encoder.vectors(pictures_of_noun(backbone, noun)) if noun else None
            made[SHIPPED] = start_vectors(
                backbone, concept, replace(RECIPE, start="pictures"), pictured=encoder.vectors(pixels), drawn=drawn
            )
        for name, file in files.items():
            vectors = file.vectors(features, concept.kind, concept.vectors)
            assert vectors is not None, name
            made[name] = vectors
        return made

    return starts


def subjects_of(kind: str, backbone: Backbone, drawings: art.Art, count: int, starts: Starts) -> list[Subject]:
    subjects = []
    for number, name in enumerate(
        kinds_by_digest()[:count] if kind == INDIVIDUAL else things.held_out_things()[:count]
    ):
        pages = individual_pages(drawings, name, number) if kind == INDIVIDUAL else new_kind_pages(drawings, name)
        concept = Concept(name, (), "<word>", initializer=name if kind == INDIVIDUAL else None)
        pixels = _pixels(backbone, pages)
        subjects.append(Subject(concept, pixels, starts(concept, pixels)))
    return subjects


def parts_of(kind: str, subjects: Sequence[Subject], arguments: argparse.Namespace) -> list[Part]:
    def path(start: str, seed: int) -> Path:
        name = f"{kind}, {start}, {len(subjects)} concepts, {arguments.dtype}, seed {seed}.parquet"
        return Path(arguments.output) / name

    settings = replace(RECIPE, steps=max(LOOKS))
    return [
        Part(subjects, start, replace(settings, seed=seed), LOOKS, DRAWN, path(start, seed), path(start, 0))
        for seed in range(arguments.seeds)
        for start in subjects[0].starts
    ]


def read_part(path: Path) -> list[Measured]:
    return [Measured(**row) for row in pq.read_table(path).to_pylist()]


def measure(parts: Sequence[Part], dtype: str, processes: int) -> None:
    """Every word of each part at each look. Raises RuntimeError if a process fails; what the others finish is kept."""
    started = multiprocessing.get_context("spawn")
    shares = [parts[k::processes] for k in range(min(processes, len(parts)))]
    workers = [started.Process(target=_measure, args=(share, dtype), daemon=True) for share in shares]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failed := [worker.exitcode for worker in workers if worker.exitcode]:
        raise RuntimeError(f"{len(failed)} of {len(workers)} processes failed, exit code {failed[0]}; see above")


def _measure(parts: Sequence[Part], dtype: str) -> None:
    torch.set_num_threads(1)
    backbone, clip = load_backbone(MINI, settings=ModelSettings(dtype=dtype)), load_clip()
    judge = OutlineScorer()
    for part in parts:
        # Words of no step are the same under every seed, and so are the pictures of them.
        untrained = [row for row in read_part(part.first) if row.step == 0] if part.first.exists() else []
        looks = [step for step in part.looks if step or not untrained]
        looked = follow(
            backbone, part.subjects, part.settings, {part.start: looks}, judge, part.protocol, clip, TOGETHER
        )
        # All have a class, or none.
        cost = START_COST if part.start == SHIPPED and part.subjects[0].concept.initializer else 0
        seed = part.settings.seed
        rows = [replace(row, seed=seed) for row in untrained]
        for each in looked:
            evaluations = each.step * part.settings.batch_size + cost
            rows.append(Measured(each.start, each.concept, each.step, evaluations, each.likeness, each.text, seed))
        unfinished = part.path.with_suffix(".tmp")
        pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows], MEASURED), unfinished)
        unfinished.replace(part.path)
        print(part.path.stem, file=sys.stderr, flush=True)


def page(kind: str, parts: Sequence[Part], rivals: Sequence[str]) -> str:
    """Markdown: each start at each look, its differences from each rival there, and its cost to 95 % of the rival's gain."""
    courses = courses_of([row for part in parts for row in read_part(part.path)])
    seeds = len({part.settings.seed for part in parts})
    written = [
        f"## {kind}s: {len(parts[0].subjects)}, training seeds: {seeds}; {RECIPE.batch_size} evaluations a step\n",
        courses_table(courses).markdown(),
    ]
    for rival in rivals:
        base = next(course for course in courses if course.recipe == rival)
        others = [course for course in courses if course is not base]
        for what, scores in (("likeness", "reconstruction"), ("text similarity", "editability")):
            heads = ("start", *(f"{what} after {step} steps, less {rival}'s" for step in LOOKS))
            rows = tuple(
                (course.recipe, *_differences(getattr(course, scores) - getattr(base, scores))) for course in others
            )
            written.append(Table(heads, rows).markdown())
        written.append(costs_table(costs_of(courses, rival, np.random.default_rng(0)), rival).markdown())
    return "\n".join(written)


def _differences(values: np.ndarray) -> list[str]:
    """values: S seeds by C concepts by T looks. The mean of each look with its interval."""
    intervals = [two_way_interval(values[:, :, look]) for look in range(values.shape[2])]
    means = values.mean(axis=(0, 1))
    return [f"{mean:+.3f} ({low:+.3f} to {high:+.3f})" for mean, (low, high) in zip(means, intervals, strict=True)]


def _pixels(backbone: Backbone, pages: Sequence[Image.Image]) -> np.ndarray:
    """uint8 (N, R, R, 3)."""
    side = backbone.resolution
    return np.stack([np.asarray(page.resize((side, side))) for page in pages])


if __name__ == "__main__":
    sys.exit(main())
