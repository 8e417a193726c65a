"""Makes the mini model from the package registries: python jobs/mini/make_mini.py [--work runs/mini] [--stage NAME ...]

Stages, in order: art, scenes, tokenizer, vae, clip, latents, unet, publish. A stage that is run again resumes from its last
checkpoint; vae and clip do not depend on each other and may run in parallel.

To train the shipped U-Net and CLIP further instead: --stage art --stage scenes --stage adopt --stage clip --stage latents
--stage unet --stage publish
"""

import argparse
import functools
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer

from jobs.cli.arguments import folder, whole_number
from jobs.mini.recipe import art, scenes, strangers, things, tokenizer, train_clip, train_unet, train_vae
from jobs.mini.recipe.loop import Schedule
from jobs.mini.recipe.pools import Pool, load_pool, save_pool
from jobs.mini.recipe.words_of_drawings import SYMBOL

SPRITE_PIXELS = 96
SHIPPED = Path(__file__).parents[2] / "pipeline" / "mini"
# The generator reads prompts with the CLIP's text tower as it is after READER's steps; the CLIP goes on, to judge.
READER, JUDGE, UNET = Schedule(2_000, 1.5e-3), Schedule(6_000, 1.5e-3), Schedule(20_000, 1.2e-3)
JUDGE_FURTHER, UNET_FURTHER = Schedule(1_600, 1e-3), Schedule(4_600, 1.2e-3)  # from the shipped weights on
SCENES, CLIP_SCENES, STRANGERS = 50_000, 50_000, 50_000


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=folder, default=Path("runs/mini"), help="folder for art, scenes and checkpoints")
    parser.add_argument("--stage", choices=STAGES, action="append", help="run only this stage (may be repeated)")
    parser.add_argument("--threads", type=whole_number(1, 1024), default=2)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser().parse_args(argv)
    torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)
    for stage in arguments.stage or [stage for stage in STAGES if stage != "adopt"]:
        began = time.monotonic()
        print(f"== {stage}", flush=True)
        STAGES[stage](arguments.work)
        print(f"== {stage}: {time.monotonic() - began:.0f} s", flush=True)


def make_art(work: Path) -> None:
    art.load_art(work / "art")


def make_scenes(work: Path) -> None:
    """Training scenes for the generator (no held-out thing in any), and more scenes of every thing for the CLIP."""
    drawings = art.load_art(work / "art")
    unnamed, sprites = strangers.load_strangers(work / "art", drawings), drawings.scaled(SPRITE_PIXELS)
    for pool, count, names, seed in (
        ("train", SCENES, things.training_things(), 1),
        ("clip", CLIP_SCENES, sprites.names, 2),
    ):
        save_pool(work, pool, Pool(*scenes.sample_scenes(count, sprites, names, seed)))
    save_pool(work, "strangers", Pool(*scenes.sample_strangers(STRANGERS, unnamed, SYMBOL, 3)))


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


def make_latents(work: Path) -> None:
    trained = AutoencoderKL.from_pretrained(work / "vae")
    latents = {
        pool: train_vae.encode_latents(trained, load_pool(work, pool).pictures) for pool in ("train", "strangers")
    }
    save_file(latents, work / "latents.safetensors")


def make_unet(work: Path) -> None:
    words = CLIPTokenizer.from_pretrained(work / "tokenizer")
    text_encoder = CLIPTextModel.from_pretrained(work / "text_encoder").eval().requires_grad_(False)
    latents = load_file(work / "latents.safetensors")
    drawings = art.load_art(work / "art")
    unnamed, sprites = strangers.load_strangers(work / "art", drawings), drawings.scaled(SPRITE_PIXELS)
    named = sprites.only(things.training_things())
    further = (work / "start").exists()
    trained = train_unet.train_unet(
        train_unet.lesson_of(load_pool(work, "train"), latents["train"], named, words),
        train_unet.lesson_of(load_pool(work, "strangers"), latents["strangers"], unnamed, words),
        named.names,
        words,
        text_encoder,
        UNET_FURTHER if further else UNET,
        work / "unet.safetensors",
        work / "start" if further else None,
    )
    trained.save_pretrained(work / "unet")


def adopt(work: Path) -> None:
    """Takes the shipped parts as this work's own, so that U-Net and CLIP go on from what they are."""
    model = SHIPPED / "model"
    for name in ("tokenizer", "vae", "text_encoder"):
        shutil.copytree(model / name, work / name, dirs_exist_ok=True)
    shutil.copytree(model / "unet", work / "start", dirs_exist_ok=True)
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


STAGES: dict[str, Callable[[Path], None]] = {
    "art": make_art,
    "scenes": make_scenes,
    "tokenizer": make_tokenizer,
    "vae": make_vae,
    "clip": make_clip,
    "latents": make_latents,
    "unet": make_unet,
    "publish": publish,
    "adopt": adopt,
}

if __name__ == "__main__":
    main()
