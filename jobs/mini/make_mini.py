"""Makes the mini model from the package registries: python jobs/mini/make_mini.py [--work runs/mini] [--device cuda]

Stages, in order: art, scenes, tokenizer, vae, clip, judge, latents, unet, publish. A stage that is run again resumes from its last
checkpoint; vae and clip do not depend on each other and may run in parallel.

With --device cuda the stages are art, scenes, parts, latents, unet, publish: `parts` takes the shipped tokenizer, text encoder,
autoencoder and CLIP as they are, and the U-Net is made anew, from more scenes and in larger batches. It is meant to take less than
ten minutes of one H100, and has not been measured on a GPU.

To train the shipped U-Net and CLIP further instead: --stage art --stage scenes --stage adopt --stage clip --stage latents
--stage unet --stage publish; the U-Net alone: with --stage parts in place of --stage clip
"""

import argparse
import functools
import multiprocessing
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer

from jobs.cli.arguments import folder, whole_number
from jobs.mini.recipe import (
    art,
    individuals,
    scenes,
    shapes,
    things,
    tokenizer,
    train_clip,
    train_judge,
    train_unet,
    train_vae,
    unnamed_art,
)
from jobs.mini.recipe.loop import Schedule
from jobs.mini.recipe.pools import Pool, load_pool, save_pool
from jobs.mini.recipe.words_of_drawings import SYMBOLS, save_words
from pipeline.models.find import MINI, find_model
from pipeline.models.start_encoder import FILE

Drawn = tuple[np.ndarray, list[scenes.Scene], list[str]]
SPRITE_PIXELS = 96
SHIPPED = Path(__file__).parents[2] / "pipeline" / "mini"
# The generator reads prompts with the CLIP's text tower as it is after READER's steps; the CLIP goes on, to judge.
READER, JUDGE, UNET = Schedule(2_000, 1.5e-3), Schedule(6_000, 1.5e-3), Schedule(20_000, 1.2e-3)
JUDGE_FURTHER, UNET_FURTHER = Schedule(1_600, 1e-3), Schedule(5_000, 5e-4, descent=0.7)  # from the shipped weights on
CLIP_SCENES = 50_000
CHUNK = 2_500  # scenes that a process draws at a time


@dataclass(frozen=True, slots=True)
class Size:
    """How much is done on a device. scenes: of each of POOLS. batch: pictures a step of the U-Net. stages: () for all but
    `parts` and `adopt`.
    """

    scenes: tuple[int, ...]
    batch: int
    unet: Schedule
    stages: tuple[str, ...] = ()


# What the U-Net is shown: pool -> share of every batch, share of its captions with a word made from the drawing.
POOLS = {"train": (0.4, 0.5), "unnamed": (0.15, 1.0), "individuals": (0.3, 1.0), "shapes": (0.15, 1.0)}
SIZES = {
    "cpu": Size((50_000, 40_000, 60_000, 40_000), train_unet.BATCH, UNET),
    # About as many as the shipped U-Net was first trained on, in 284 s of an H100, by a script of its own.
    "cuda": Size(
        (400_000, 250_000, 300_000, 250_000), 1_024, Schedule(3_984, 1.6e-3, warmup=250, descent=0.65),
        ("art", "scenes", "parts", "latents", "unet", "publish"),
    ),
}  # fmt: skip


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=folder, default=Path("runs/mini"), help="folder for art, scenes and checkpoints")
    parser.add_argument("--stage", choices=STAGES, action="append", help="run only this stage (may be repeated)")
    parser.add_argument(
        "--device", choices=SIZES, default="cpu", help="where the U-Net is trained (default: %(default)s)"
    )
    parser.add_argument("--threads", type=whole_number(1, 1024), default=2)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser().parse_args(argv)
    torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)
    size = SIZES[arguments.device]
    for stage in arguments.stage or size.stages or [stage for stage in STAGES if stage not in ("adopt", "parts")]:
        began = time.monotonic()
        print(f"== {stage}", flush=True)
        STAGES[stage](arguments.work, arguments.device, size)
        print(f"== {stage}: {time.monotonic() - began:.0f} s", flush=True)


def make_art(work: Path) -> None:
    art.load_art(work / "art")


