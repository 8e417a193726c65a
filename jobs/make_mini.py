"""Makes the mini model from the package registries: python jobs/make_mini.py [--work runs/mini] [--stage NAME ...]

Stages, in order: art, scenes, tokenizer, vae, clip, latents, unet, publish. Each goes on from its last checkpoint when
run again; vae and clip need nothing of each other and may run side by side.

To train the shipped U-Net further instead: --stage art --stage scenes --stage adopt --stage latents --stage unet --stage publish
"""

import argparse
import functools
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer

from pipeline.mini.recipe import art, clip, scenes, things, tokenizer, unet, vae
from pipeline.mini.recipe.loop import Schedule

SPRITE_PIXELS = 96
SHIPPED = Path(art.__file__).parent.parent
# The generator reads prompts with the CLIP's text tower as it is after READER's steps; the CLIP goes on, to judge.
READER, JUDGE, UNET = Schedule(2_000, 1.5e-3), Schedule(5_500, 1.5e-3), Schedule(18_800, 1.2e-3)
SCENES, CLIP_SCENES, LATENTS = 80_000, 40_000, 60_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/mini"), help="folder for art, scenes and checkpoints")
    parser.add_argument("--stage", choices=STAGES, action="append", help="run only this stage (may be repeated)")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
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
    sprites = art.load_art(work / "art").scaled(SPRITE_PIXELS)
    for pool, count, names, seed in (
        ("train", SCENES, things.training_things(), 1),
        ("clip", CLIP_SCENES, sprites.names, 2),
        ("test", 500, sprites.names, 3),
    ):
        pictures, plans, captions = scenes.sample_scenes(count, sprites, names, seed)
        np.save(work / f"{pool}.npy", pictures)
        lines = ("\t".join([said, *plan.things]) for said, plan in zip(captions, plans, strict=True))
        (work / f"{pool}.tsv").write_text("\n".join(lines), encoding="utf-8")


def read_pool(work: Path, pool: str) -> tuple[np.ndarray, list[str], list[tuple[str, ...]]]:
    """Pictures (memory-mapped), captions, and the things each mentions."""
    rows = [line.split("\t") for line in (work / f"{pool}.tsv").read_text(encoding="utf-8").split("\n")]
    return np.load(work / f"{pool}.npy", mmap_mode="r"), [row[0] for row in rows], [tuple(row[1:]) for row in rows]


def make_tokenizer(work: Path) -> None:
    captions = read_pool(work, "train")[1] + read_pool(work, "clip")[1]
    tokenizer.train_tokenizer(captions, merges=1000, folder=work / "tokenizer")


def make_vae(work: Path) -> None:
    trained = vae.train_vae(read_pool(work, "train")[0], Schedule(14_000, 2e-3), work / "vae.safetensors")
    trained.save_pretrained(work / "vae")


def make_clip(work: Path) -> None:
    words = CLIPTokenizer.from_pretrained(work / "tokenizer")
    pools = [read_pool(work, pool) for pool in ("train", "clip")]
    pictures = np.concatenate([pool[0] for pool in pools])
    captions = [said for pool in pools for said in pool[1]]
    names = [mentioned for pool in pools for mentioned in pool[2]]
    train = functools.partial(clip.train_clip, pictures, captions, names, words, checkpoint=work / "clip.safetensors")
    if not (work / "text_encoder").exists():
        unet.text_encoder_of(train(READER), words).save_pretrained(work / "text_encoder")
    clip.save_clip(train(JUDGE), words, work / "clip")


def make_latents(work: Path) -> None:
    trained = AutoencoderKL.from_pretrained(work / "vae")
    save_file(
        {"latents": vae.encode_latents(trained, read_pool(work, "train")[0][:LATENTS])}, work / "latents.safetensors"
    )


def make_unet(work: Path) -> None:
    words = CLIPTokenizer.from_pretrained(work / "tokenizer")
    text_encoder = CLIPTextModel.from_pretrained(work / "text_encoder").eval().requires_grad_(False)
    latents = load_file(work / "latents.safetensors")["latents"]
    captions = read_pool(work, "train")[1][:LATENTS]
    start = work / "start" if (work / "start").exists() else None
    trained = unet.train_unet(latents, captions, words, text_encoder, UNET, work / "unet.safetensors", start)
    trained.save_pretrained(work / "unet")


def adopt(work: Path) -> None:
    """Takes the shipped parts as this work's own, so that the U-Net's training goes on from what it is."""
    model = SHIPPED / "model"
    for name in ("tokenizer", "vae", "text_encoder"):
        shutil.copytree(model / name, work / name, dirs_exist_ok=True)
    shutil.copytree(SHIPPED / "clip", work / "clip", dirs_exist_ok=True)
    shutil.copytree(model / "unet", work / "start", dirs_exist_ok=True)


def publish(work: Path) -> None:
    """The trained parts as fp16, in diffusers' and open_clip's layouts, beside their model card."""
    parts = {
        "unet": UNet2DConditionModel.from_pretrained(work / "unet"),
        "text_encoder": CLIPTextModel.from_pretrained(work / "text_encoder"),
        "vae": AutoencoderKL.from_pretrained(work / "vae"),
    }
    scheduler = PNDMScheduler(**unet.SAMPLING)
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
