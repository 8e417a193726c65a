"""Stage 3: the U-Net, trained on cached latents and the CLIP's text states with the loss of latent diffusion."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from jobs.mini.recipe.art import Art
from jobs.mini.recipe.loop import Schedule, train
from jobs.mini.recipe.pools import Pool
from jobs.mini.recipe.scenes import Scene
from jobs.mini.recipe.tokenizer import CONTEXT
from jobs.mini.recipe.train_clip import model_config, tokenise
from jobs.mini.recipe.words_of_drawings import SYMBOLS, WordsOfDrawings, load_words, small_drawings

BATCH = 48
WHOLE_THING = 0.25  # share of the words made from drawings that are made from all of a thing's
ANCHORED = 0.7  # share of the words that start from a noun
NO_TOKEN, NOUN_TOKENS = -1, 8
MOVED = 0.35  # where training goes on: how far weights are moved from the old ones to those of the last step
WORDS = "words.safetensors"  # beside a U-Net to go on from: its map
UNCONDITIONAL = 0.1  # share of empty captions: classifier-free guidance needs them
SNR_CEILING = 5.0  # Min-SNR-gamma, Hang et al. 2023: outlines are decided where noise dominates, and learned there
NOISE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "clip_sample": False,
}
# What the shipped scheduler folder says, as Stable Diffusion 1.x does.
SAMPLING = {
    **{key: value for key, value in NOISE.items() if key != "clip_sample"},
    "skip_prk_steps": True,
    "steps_offset": 1,
    "set_alpha_to_one": False,
}


LAYER_NAMES = {  # open_clip -> transformers
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def text_encoder_of(clip: nn.Module, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """The text tower of an open_clip model as transformers' CLIPTextModel: its states are what the U-Net attends to.

    As in Stable Diffusion the U-Net starts from a text encoder that already tells things apart, and leaves it frozen.
    Trained jointly from nothing, the two need several times as many pictures before a prompt's noun has any effect.
    """
    tower = model_config(len(tokenizer))["text_cfg"]
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=tower["width"],
            intermediate_size=4 * tower["width"],
            num_hidden_layers=tower["layers"],
            num_attention_heads=tower["heads"],
            max_position_embeddings=CONTEXT,
            projection_dim=tower["width"],
            hidden_act="gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    theirs = clip.state_dict()
    weights = {
        "embeddings.token_embedding.weight": theirs["token_embedding.weight"],
        "embeddings.position_embedding.weight": theirs["positional_embedding"],
        "final_layer_norm.weight": theirs["ln_final.weight"],
        "final_layer_norm.bias": theirs["ln_final.bias"],
    }
    for layer in range(tower["layers"]):
        old, new = f"transformer.resblocks.{layer}", f"encoder.layers.{layer}"
        for kind in ("weight", "bias"):
            joint = theirs[f"{old}.attn.in_proj_{kind}"].chunk(3)
            for name, part in zip("qkv", joint, strict=True):
                weights[f"{new}.self_attn.{name}_proj.{kind}"] = part
            for their_name, our_name in LAYER_NAMES.items():
                weights[f"{new}.{our_name}.{kind}"] = theirs[f"{old}.{their_name}.{kind}"]
    encoder.load_state_dict(weights)
    return encoder.eval().requires_grad_(False)


def new_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(64, 128, 224),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=128,
        norm_num_groups=8,
        attention_head_dim=4,  # as in Stable Diffusion's own configuration, this is the number of heads
    )


@dataclass(frozen=True, slots=True)
class Lesson:
    """One pool as the U-Net sees it.

    latents: float16 (N, 4, 16, 16), scaled. tokens, starred: int64 (N, 32), the captions as they are, and with SYMBOLS for the
    things. things, shown: int64 (N, 2), the two things, or the only one twice, and which of their drawings. drawings: float32
    (things, drawings of each, 768).
    """

    latents: Tensor
    tokens: Tensor
    starred: Tensor
    things: Tensor
    shown: Tensor
    drawings: Tensor
    origins: Tensor
    nouns: Tensor

    def on(self, device: str) -> "Lesson":
        return Lesson(*(getattr(self, each.name).to(device) for each in fields(self)))


def lesson_of(pool: Pool, latents: Tensor, art: Art, known: Art, tokenizer: CLIPTokenizer) -> Lesson:
    """art: what the pool shows. known: the things that captions name; each thing of `art` is of one of these kinds."""
    place = {name: index for index, name in enumerate(art.names)}
    drawings, originals = small_drawings(art), small_drawings(known).mean(1)
    nearest = torch.cdist(drawings.mean(1), originals).argmin(1).tolist()
    kinds = [_kind(name, known.names, known.names[near]) for name, near in zip(art.names, nearest, strict=True)]
    tokens = [tokenizer(kind, add_special_tokens=False).input_ids for kind in kinds]
    return Lesson(
        latents,
        tokenise(tokenizer, pool.captions),
        tokenise(tokenizer, [starred(scene, said) for scene, said in zip(pool.scenes, pool.captions, strict=True)]),
        torch.tensor([[place[scene.things[which]] for which in (0, -1)] for scene in pool.scenes]),
        torch.tensor([[scene.drawings[which] for which in (0, -1)] for scene in pool.scenes]),
        drawings,
        originals[[known.names.index(kind) for kind in kinds]],
        torch.tensor([each + [NO_TOKEN] * (NOUN_TOKENS - len(each)) for each in tokens]),
    )


def _kind(name: str, known: tuple[str, ...], nearest: str) -> str:
    """The thing itself, the thing that it is an individual of, or the one whose drawings are most like its own.

    >>> (
    ...     _kind("frog", ("frog", "car"), "car"),
    ...     _kind("frog 12", ("frog", "car"), "car"),
    ...     _kind("owl", ("frog", "car"), "car"),
    ... )
    ('frog', 'frog', 'car')
    """
    return next((each for each in (name, name.rpartition(" ")[0]) if each in known), nearest)


def starred(scene: Scene, said: str) -> str:
    """The caption with a symbol for each thing; one that is there twice keeps its name, in the plural.

    >>> starred(Scene(("horse", "horse head"), (0, 1)), "a photo of a horse and the horse head at night")
    'a photo of a * and the + at night'
    """
    if scene.twice:
        return said
    # A name may be part of the other.
    for name, symbol in sorted(zip(scene.things, SYMBOLS, strict=False), key=lambda pair: -len(pair[0])):
        said = said.replace(name, symbol)
    return said


@dataclass(frozen=True, slots=True)
class Part:
    """Of every batch: from which lesson, how large a share, and with "*" in which share of its captions."""

    lesson: Lesson
    share: float
    starred: float


def train_unet(
    parts: Sequence[Part],
    nouns: tuple[str, ...],
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    schedule: Schedule,
    checkpoint: Path,
    start: Path | None = None,
    device: str = "cpu",
    batch: int = BATCH,
) -> tuple[UNet2DConditionModel, WordsOfDrawings]:
    """Trains the U-Net; the text encoder stays as it is.

    parts: their shares add up to 1. nouns: as which the words made from drawings shall be distributed. start: a folder with a
    U-Net, and the map that belongs to it, to go on from: the result lies MOVED of the way from them. device: "cpu" or "cuda",
    where the U-Net is compiled. batch: pictures a step. Returns the U-Net and the map that makes words of drawings, on the CPU.
    """
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_pretrained(start) if start else new_unet()
    unet.to(device)
    text_encoder.to(device)  # type: ignore[arg-type]
    parts = [replace(part, lesson=part.lesson.on(device)) for part in parts]
    counts = _whole([part.share for part in parts], batch)
    predict = unet
    if device == "cuda":
        unet.to(memory_format=torch.channels_last)
        predict = torch.compile(unet, dynamic=False)
    noising = DDPMScheduler(**NOISE)
    snr = noising.alphas_cumprod / (1 - noising.alphas_cumprod)
    weights = (snr.clamp(max=SNR_CEILING) / snr).to(device)
    empty = tokenise(tokenizer, [""]).to(device)
    table: Any = text_encoder.get_input_embeddings()
    symbols: Any = tokenizer.convert_tokens_to_ids([f"{symbol}</w>" for symbol in SYMBOLS])
    rows = torch.tensor(sorted({row for noun in nouns for row in tokenizer(noun, add_special_tokens=False).input_ids}))
    drawings = torch.cat([part.lesson.drawings.flatten(0, 1) for part in parts])
    words_of = WordsOfDrawings(drawings, table.weight.detach()[rows.to(device)]).to(device)
    if start:
        load_words(words_of, start / WORDS)

    def loss_at(step: int) -> Tensor:
        generator = torch.Generator(device).manual_seed(step)
        rows = [
            _draw_rows(part.lesson, count, part.starred, generator) for part, count in zip(parts, counts, strict=True)
        ]
        clean, tokens, seen, origins, nouns = (torch.cat(each) for each in zip(*rows, strict=True))
        bare = torch.rand(len(clean), 1, generator=generator, device=device) < UNCONDITIONAL
        noise = torch.randn(clean.shape, generator=generator, device=device)
        timesteps = torch.randint(noising.config.num_train_timesteps, (len(clean),), generator=generator, device=device)
        unsure = torch.randn(*seen.shape[:2], table.weight.shape[1], generator=generator, device=device)
        words = words_of(seen, unsure)
        # As words start from pictures (pipeline/training/start_vectors.py): the noun, moved by what the map sees between a thing's
        # drawing and those of its kind. So the outline can stay the noun's while the colours become the thing's.
        from_noun = words + mean_vector(table.weight, nouns) - words_of(origins, torch.zeros_like(unsure))
        anchored = torch.rand(len(clean), 1, 1, generator=generator, device=device) < ANCHORED
        words = torch.where(anchored, from_noun, words)

        def put_in(_: nn.Module, ids: tuple[Tensor], rows: Tensor) -> Tensor:
            for place, symbol in enumerate(symbols):
                rows = torch.where((ids[0] == symbol)[..., None], words[:, place, None].to(rows.dtype), rows)
            return rows

        hook = table.register_forward_hook(put_in)
        context = text_encoder(torch.where(bare, empty, tokens)).last_hidden_state
        hook.remove()
        predicted = predict(noising.add_noise(clean, noise, timesteps), timesteps, context).sample
        return ((predicted.float() - noise).square().mean((1, 2, 3)) * weights[timesteps]).mean()

    modules = nn.ModuleDict({"unet": unet, "words": words_of})
    before = {name: value.to("cpu", copy=True) for name, value in modules.state_dict().items()} if start else {}
    train(modules, loss_at, schedule, checkpoint, average=0.99, device=device)
    modules.to("cpu")
    if before:
        modules.load_state_dict(part_of_the_way(before, modules.state_dict(), MOVED))
    return unet.eval().requires_grad_(False), words_of.eval().requires_grad_(False)


def part_of_the_way(before: Mapping[str, Tensor], after: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Weights between those before and after further training (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models").

    They know much of what was learned, and forget little of what was known.

    >>> part_of_the_way({"bias": torch.zeros(1)}, {"bias": torch.ones(1)}, 0.25)["bias"].item()
    0.25
    """
    return {name: value.lerp(after[name], share) for name, value in before.items()}


