"""Measures the shipped model and draws its sheets: python jobs/mini/mini_report.py [--output runs/mini-report]

  1. the autoencoder on unseen scenes;
  2. the generator on unseen captions of things it was trained on, scored by the shipped CLIP;
  3. the purpose of the model: words of individuals, new kinds and styles, learned by the job itself with its defaults; and two of
     them in one picture.

Writes table.md, figures.json, the sheets and the run of part 3 into the output folder.
"""

import argparse
import io
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from cluster.session import ray_session
from eval.judges.clip import OpenClipScorer, load_clip
from eval.judges.outline import OutlineScorer
from eval.scores.metrics import covered
from jobs.api import RunRequest, invert
from jobs.cli.arguments import folder, whole_number
from jobs.cli.log import Log
from jobs.mini.recipe import art, scenes, things
from jobs.mini.report_by_kind import PROTOCOL, Figure, figures_of_words, group_of
from jobs.mini.three_kinds import write_three_kinds
from pipeline.models.load import load_backbone
from pipeline.sampling.generation import generate
from pipeline.sampling.sampler import SamplerSettings
from pipeline.settings import ModelSettings
from pipeline.store.run_tables import samples_of

SCENE_SEED, NAMED_THINGS, PER_NAME = 4, 100, 4
LEARNED_FROM, DRAWN = 2, 4  # pictures of each word on its sheet


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=folder, default=Path("runs/mini-report"))
    parser.add_argument(
        "--art", type=folder, default=Path("runs/mini/art"), help="folder of the drawings, downloaded if it is missing"
    )
    parser.add_argument("--captions", type=whole_number(1, 1_000_000), default=500)
    parser.add_argument(
        "--concepts",
        type=whole_number(1, 60),
        default=24,
        help="individuals, and as many new kinds (default: %(default)s)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    arguments.output.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    drawings = art.load_art(arguments.art)
    sprites, clip = drawings.scaled(96), load_clip()
    figures = [*autoencoder(sprites, arguments.output)]
    with ray_session():
        figures += generator(sprites, clip, arguments.captions, arguments.output)
    figures += words(drawings, clip, arguments.output, arguments.concepts)
    lines = [
        f"| {figure.name} | {figure.said} | {figure.bar:g} | {'reached' if figure.value >= figure.bar else 'not reached'} |"
        for figure in figures
    ]
    table = "\n".join(["| measured | value | bar | |", "|---|---|---|---|", *lines])
    (arguments.output / "table.md").write_text(table + "\n", encoding="utf-8")
    (arguments.output / "figures.json").write_text(
        json.dumps({figure.name: figure.value for figure in figures}, indent=2) + "\n", encoding="utf-8"
    )
    print(f"{table}\n\nin {time.monotonic() - began:.0f} s; sheets in {arguments.output}")
    return 0


def autoencoder(sprites: art.Art, output: Path) -> list[Figure]:
    """Mean PSNR over 500 unseen scenes of all things, held-out ones included."""
    backbone = load_backbone("mini")
    pictures, _, _ = scenes.sample_scenes(500, sprites, sprites.names, SCENE_SEED)
    decoded = backbone.decode(backbone.encode_images(pictures).mean)
    error = ((decoded.astype(np.float64) - pictures) / 255) ** 2
    psnr = float((-10 * np.log10(error.mean((1, 2, 3)))).mean())
    sheet(np.concatenate([pictures[:32], decoded[:32]]), [""] * 64, output / "autoencoder.png", columns=16)
    return [Figure("autoencoder: PSNR on 500 unseen scenes, dB", psnr, 27, f"{psnr:.1f}")]


def generator(sprites: art.Art, clip: OpenClipScorer, count: int, output: Path) -> list[Figure]:
    known = things.training_things()
    real, _, captions = scenes.sample_scenes(count, sprites, known, SCENE_SEED + 1)
    drawn = draw(captions, range(count))
    texts = clip.encode_texts(captions)
    shuffled = np.roll(texts, count // 2, axis=0)
    own = clip.encode_images(list(drawn))
    ceiling, floor = (
        float((clip.encode_images(list(real)) * texts).sum(1).mean()),
        float((own * shuffled).sum(1).mean()),
    )
    value = float((own * texts).sum(1).mean())
    share = covered(value, floor, ceiling)
    sheet(drawn[:64], captions[:64], output / "captions.png")

    rng = np.random.default_rng(SCENE_SEED)
    named = [str(name) for name in rng.choice(known, NAMED_THINGS, replace=False)]
    prompts = [f"a photo of {'an' if name[0] in 'aeiou' else 'a'} {name}" for name in named for _ in range(PER_NAME)]
    pictures = draw(prompts, range(1000, 1000 + len(prompts)))
    scenes_of = [scenes.Scene((name,), (drawing,)) for name in named for drawing in range(PER_NAME)]
    reals = [scenes.render(scene, sprites, rng) for scene in scenes_of]
    names = clip.encode_texts([f"a photo of {'an' if name[0] in 'aeiou' else 'a'} {name}" for name in sprites.names])
    answers = np.array([sprites.names.index(name) for name in named for _ in range(PER_NAME)])
    right, right_real = (
        float(((clip.encode_images(list(some)) @ names.T).argmax(1) == answers).mean()) for some in (pictures, reals)
    )
    sheet(pictures[::PER_NAME], named, output / "named.png")
    return [
        Figure("generator: share of the way from shuffled captions to real scenes", share, 0.7,
               f"{share:.0%} ({floor:.3f} -> {value:.3f} -> {ceiling:.3f})"),
        Figure("generator: samples named rightly, as a share of real drawings named rightly", right / right_real, 0.75,
               f"{right / right_real:.0%} ({right:.0%} of {right_real:.0%})"),
    ]  # fmt: skip


def draw(prompts: list[str], seeds: range) -> np.ndarray:
    """uint8 (N, 64, 64, 3)."""
    drawings = generate(prompts, list(seeds), {}, "mini", SamplerSettings(batch=32), ModelSettings())
    return np.stack([drawing.pixels for drawing in drawings])


def words(drawings: art.Art, clip: OpenClipScorer, output: Path, concepts: int) -> list[Figure]:
    """Part 3, from the tables that the job wrote."""
    manifest = write_three_kinds(drawings, output / "concepts", concepts)
    protocol, run = output / "mini-report.toml", output / "run"
    protocol.write_text(PROTOCOL, encoding="utf-8")
    result = invert(RunRequest(str(manifest), output=str(run), protocol=str(protocol)), Log())
    if result.failures:
        sys.exit(f"no word for {', '.join(result.failures)}")
    words_sheet(run, output / "words.webp")
    return figures_of_words(run, drawings, [clip, OutlineScorer()])


def words_sheet(run: Path, path: Path) -> None:
    """Three concepts a row, individuals first: of each its name, LEARNED_FROM training pictures and DRAWN samples."""
    samples = samples_of(pq.read_table(run / "samples"))
    concepts = pq.read_table(run / "report" / "concepts.parquet").to_pylist()
    pictures: list[np.ndarray] = []
    labels: list[str] = []
    for _, name in sorted((group_of(concept), concept["concept"]) for concept in concepts):
        for kind, count in (("training", LEARNED_FROM), ("reconstruction", DRAWN)):
            some = [each for each in samples if (each.concept, each.kind) == (name, kind)][:count]
            pictures += [np.array(Image.open(io.BytesIO(each.png)).convert("RGB")) for each in some]
        labels += [name, *[""] * (LEARNED_FROM + DRAWN - 1)]
    sheet(np.stack(pictures), labels, path, columns=3 * (LEARNED_FROM + DRAWN), side=64)


def sheet(pictures: np.ndarray, labels: list[str], path: Path, columns: int = 10, side: int = 128) -> None:
    label = 14
    rows = -(-len(pictures) // columns)
    page = Image.new("RGB", (columns * (side + 4), rows * (side + label + 4)), "white")
    pen = ImageDraw.Draw(page)
    for index, (pixels, text) in enumerate(zip(pictures, labels, strict=True)):
        x, y = index % columns * (side + 4), index // columns * (side + label + 4)
        page.paste(Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST), (x, y))
        pen.text((x, y + side), text[:24], "black")
    page.save(path)


if __name__ == "__main__":
    sys.exit(main())
