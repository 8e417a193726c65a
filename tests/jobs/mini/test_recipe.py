"""The recipe of the shipped model, on art of a few pixels: what the generator is shown, and by which words."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from jobs.mini.recipe import individuals, scenes, shapes, things, unnamed_art
from jobs.mini.recipe.art import ART_SETS, Art
from jobs.mini.recipe.loop import Schedule
from jobs.mini.recipe.pools import Pool, load_pool, save_pool
from jobs.mini.recipe.train_clip import new_clip, tokenise, train_clip
from jobs.mini.recipe.train_judge import BLOTCHED, DAMAGED, SOFTENED, blotched, damaged
from jobs.mini.recipe.train_unet import MOVED, NO_TOKEN, WORDS, Part, lesson_of, new_unet, text_encoder_of, train_unet
from jobs.mini.recipe.words_of_drawings import SYMBOLS, WordsOfDrawings, load_words, save_words, small_drawings
from pipeline.models.find import MINI_FOLDER

NAMES = tuple(name for name in things.training_things() if name.isalpha())[
    :17
]  # with 8 drawings each, more than a word is wide
RNG = np.random.default_rng


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(MINI_FOLDER / "tokenizer")


@pytest.fixture(scope="module")
def art() -> Art:
    return Art(NAMES, RNG(0).integers(0, 256, (len(NAMES), len(ART_SETS), 16, 16, 4), np.uint8))


@pytest.fixture(scope="module")
def named(art: Art) -> Pool:
    return Pool(*scenes.sample_scenes(60, art, NAMES, seed=1))


@pytest.fixture(scope="module")
def unnamed(art: Art) -> Pool:
    return Pool(*scenes.sample_unnamed(120, art, SYMBOLS, seed=2))


def test_a_pool_is_read_as_it_was_written(named: Pool, tmp_path: Path) -> None:
    save_pool(tmp_path, "train", named)
    read = load_pool(tmp_path, "train")
    assert (read.scenes, read.captions) == (named.scenes, named.captions)
    np.testing.assert_array_equal(read.pictures, named.pictures)


def test_strangers_are_called_by_the_symbol_and_never_by_their_names(unnamed: Pool) -> None:
    """Catches a noun that the generator reads for a thing it was to know by its drawing alone."""
    assert not any(name in said.split() for said in unnamed.captions for name in NAMES)
    told = [said for said in unnamed.captions if SYMBOLS[0] in said.split()]
    assert len(told) > 100  # the others name their style and nothing else
    pairs = {said for said, scene in zip(unnamed.captions, unnamed.scenes, strict=True) if len(scene.things) == 2}
    assert {said for said in told if SYMBOLS[1] in said.split()} == pairs & set(told) != set()
    assert {scene.things[0] for scene in unnamed.scenes} == set(NAMES)


def test_a_starred_caption_differs_in_its_nouns_alone(named: Pool, art: Art, tokenizer: CLIPTokenizer) -> None:
    """Catches a word made from the drawing of another thing than the one whose place it takes."""
    lesson = lesson_of(named, torch.zeros(60, 4, 16, 16), art, art, tokenizer)
    symbols: Any = tokenizer.convert_tokens_to_ids([f"{symbol}</w>" for symbol in SYMBOLS])
    assert any(len(scene.things) == 2 for scene in named.scenes)
    for row, (scene, said) in enumerate(zip(named.scenes, named.captions, strict=True)):
        for place, symbol in enumerate(symbols):
            told = place < len(scene.things) and not scene.twice and scene.things[place] in said
            assert int(lesson.starred[row].eq(symbol).sum()) == told
            assert symbol not in lesson.tokens[row]
            thing = min(place, len(scene.things) - 1)
            assert NAMES[lesson.things[row, place]] == scene.things[thing]
            assert lesson.shown[row, place] == scene.drawings[thing]


def test_a_word_starts_from_the_noun_of_its_own_kind(art: Art, tokenizer: CLIPTokenizer) -> None:
    """Catches an individual that is moved from another kind's noun, or by the difference to another kind's drawings."""
    shown = Art((f"{NAMES[3]} 7", NAMES[4], "stranger"), art.sprites[[3, 4, 5]])
    pool = Pool(np.zeros((1, 64, 64, 3), np.uint8), [scenes.Scene((shown.names[0],), (0,))], ["a photo of a *"])
    lesson = lesson_of(pool, torch.zeros(1, 4, 16, 16), shown, art, tokenizer)
    torch.testing.assert_close(lesson.origins, small_drawings(art).mean(1)[[3, 4, 5]])
    for row, name in enumerate(NAMES[3:6]):  # a stranger is of the kind that looks like it
        own = tokenizer(name, add_special_tokens=False).input_ids
        assert lesson.nouns[row].tolist() == own + [NO_TOKEN] * (len(lesson.nouns[row]) - len(own))


def test_words_made_from_drawings_are_distributed_as_nouns_are_and_tell_drawings_apart() -> None:
    """Catches words so far from the vocabulary that a search which starts there never meets them."""
    generator = torch.Generator().manual_seed(0)
    nouns = 0.3 + 0.05 * torch.randn(50, 32, generator=generator)
    drawings = torch.rand(200, 768, generator=generator) * 2 - 1
    words = WordsOfDrawings(drawings, nouns)(drawings, torch.zeros(200, 32)).detach()
    torch.testing.assert_close(words.mean(), nouns.mean(), atol=0.01, rtol=0)
    torch.testing.assert_close(words.std(0).mean(), nouns.std(0).mean(), atol=0.01, rtol=0)
    assert torch.cdist(words, words).add(torch.eye(200)).min() > 0.05


def test_drawings_are_seen_small_and_on_white() -> None:
    clear = np.zeros((1, 1, 32, 32, 4), np.uint8)
    clear[..., :16, :, :] = (255, 0, 0, 255)
    seen = small_drawings(Art(("half",), clear)).view(16, 16, 3)
    assert (seen[:8] == torch.tensor([1.0, -1.0, -1.0])).all()
    assert (seen[8:] == 1).all()


def test_a_stranger_that_looks_like_a_held_out_thing_is_noticed() -> None:
    """Catches a generator that has been shown, under another name, what its words are to be learned from."""
    sprites = RNG(0).integers(0, 256, (3, 2, 96, 96, 4), np.uint8)
    sprites = sprites[:, :, ::6, ::6].repeat(6, 2).repeat(6, 3)
    other = RNG(1).integers(0, 256, (1, 2, 16, 16, 4), np.uint8).repeat(6, 2).repeat(6, 3)
    strangers = Art(("same", "other"), np.concatenate([sprites[1:2], other]))
    alike = unnamed_art.likeness(*(small_drawings(each).numpy() for each in (strangers, Art(NAMES[:3], sprites))))
    assert alike[0] > 0.999
    assert alike[1] < unnamed_art.TOO_ALIKE


def test_an_individual_has_the_outline_of_its_kind_and_colours_of_its_own() -> None:
    """Catches a lesson in which nothing is new, and one in which a kind can no longer be told."""
    sprite = RNG(3).integers(0, 256, (32, 32, 4), np.uint8)
    sprite[:8, :, :3] = 90  # a grey outline
    palettes = [individuals.recoloured(sprite, RNG(seed)) for seed in range(40)]
    assert all(np.array_equal(each[..., 3], sprite[..., 3]) for each in palettes)
    assert all(np.array_equal(each[:8], sprite[:8]) for each in palettes)
    assert all(np.abs(each[8:, :, :3].astype(int) - sprite[8:, :, :3]).mean() > 20 for each in palettes)
    assert len({each.tobytes() for each in palettes}) > 20


def test_of_kinds_whose_individuals_are_reported_the_generator_sees_none() -> None:
    """Catches figures about individuals that the generator was trained on."""
    kept_back = {*individuals.DEMO, *individuals.kinds_by_digest()[: individuals.KEPT_BACK]}
    names = things.training_things()
    every = Art(names, RNG(0).integers(0, 256, (len(names), 1, 2, 2, 4), np.uint8))
    drawn = individuals.draw_individuals(every, Art(("stranger",), every.sprites[:1]), seed=1)
    kinds = {name.rpartition(" ")[0] for name in drawn.names}
    assert kinds == {*names, "stranger"} - kept_back
    assert len(set(drawn.names)) == len(drawn.sprites)


def test_an_icon_of_one_colour_gets_a_second_in_what_it_encloses() -> None:
    ring = np.zeros((32, 32, 4), np.uint8)
    ring[8:24, 8:24, 3] = 255
    ring[12:20, 12:20, 3] = 0
    toned = shapes.two_toned(ring, RNG(0))
    assert (toned[:8, :, 3] == 0).all(), "the page around it stays clear"
    assert (toned[8:24, 8:24, 3] == 255).all()
    assert {tuple(colour) for colour in toned[12:20, 12:20].reshape(-1, 4)} != {tuple(toned[9, 9])}
    assert len({tuple(colour) for colour in toned[8:24, 8:24].reshape(-1, 4)}) == 2


def test_the_map_that_goes_on_is_the_one_that_was_shipped(tmp_path: Path) -> None:
    """Catches a U-Net that goes on with another map than the one whose words it has learned to read."""
    nouns, drawings = torch.rand(50, 32), torch.rand(200, 768) * 2 - 1
    shipped, other = WordsOfDrawings(drawings, nouns), WordsOfDrawings(drawings.flip(1), nouns + 1)
    save_words(shipped, tmp_path / WORDS)
    load_words(other, tmp_path / WORDS)
    silent = torch.zeros(200, 32)
    torch.testing.assert_close(other(drawings, silent), shipped(drawings, silent), atol=2e-2, rtol=0)


def test_the_unet_learns_to_read_words_of_drawings_and_the_text_encoder_stays(
    named: Pool, unnamed: Pool, art: Art, tokenizer: CLIPTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a scaffold that gets no gradient, weights that were to be frozen and are not, a resumed run that differs, and a
    training that goes on and forgets more than it should.
    """
    torch.manual_seed(0)
    encoder = text_encoder_of(new_clip(len(tokenizer)), tokenizer)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    latents = torch.randn(120, 4, 16, 16)
    lessons = [lesson_of(pool, latents[: len(pool.scenes)], art, art, tokenizer) for pool in (named, unnamed)]
    parts = [Part(lessons[0], 0.5, starred=0.6), Part(lessons[1], 0.5, starred=1.0)]
    new_unet().save_pretrained(tmp_path / "start")
    nouns = torch.rand(50, 128)
    save_words(WordsOfDrawings(torch.rand(200, 768) * 2 - 1, nouns), tmp_path / "start" / WORDS)

    def trained(steps: int, name: str) -> dict[str, torch.Tensor]:
        schedule = Schedule(steps, 1e-3, warmup=1, descent=1e-9)
        unet, _ = train_unet(parts, NAMES, tokenizer, encoder, schedule, tmp_path / name, tmp_path / "start")
        return dict(unet.state_dict())

    trained(1, "halves")
    halves, whole = trained(2, "halves"), trained(2, "whole")
    assert all(torch.equal(halves[name], whole[name]) for name in whole)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    kept = load_file(tmp_path / "whole")
    assert kept["first/words.linear.weight"].abs().sum() > 0
    monkeypatch.setattr("jobs.mini.recipe.train_unet.MOVED", 1)
    at_the_end, started = trained(2, "whole"), UNet2DConditionModel.from_pretrained(tmp_path / "start").state_dict()
    for name, value in whole.items():
        torch.testing.assert_close(
            value - started[name], MOVED * (at_the_end[name] - started[name]), atol=1e-5, rtol=1e-3
        )
    assert any(not torch.equal(at_the_end[name], started[name]) for name in whole)