def _whole(shares: Sequence[float], count: int) -> list[int]:
    """`count`, divided by shares that add up to 1.

    >>> _whole([0.4, 0.3, 0.3], 48)
    [19, 15, 14]
    """
    edges = [round(count * sum(shares[:place])) for place in range(len(shares) + 1)]
    return [end - begin for begin, end in pairwise(edges)]


def mean_vector(table: Tensor, tokens: Tensor) -> Tensor:
    """Of nouns (..., NOUN_TOKENS), as a word of one vector starts from a noun of several tokens: (..., D).

    >>> mean_vector(
    ...     torch.tensor([[1.0, 0.0], [3.0, 2.0]]), torch.tensor([[0, 1, NO_TOKEN], [1, NO_TOKEN, NO_TOKEN]])
    ... ).tolist()
    [[2.0, 1.0], [3.0, 2.0]]
    """
    there = (tokens != NO_TOKEN).unsqueeze(-1)
    return (table[tokens.clamp(min=0)] * there).sum(-2) / there.sum(-2)


def _draw_rows(
    lesson: Lesson, count: int, starred: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`count` rows: latents, tokens, and the drawings (count, 2, 768) that the symbols among them stand for; the mean drawing of
    their kinds (count, 2, 768) and these kinds' names (count, 2, NOUN_TOKENS).

    These are the drawings themselves, or in WHOLE_THING of the rows the mean of all of a thing's: a word learned from several
    pictures is near such a mean.
    """
    device = lesson.latents.device
    rows = torch.randint(len(lesson.latents), (count,), generator=generator, device=device)
    star = torch.rand(count, 1, generator=generator, device=device) < starred
    whole = torch.rand(count, 1, 1, generator=generator, device=device) < WHOLE_THING
    things = lesson.things[rows]
    seen = torch.where(whole, lesson.drawings[things].mean(2), lesson.drawings[things, lesson.shown[rows]])
    tokens = torch.where(star, lesson.starred[rows], lesson.tokens[rows])
    return lesson.latents[rows].float(), tokens, seen, lesson.origins[things], lesson.nouns[things]