def make_scenes(work: Path, size: Size) -> None:
    """Training scenes for the generator (no held-out thing in any), and more scenes of every thing for the CLIP, if one is trained.

    A pool that is there is kept: remove its files to draw it again.
    """
    shown = load_shown(work)
    draws = {pool: functools.partial(scenes.sample_unnamed, art=of, words=SYMBOLS) for pool, of in shown.items()}
    draws["train"] = functools.partial(scenes.sample_scenes, art=shown["train"], names=shown["train"].names)
    counts = dict(zip(POOLS, size.scenes, strict=True))
    if "clip" in (size.stages or STAGES):
        every = art.load_art(work / "art").scaled(SPRITE_PIXELS)
        draws["clip"] = functools.partial(scenes.sample_scenes, art=every, names=every.names)
        counts["clip"] = CLIP_SCENES
    for seed, (pool, draw) in enumerate(draws.items(), 1):
        if not (work / f"{pool}.jsonl").exists():
            save_pool(work, pool, draw_pool(draw, counts[pool], seed))


def load_shown(work: Path) -> dict[str, art.Art]:
    """What the U-Net sees of each of POOLS, at SPRITE_PIXELS."""
    drawings = art.load_art(work / "art")
    named = drawings.scaled(SPRITE_PIXELS).only(things.training_things())
    unnamed = unnamed_art.load_unnamed_art(work / "art", drawings)
    return {
        "train": named,
        "unnamed": unnamed,
        "individuals": individuals.draw_individuals(named, unnamed, seed=1),
        "shapes": shapes.load_shapes(work / "art", drawings),
    }


def draw_pool(draw: Callable[..., Drawn], count: int, seed: int, processes: int | None = None) -> Pool:
    """Scenes drawn by `processes`, or as many as there are cores. Each chunk has a seed of its own, so that their number changes
    nothing.
    """
    chunks = [(min(CHUNK, count - first), seed + 10 * first) for first in range(0, count, CHUNK)]
    pictures = np.empty((count, scenes.PIXELS, scenes.PIXELS, 3), np.uint8)
    plans: list[scenes.Scene] = []
    captions: list[str] = []
    # Forked, they share the art and import nothing; they call no torch.
    with multiprocessing.get_context("fork").Pool(processes, _receive, (draw,)) as pool:
        for seen, planned, said in pool.imap(_draw_chunk, chunks):
            pictures[len(plans) : len(plans) + len(seen)] = seen
            plans += planned
            captions += said
    return Pool(pictures, plans, captions)


_received: list[Callable[..., Drawn]] = []  # in a drawing process: the art is sent to it once


def _receive(draw: Callable[..., Drawn]) -> None:
    _received[:] = [draw]


def _draw_chunk(chunk: tuple[int, int]) -> Drawn:
    count, seed = chunk
    return _received[0](count=count, seed=seed)


def make_tokenizer(work: Path) -> None:
    captions = [said for pool in ("train", "clip") for said in load_pool(work, pool).captions]
    tokenizer.train_tokenizer(captions, merges=1000, folder=work / "tokenizer")


def make_vae(work: Path) -> None:
    trained = train_vae.train_vae(load_pool(work, "train").pictures, Schedule(14_000, 2e-3), work / "vae.safetensors")
    trained.save_pretrained(work / "vae")


def make_clip(work: Path) -> None:
    words = CLIPTokenizer.from_pretrained(work / "tokenizer")
    train, every = load_pool(work, "train"), load_pool(work, "clip")
    pool = Pool(
        np.concatenate([train.pictures, every.pictures]), train.scenes + every.scenes, train.captions + every.captions
    )
    start = work / "start" / "clip.safetensors"
    further = start.exists()
    train_on = functools.partial(
        train_clip.train_clip, pool, words, checkpoint=work / "clip.safetensors", start=start if further else None
    )
    if not (work / "text_encoder").exists():
        train_unet.text_encoder_of(train_on(READER), words).save_pretrained(work / "text_encoder")
    train_clip.save_clip(train_on(JUDGE_FURTHER if further else JUDGE), words, work / "clip")


def make_judge(work: Path) -> None:
    drawings = train_judge.load_drawings(work / "judge")
    judge = train_judge.train_judge(drawings, Schedule(8_000, 3e-3), work / "judge" / "judge.safetensors")
    train_judge.save_judge(judge, SHIPPED / "judge" / "outline.safetensors")


def make_latents(work: Path, device: str) -> None:
    trained = AutoencoderKL.from_pretrained(work / "vae")
    latents = {pool: train_vae.encode_latents(trained, load_pool(work, pool).pictures, device) for pool in POOLS}
    save_file(latents, work / "latents.safetensors")


