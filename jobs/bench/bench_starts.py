"""Measures on the shipped model what words gain by starting from their pictures.

  python -m jobs.bench.bench_starts --output runs/starts
  python -m jobs.bench.bench_starts --output runs/starts-small --archives 50 --concepts 8 --seeds 1

Learns an archive of words of known things in other colours, each from the word of its thing, and fits start files to the first of
them (--archives says to how many) and to the vocabulary. Then learns individuals and new kinds that are in no archive, by the
shipped recipe, from their class, the vocabulary's mean, the shipped start encoder and each file, and looks at them on the way. The
CLIP gives the features and scores the texts; the likeness is that of the outline judge, which gave no features.

Each finished part is kept in the output folder, and the same command goes on from there. Writes table.md.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file

from eval.comparison.comparison_page import Table
from eval.comparison.curve import MEASURED, Course, Measured, costs_of, costs_table, courses_of, courses_table
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
from pipeline.protocols import QUICK
from pipeline.records import Concept, Word
from pipeline.sampling.sampler import pictures_of_noun
from pipeline.settings import InversionSettings
from pipeline.training.inversion import train_step
from pipeline.training.recipes import recipe_of
from pipeline.training.slot import new_slot
from pipeline.training.start_vectors import start_vectors

LOOKS = (0, 10, 25, 50, 100)
TOGETHER = 8  # words of the archive in one batch
DRAWN = replace(QUICK, name="starts", plain_images=4, edit_images=1, untrained_images=0, steps=12)
RECIPE = replace(recipe_of(MINI), steps=96, start="words")  # for words of one vector
CLASS, MEAN, SHIPPED, VOCABULARY = "class", "vocabulary's mean", "pictures, as shipped", "vocabulary file"
REFERENCE = {INDIVIDUAL: CLASS, NEW_KIND: MEAN}  # a new kind has no class

Starts = Callable[[Concept, np.ndarray], dict[str, Vectors]]  # concept, pixels -> name of a start -> first vectors


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
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    arguments.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    drawings, backbone, clip = art.load_art(arguments.art), load_backbone(MINI), load_clip()
    words = archive_of(backbone, clip, drawings, arguments.output / "archive", max(arguments.archives))
    starts = starts_of(backbone, clip, words, sorted(arguments.archives))
    made_of = f"{arguments.concepts} concepts, archives of {' '.join(map(str, sorted(arguments.archives)))}"
    tables = []
    for kind, reference in REFERENCE.items():
        subjects = subjects_of(kind, backbone, drawings, arguments.concepts, starts)
        rows: list[Measured] = []
        for seed in range(arguments.seeds):
            part = arguments.output / f"{kind}, {made_of}, seed {seed}.parquet"
            rows += measured(backbone, clip, subjects, seed, part)
        tables.append(page(kind, courses_of(rows), reference, len(subjects), arguments.seeds))
        (arguments.output / "table.md").write_text("\n".join(tables), encoding="utf-8")
    print("\n".join(tables))
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


def starts_of(backbone: Backbone, clip: OpenClipScorer, words: Sequence[ArchivedWord], counts: Sequence[int]) -> Starts:
    """A start from the class only where there is one."""
    model = find_model(MINI)
    encoder = load_start_encoder(model)
    files = {VOCABULARY: fit_vocabulary(MINI, model.digest, MINI)[0]}
    for count in counts:
        archive = Archive(tuple(words[:count]), clip.fingerprint, 0, 0)
        files[f"archive of {count}"] = fit_archive(archive, MINI, model.digest, MINI).start

    def starts(concept: Concept, pixels: np.ndarray) -> dict[str, Vectors]:
        features = clip.encode_images(list(pixels))
        made: dict[str, Vectors] = (
            {CLASS: backbone.initial_vectors(concept.initializer, 1)} if concept.initializer else {}
        )
        made[MEAN] = backbone.initial_vectors(None, 1)
        drawn = None
        if concept.initializer:
            drawn = encoder.vectors(pictures_of_noun(backbone, concept.initializer))
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


def measured(
    backbone: Backbone, clip: OpenClipScorer, subjects: Sequence[Subject], seed: int, path: Path
) -> list[Measured]:
    """Every start's words at each look, kept in a file for each seed."""
    if not path.exists():
        settings: InversionSettings = replace(RECIPE, steps=max(LOOKS), seed=seed)
        looks = dict.fromkeys(subjects[0].starts, LOOKS)
        looked = follow(backbone, subjects, settings, looks, OutlineScorer(), DRAWN, clip)
        rows = [
            Measured(
                each.start, each.concept, each.step, each.step * settings.batch_size, each.likeness, each.text, seed
            )
            for each in looked
        ]
        pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows], MEASURED), path)
        print(f"{path.stem}: {len(subjects)} concepts", file=sys.stderr, flush=True)
    return [Measured(**row) for row in pq.read_table(path).to_pylist()]


def page(kind: str, courses: Sequence[Course], reference: str, concepts: int, seeds: int) -> str:
    """Markdown: each start at each look, its difference from the reference there, and its cost to 95 % of the reference's gain."""
    base = next(course for course in courses if course.recipe == reference)
    paired = [
        (
            course.recipe,
            *(_difference(course.reconstruction[:, :, k] - base.reconstruction[:, :, k]) for k in range(len(LOOKS))),
        )
        for course in courses
        if course.recipe != reference
    ]
    costs = costs_table(costs_of(courses, reference, np.random.default_rng(0)), reference)
    heads = ("start", *(f"likeness after {step} steps, less {reference}'s" for step in LOOKS))
    return "\n".join([
        f"## {kind}s: {concepts}, {seeds} training seeds; {RECIPE.batch_size} evaluations a step\n",
        courses_table(courses).markdown(), Table(heads, tuple(paired)).markdown(), costs.markdown(),
    ])  # fmt: skip


def _difference(values: np.ndarray) -> str:
    low, high = two_way_interval(values)
    return f"{values.mean():+.3f} ({low:+.3f} to {high:+.3f})"


def _pixels(backbone: Backbone, pages: Sequence[Image.Image]) -> np.ndarray:
    """uint8 (N, R, R, 3)."""
    side = backbone.resolution
    return np.stack([np.asarray(page.resize((side, side))) for page in pages])


if __name__ == "__main__":
    sys.exit(main())
