"""inversion.py on a tiny model: what makes a word, and what one word must not do to another.

Its gradient is compared with that of diffusers' own modules in test_families.py, for every family.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import pipeline.training.inversion as inversion
from pipeline.models.base import Backbone
from pipeline.models.load import load_backbone
from pipeline.records import Concept, Word
from pipeline.settings import InversionSettings
from pipeline.store.checkpoints import decode_checkpoint, encode_checkpoint
from pipeline.training.early_stopping import look_every
from pipeline.training.inversion import Draws, InversionError, Slot, draw, losses, new_slot, snapshot, train_step
from tests.tiny_model import PIXELS, load_pipeline

ENCODER = "text_encoder"
EVERY = look_every(2)
SHORT = InversionSettings(steps=6, early_stop="off", batch_size=2, learning_rate=5e-3)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def backbone(epsilon_model: Path) -> Backbone:
    return load_backbone(str(epsilon_model))


def concept(name: str, vectors: int = 1, initializer: str | None = "cat") -> Concept:
    return Concept(name, (), f"<{name}>", initializer=initializer, vectors=vectors)


def pictures(seed: int, count: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, PIXELS, PIXELS, 3), np.uint8)


CAT, DOG, TRUCK = concept("my-cat"), concept("dog-2", vectors=3, initializer=None), concept("truck", 2, "fire truck")
PICTURES = {CAT.name: pictures(1), DOG.name: pictures(2, 1), TRUCK.name: pictures(3, 5)}


def slot_of(one: Concept, backbone: Backbone, settings: InversionSettings = SHORT) -> Slot:
    return new_slot(one, PICTURES[one.name], backbone, settings)


def learn(backbone: Backbone, entries: Sequence[Sequence[Slot]]) -> dict[str, Word | InversionError]:
    """Trains to the end; the slots of entries[i] enter before step i."""
    running: list[Slot] = []
    ended: dict[str, Word | InversionError] = {}
    for entering in (*entries, *([()] * 1000)):
        running += entering
        if not running:
            break
        for slot, end in train_step(backbone, running):
            running.remove(slot)
            ended[slot.concept.name] = end
    return ended


def learned(backbone: Backbone, one: Concept, settings: InversionSettings = SHORT) -> Word:
    word = learn(backbone, [[slot_of(one, backbone, settings)]])[one.name]
    assert isinstance(word, Word)
    return word


def change(word: Word | InversionError) -> np.ndarray:
    """What training added: compared instead of the word, as its start is the same in any case."""
    assert isinstance(word, Word)
    return word.vectors[ENCODER] - word.initial[ENCODER]


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float((one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other))


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_word_is_what_adam_makes_of_those_gradients(decay: float, backbone: Backbone) -> None:
    """Catches gradients left over from the step before, a rate that something rescales, and decay nobody asked for."""
    settings = replace(SHORT, weight_decay=decay)
    slot = slot_of(TRUCK, backbone, settings)
    word = slot.words[ENCODER]
    mean, square = torch.zeros_like(word), torch.zeros_like(word)
    for step in range(1, settings.steps + 1):
        drawn = draw(slot, backbone, "step", step - 1, settings.batch_size)
        (slope,) = torch.autograd.grad(losses(backbone, [slot], [drawn]), [word])
        mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
        towards = mean / (1 - 0.9**step) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
        with torch.no_grad():
            word.mul_(1 - settings.learning_rate * decay).sub_(settings.learning_rate * towards)
    found = learned(backbone, TRUCK, settings).vectors[ENCODER]
    np.testing.assert_allclose(found, word.detach().numpy(), atol=1e-5)


def test_a_word_alone_comes_out_the_same_to_the_last_bit(backbone: Backbone) -> None:
    """Catches whatever a concept leaves behind for the next: a table, a generator, an optimiser, a cache."""
    first = learned(backbone, CAT)
    learned(backbone, DOG)
    torch.rand(1)
    again = learned(backbone, CAT)
    assert first.vectors[ENCODER].tobytes() == again.vectors[ENCODER].tobytes()
    assert first.loss == again.loss
    assert np.abs(change(first)).max() > 1e-3


@pytest.mark.parametrize("order", [(CAT, DOG, TRUCK), (TRUCK, CAT, DOG), (DOG, TRUCK, CAT)], ids=["1st", "2nd", "3rd"])
def test_a_word_does_not_depend_on_its_neighbours_nor_on_its_place_among_them(
    order: Sequence[Concept], backbone: Backbone
) -> None:
    """Catches words mixed up between slots: rows, draws or gradients that belong to a neighbour."""
    together = learn(backbone, [[slot_of(one, backbone) for one in order]])
    for one in order:
        alone = learned(backbone, one)
        assert cosine(change(alone), change(together[one.name])) >= 0.999
        word = together[one.name]
        assert isinstance(word, Word)
        assert cosine(alone.vectors[ENCODER], word.vectors[ENCODER]) >= 0.999


def test_a_newcomer_changes_nothing_for_those_who_are_half_way(backbone: Backbone) -> None:
    """Catches a step count, a schedule or an optimiser that slots would share."""
    cat, truck, dog = (slot_of(one, backbone) for one in (CAT, TRUCK, DOG))
    together = learn(backbone, [[cat], [], [dog], [], [truck]])
    for one in (CAT, TRUCK, DOG):
        assert cosine(change(learned(backbone, one)), change(together[one.name])) >= 0.999


def test_slots_of_other_settings_keep_their_own(backbone: Backbone) -> None:
    slow = replace(SHORT, steps=9, learning_rate=1e-3, batch_size=1, flip=False)
    together = learn(backbone, [[slot_of(CAT, backbone), slot_of(DOG, backbone, slow)]])
    for one, settings in ((CAT, SHORT), (DOG, slow)):
        word, alone = together[one.name], learned(backbone, one, settings)
        assert isinstance(word, Word)
        assert (word.steps, word.learning_rate) == (settings.steps, settings.learning_rate)
        assert cosine(change(alone), change(word)) >= 0.999


def test_training_leaves_every_frozen_weight_as_it_was(epsilon_model: Path) -> None:
    """Catches an optimiser that decays rows of the vocabulary which have no gradient, and a model that was never frozen."""
    ours = load_backbone(str(epsilon_model))
    table = ours.text[ENCODER].embedding.weight  # type: ignore[attr-defined]
    before, rows = ours.weights_digest(), table.detach().clone()
    word = learned(ours, CAT, replace(SHORT, weight_decay=0.5, learning_rate=0.05))
    assert cosine(word.vectors[ENCODER], word.initial[ENCODER]) < 0.999
    assert torch.equal(table, rows)
    assert ours.weights_digest() == before
    assert before == load_backbone(str(epsilon_model)).weights_digest()


def test_the_digest_sees_one_bit_of_one_weight(epsilon_model: Path) -> None:
    ours = load_backbone(str(epsilon_model))
    before = ours.weights_digest()
    with torch.no_grad():
        ours.text[ENCODER].embedding.weight[-1, -1] += 1e-3  # type: ignore[attr-defined]
    assert ours.weights_digest() != before


@pytest.mark.parametrize("vectors", [1, 2, 3])
def test_every_vector_of_a_word_is_learned(vectors: int, backbone: Backbone) -> None:
    """Catches a vector that the prompt does not hold, so that it would stay as it began."""
    word = learned(backbone, replace(CAT, vectors=vectors, initializer="fire truck"))
    assert word.vectors[ENCODER].shape == (vectors, 32)
    assert word.vectors[ENCODER].dtype == np.float32
    assert (np.abs(change(word)).max(axis=1) > 1e-3).all()


def test_an_initializer_of_several_words_is_spread_over_the_vectors(backbone: Backbone) -> None:
    (fire,) = backbone.initial_vectors("fire", 1)[ENCODER]
    (truck,) = backbone.initial_vectors("truck", 1)[ENCODER]
    np.testing.assert_array_equal(backbone.initial_vectors("fire truck", 2)[ENCODER], [fire, truck])
    np.testing.assert_array_equal(backbone.initial_vectors("fire truck", 3)[ENCODER], [fire, truck, fire])
    np.testing.assert_allclose(backbone.initial_vectors("fire truck", 1)[ENCODER], [(fire + truck) / 2], rtol=1e-6)


def test_without_an_initializer_a_word_begins_as_long_as_words_are(backbone: Backbone) -> None:
    """Catches a start from uniform numbers, which is many times longer than any word and is not recovered from."""
    lengths = backbone.text[ENCODER].embedding.weight.norm(dim=1)  # type: ignore[attr-defined]
    begun = np.linalg.norm(backbone.initial_vectors(None, 2)[ENCODER], axis=1)
    assert (begun > lengths.quantile(0.05).item()).all()
    assert (begun < lengths.quantile(0.95).item()).all()


def test_a_loss_that_is_no_number_fails_its_concept_and_no_other(backbone: Backbone) -> None:
    """Catches a word of NaNs committed as if it had been learned, and NaNs that spread to its neighbours."""
    watched = replace(SHORT, steps=5 * EVERY, early_stop="dvar")
    broken, healthy = slot_of(CAT, backbone, watched), slot_of(TRUCK, backbone)
    broken.posterior.mean.fill_(torch.nan)
    ended = learn(backbone, [[broken, healthy]])
    failure = ended[CAT.name]
    assert isinstance(failure, InversionError)
    assert "the loss stopped being a number by step 1" in str(failure)
    assert cosine(change(learned(backbone, TRUCK)), change(ended[TRUCK.name])) >= 0.999


def test_an_infinite_word_is_never_handed_on(backbone: Backbone) -> None:
    slot = slot_of(CAT, backbone)
    slot.losses.append(0.5)
    with torch.no_grad():
        slot.words[ENCODER][0, 0] = torch.inf
    assert isinstance(inversion.finished(slot, "steps"), InversionError)


def test_a_converged_word_stops_early_and_says_so(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inversion, "has_converged", lambda seen, window: len(seen) == 3)
    word = learned(backbone, CAT, replace(SHORT, steps=100, early_stop="dvar"))
    assert (word.stopped_by, word.steps) == ("dvar", 2 * EVERY)
    assert learned(backbone, CAT, replace(SHORT, steps=2 * EVERY + 1)).stopped_by == "steps"


def test_a_word_does_not_settle_before_a_quarter_of_its_budget(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a word of a large model that is given up while its loss has not begun to fall."""
    monkeypatch.setattr(inversion, "has_settled", lambda seen: True)
    word = learned(backbone, CAT, replace(SHORT, steps=96, early_stop="settled"))
    assert (word.stopped_by, word.steps) == ("settled", 24)