def make_unet(work: Path, device: str, size: Size) -> None:
    words = CLIPTokenizer.from_pretrained(work / "tokenizer")
    text_encoder = CLIPTextModel.from_pretrained(work / "text_encoder").eval().requires_grad_(False)
    latents = load_file(work / "latents.safetensors")
    shown = load_shown(work)
    parts = [
        train_unet.Part(
            train_unet.lesson_of(load_pool(work, pool), latents[pool], shown[pool], shown["train"], words),
            share,
            starred,
        )
        for pool, (share, starred) in POOLS.items()
    ]
    further = (work / "start").exists()
    trained, words_of = train_unet.train_unet(
        parts,
        shown["train"].names,
        words,
        text_encoder,
        UNET_FURTHER if further else size.unet,
        work / "unet.safetensors",
        work / "start" if further else None,
        device,
        size.batch,
    )
    trained.save_pretrained(work / "unet")
    save_words(words_of, work / train_unet.WORDS)


def take_parts(work: Path) -> None:
    """The shipped tokenizer, text encoder, autoencoder and CLIP, to make a U-Net for."""
    for name in ("tokenizer", "vae", "text_encoder"):
        shutil.copytree(SHIPPED / "model" / name, work / name, dirs_exist_ok=True)
    shutil.copytree(SHIPPED / "clip", work / "clip", dirs_exist_ok=True)


def adopt(work: Path) -> None:
    """Takes the shipped parts as this work's own, so that U-Net and CLIP go on from what they are."""
    model = SHIPPED / "model"
    for name in ("tokenizer", "vae", "text_encoder"):
        shutil.copytree(model / name, work / name, dirs_exist_ok=True)
    shutil.copytree(model / "unet", work / "start", dirs_exist_ok=True)
    shutil.copy(model / FILE, work / "start" / train_unet.WORDS)
    shutil.copy(SHIPPED / "clip" / "open_clip_model.safetensors", work / "start" / "clip.safetensors")


def publish(work: Path) -> None:
    """The trained parts as fp16, in diffusers' and open_clip's layouts, beside their model card."""
    parts = {
        "unet": UNet2DConditionModel.from_pretrained(work / "unet"),
        "text_encoder": CLIPTextModel.from_pretrained(work / "text_encoder"),
        "vae": AutoencoderKL.from_pretrained(work / "vae"),
    }
    scheduler = PNDMScheduler(**train_unet.SAMPLING)
    # Nothing to this sampler, but others are made from its configuration.
    scheduler.register_to_config(clip_sample=False)
    model = StableDiffusionPipeline(
        **{name: part.half() for name, part in parts.items()},
        safety_checker=None,
        feature_extractor=None,
        tokenizer=CLIPTokenizer.from_pretrained(work / "tokenizer"),
        scheduler=scheduler,
        requires_safety_checker=False,
    )
    model.save_pretrained(SHIPPED / "model")
    # transformers loads in the precision that the configuration names, diffusers in fp32: both shall be fp32.
    described = SHIPPED / "model" / "text_encoder" / "config.json"
    described.write_text(described.read_text(encoding="utf-8").replace('"float16"', '"float32"'), encoding="utf-8")
    for file in ("vocab.json", "merges.txt"):
        shutil.copy(work / "tokenizer" / file, SHIPPED / "model" / "tokenizer" / file)
    shutil.copytree(work / "clip", SHIPPED / "clip", dirs_exist_ok=True)
    # The map that made words of drawings belongs to just these weights.
    start_encoder = SHIPPED / "model" / FILE
    start_encoder.parent.mkdir(exist_ok=True)
    save_file(load_file(work / train_unet.WORDS), start_encoder, {"model_digest": find_model(MINI).digest})


STAGES: dict[str, Callable[[Path, str, Size], None]] = {
    "art": lambda work, _, __: make_art(work),
    "scenes": lambda work, _, size: make_scenes(work, size),
    "tokenizer": lambda work, _, __: make_tokenizer(work),
    "vae": lambda work, _, __: make_vae(work),
    "clip": lambda work, _, __: make_clip(work),
    "judge": lambda work, _, __: make_judge(work),
    "latents": lambda work, device, _: make_latents(work, device),
    "unet": make_unet,
    "publish": lambda work, _, __: publish(work),
    "adopt": lambda work, _, __: adopt(work),
    "parts": lambda work, _, __: take_parts(work),
}

if __name__ == "__main__":
    main()