def test_the_clip_goes_on_from_given_weights(named: Pool, tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    """Catches weights that are not taken up: the training would begin anew, and nobody would notice for an hour."""
    alone = [index for index, scene in enumerate(named.scenes) if scene == scenes.Scene(scene.things, scene.drawings)]
    assert alone, "the pool has scenes that differ in their thing alone"
    start = tmp_path / "start.safetensors"
    given = {name: value for name, value in new_clip(len(tokenizer)).state_dict().items() if value.is_floating_point()}
    save_file({name: value.half().contiguous() for name, value in given.items()}, start)
    schedule = Schedule(1, 1e-9, warmup=1)
    trained: Any = train_clip(named, tokenizer, schedule, tmp_path / "clip.safetensors", start)
    for name, value in trained.named_parameters():
        torch.testing.assert_close(value, given[name].half().float(), atol=1e-5, rtol=0)
    assert trained.encode_text(tokenise(tokenizer, ["a photo of a cat"])).shape == (1, 128)


def test_scenes_that_differ_in_their_drawing_alone_deserve_the_same_words() -> None:
    scene = scenes.Scene(("cat",), (2,))
    assert replace(scene, drawings=()) == replace(scenes.Scene(("cat",), (0,)), drawings=())


def test_the_judge_sees_drawings_that_have_lost_a_part_or_have_it_covered() -> None:
    """Catches views that are all damaged or none, holes that are filled, and patches in a colour of their own."""
    colour = torch.tensor([0.8, 0.4, 0.2])
    shown = torch.cat([colour[None, :, None, None].expand(400, 3, 32, 32), torch.ones(400, 1, 32, 32)], 1).clone()
    shown[..., :16] = 0  # nothing is drawn there
    seen = damaged(shown, torch.Generator().manual_seed(0))
    changed = (seen != shown).flatten(1).any(1)
    assert DAMAGED / 3 < changed.float().mean() < DAMAGED + 0.05
    holes, patches = seen[:, 3] < shown[:, 3], seen[:, 3] > shown[:, 3]
    assert holes.any()
    assert patches.any()
    assert seen.movedim(1, -1)[holes].abs().max() == 0
    torch.testing.assert_close(seen.movedim(1, -1)[patches][:, :3], colour.expand(int(patches.sum()), 3))


def test_the_judge_sees_soft_and_blotched_pictures() -> None:
    """Catches pictures that are all alike, and noise that hides what is shown."""
    pictures = (torch.rand(400, 3, 1, 1) < 0.5).float() * torch.ones(400, 3, 32, 32)
    pictures[..., 16:] = 1 - pictures[..., 16:]
    seen = blotched(pictures, torch.Generator().manual_seed(0))
    untouched = (seen == pictures).flatten(1).all(1).float().mean()
    assert abs(untouched - (1 - SOFTENED) * (1 - BLOTCHED)) < 0.08
    assert (seen - pictures)[..., 4:12].abs().mean() < 0.05