def test_the_word_that_is_kept_is_the_best_one_looked_at_and_not_the_last(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a word that got worse and is handed on as it ended, also across an interruption."""
    monkeypatch.setattr(inversion, "has_settled", lambda seen: False)
    told = replace(SHORT, steps=24, early_stop="settled")
    seen: dict[int, np.ndarray] = {}

    def told_losses(_: Backbone, slots: Sequence[Slot], draws: Sequence[Draws]) -> torch.Tensor:
        return torch.tensor([{0: 3.0, 6: 2.0, 12: 1.0, 24: 1.5}[slot.step] for slot in slots])

    monkeypatch.setattr(inversion, "losses", told_losses)
    slot = slot_of(CAT, backbone, told)
    ended = None
    while ended is None:
        train_step(backbone, [slot])
        seen[slot.step] = slot.words[ENCODER].detach().numpy().copy()
        if slot.step == 18:
            kept = decode_checkpoint(encode_checkpoint(snapshot(slot, "f" * 64)))
            assert kept is not None
            slot = slot_of(CAT, backbone, told)
            inversion.restore(slot, kept)
        ended = inversion.end_of(slot)
    assert isinstance(ended, Word)
    assert (ended.steps, ended.stopped_by, ended.loss) == (24, "steps", 1.0)
    np.testing.assert_array_equal(ended.vectors[ENCODER], seen[12])
    assert np.abs(seen[24] - seen[12]).max() > 0


def test_the_loss_that_is_watched_is_always_of_the_same_draw(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches an early stop decided by the noise of a batch that changes at every look."""
    seen: list[list[float]] = []

    def look(values: list[float], window: int) -> bool:
        seen.append(list(values))
        return False

    monkeypatch.setattr(inversion, "has_converged", look)
    learned(backbone, CAT, replace(SHORT, steps=3 * EVERY, early_stop="dvar", learning_rate=1e-30))
    assert len(seen[-1]) >= 2
    assert len(set(seen[-1])) == 1


def as_arrays(drawn: Draws) -> list[np.ndarray]:
    return [value.numpy() for value in (drawn.latents, drawn.noise, drawn.timesteps, drawn.tokens.ids)]


def same(one: Draws, other: Draws) -> list[bool]:
    return [np.array_equal(a, b) for a, b in zip(as_arrays(one), as_arrays(other), strict=True)]


def test_a_draw_depends_on_nothing_but_seed_concept_purpose_and_step(backbone: Backbone) -> None:
    """Catches a draw from the global generator or from a slot's history, which no restart could repeat."""
    before = torch.random.get_rng_state()
    slot = slot_of(CAT, backbone)
    first = draw(slot, backbone, "step", 3, 8)
    assert torch.equal(torch.random.get_rng_state(), before)
    used = slot_of(replace(CAT, initializer="dog"), backbone, replace(SHORT, learning_rate=0.1, steps=4))
    learn(backbone, [[used, slot_of(DOG, backbone)]])
    assert same(first, draw(used, backbone, "step", 3, 8)) == [True] * 4


OTHER_DRAWS: Mapping[str, Callable[[Backbone], Draws]] = {
    "seed": lambda model: draw(slot_of(CAT, model, replace(SHORT, seed=1)), model, "step", 3, 8),
    "concept": lambda model: draw(
        new_slot(replace(CAT, name="x"), PICTURES[CAT.name], model, SHORT), model, "step", 3, 8
    ),
    "purpose": lambda model: draw(slot_of(CAT, model), model, "validation", 3, 8),
    "step": lambda model: draw(slot_of(CAT, model), model, "step", 4, 8),
}


@pytest.mark.parametrize("what", OTHER_DRAWS)
def test_another_seed_concept_purpose_or_step_draws_all_anew(what: str, backbone: Backbone) -> None:
    """Catches noise, timesteps or templates that would be the same at every step, or for every concept."""
    first = draw(slot_of(CAT, backbone), backbone, "step", 3, 8)
    assert same(first, OTHER_DRAWS[what](backbone)) == [False] * 4


def test_both_flips_are_cached_as_the_first_stage_sees_them(backbone: Backbone, epsilon_model: Path) -> None:
    """Catches flipped latents in place of the latents of flipped pictures, and a scaling factor of another model."""
    theirs = load_pipeline(epsilon_model).vae
    for flip, wanted in (
        (True, np.concatenate([PICTURES[CAT.name], PICTURES[CAT.name][:, :, ::-1]])),
        (False, PICTURES[CAT.name]),
    ):
        images = torch.from_numpy(wanted.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.no_grad():
            posterior = theirs.encode(images).latent_dist
        found = slot_of(CAT, backbone, replace(SHORT, flip=flip)).posterior
        torch.testing.assert_close(found.mean, posterior.mean * 0.7, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.std, posterior.std * 0.7, rtol=1e-4, atol=1e-5)


def test_the_posterior_is_sampled_anew_at_every_step(backbone: Backbone) -> None:
    """Catches caching that freezes what should stay random: one latent a picture would be learned by heart."""
    slot = new_slot(CAT, PICTURES[CAT.name][:1], backbone, replace(SHORT, flip=False))
    latents = torch.cat([draw(slot, backbone, "step", step, 4).latents for step in range(100)])
    standard = (latents - slot.posterior.mean) / slot.posterior.std
    assert len({value.item() for value in standard[:, 0, 0, 0]}) == 400
    assert standard.mean().item() == pytest.approx(0, abs=0.02)
    assert standard.std().item() == pytest.approx(1, abs=0.02)
    assert not torch.isclose(standard[0], draw(slot, backbone, "step", 0, 4).noise[0]).any()


def test_every_picture_flip_and_template_is_drawn(backbone: Backbone) -> None:
    slot = slot_of(CAT, backbone)
    slot.posterior.std.zero_()
    draws = [draw(slot, backbone, "step", step, 4) for step in range(100)]
    assert len({latent.numpy().tobytes() for drawn in draws for latent in drawn.latents}) == 2 * len(PICTURES[CAT.name])
    assert len({tuple(ids.tolist()) for drawn in draws for ids in drawn.tokens.ids}) == len(slot.templates.ids)
    timesteps = torch.cat([drawn.timesteps for drawn in draws])
    assert 0 <= timesteps.min() < 50
    assert 950 <= timesteps.max() < 1000
