"""The comparison on a tiny model: words in mid-training, where DVAR would stop, captions, and what is refused."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import eval.comparison.steps_curve
from eval.comparison.steps_curve import START_COST, Recipe, checkpoints, measured, recipes_of
from eval.comparison.variants import BASE, PLACES, TRAINED
from eval.judges.judge import Features
from jobs.compare import KIND, KNOWN, NAME, NOT_STARTED, STYLES, chosen, main
from jobs.mini.recipe.art import Art
from jobs.mini.recipe.things import held_out_things, things, training_things
from jobs.mini.three_kinds import INDIVIDUAL, NEW_KIND, STYLE, write_three_kinds
from pipeline.inputs.manifest import read_manifest
from pipeline.models.load import load_backbone
from pipeline.records import Concept
from pipeline.settings import InversionSettings
from pipeline.training.early_stopping import look_every
from pipeline.training.inversion import train_step
from pipeline.training.recipes import recipe_of, vectors_of


@pytest.fixture
def concepts(tmp_path: Path) -> list[Concept]:
    rng = np.random.default_rng(0)
    made = []
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for index in range(2):
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(tmp_path / name / f"{index}.png")
        made.append(Concept(name, (str(tmp_path / name),), f"<{name}>", initializer="cat", noun="cat"))
    return made


def test_every_variant_is_one_that_the_job_takes() -> None:
    """Catches a baseline that stops at the first concept because a setting was renamed."""
    for variant in KNOWN:
        for common in (recipe_of("mini"), recipe_of("another model")):
            replace(common, **variant.settings).refuse_vectors(variant.vectors)
    assert len({variant.folder for variant in KNOWN}) == len(KNOWN)
    places = {(variant.settings.get("word_place"), variant.settings.get("optimiser")) for variant in PLACES}
    assert places == {("output", None), ("output", "directional")}
    assert chosen(None) == TRAINED
    assert [variant.name for variant in chosen("per image")] == [BASE, "per image"]


class Blind:
    """Takes every picture for the second thing that the model knows."""

    name = fingerprint = "blind"

    def encode_images(self, pictures: Sequence[object]) -> Features:
        return np.ones((len(pictures), 1), np.float32)

    def encode_texts(self, texts: Sequence[str]) -> Features:
        return np.array([[float(place == 1)] for place in range(len(texts))], np.float32)


def test_the_three_kinds_make_a_manifest_that_the_job_takes(tmp_path: Path) -> None:
    """Catches a column that the manifest's own checks refuse, and a recipe that a new kind has no class to start from."""
    names = tuple(things())
    shades = np.arange(len(names), dtype=np.uint8)[:, None, None, None, None]
    drawings = Art(names, np.broadcast_to(shades, (len(names), 4, 8, 8, 4)).copy())
    read = {each.name: each for each in read_manifest(str(write_three_kinds(drawings, tmp_path, 2, Blind()))).concepts}
    kinds = [each.carried[KIND] for each in read.values()]
    assert {kind: kinds.count(kind) for kind in kinds} == {INDIVIDUAL: 2, NEW_KIND: 2, STYLE: STYLES}
    new = next(each for each in read.values() if each.carried[KIND] == NEW_KIND)
    assert new.noun == new.initializer == training_things()[1]
    assert new.carried[NAME] in held_out_things()
    assert all(each.kind == "style" for each in read.values() if each.carried[KIND] == STYLE)
    more = read_manifest(str(write_three_kinds(drawings, tmp_path / "more", 2, Blind(), 25))).concepts
    for each in more:
        assert len(list((tmp_path / "more" / each.name).glob("*.png"))) == 25, "the largest of the paper's sets"
        if each.carried[KIND] != STYLE:  # of which the four first ones are as before
            for number in range(1, 5):
                name = f"{each.name}/{number}.png"
                assert (tmp_path / name).read_bytes() == (tmp_path / "more" / name).read_bytes()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--concepts", "7"), "--concepts 7: it takes an even number, 4 of them styles"),
        (("--output", "memory://x"), "--output is a URL: give a --manifest"),
    ],
)
def test_concepts_of_the_three_kinds_that_cannot_be_are_refused(
    given: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--output", str(tmp_path / "out"), *given]) == NOT_STARTED
    assert said in capsys.readouterr().err


def test_a_variant_that_there_is_not_is_refused_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--output", str(tmp_path / "out"), "--variants", "4 vectors"]) == NOT_STARTED
    assert "there is no '4 vectors'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_published_recipes_are_those_of_their_authors_commands() -> None:
    """steps, pictures a step, rate after scaling, weight decay, vectors; what else a command says is below."""
    told = {
        "paper": (5000, 8, 0.04, 0.01, 1),
        "diffusers README": (3000, 4, 2e-3, 0.01, 1),
        "DVAR's training": (6100, 2, 0.01, 0.01, 1),
        "Cross Initialization": (320, 8, 5e-3, 0.01, 2),
        "Directional": (400, 4, 0.01, 0.0, 1),
    }
    recipes = {each.name: each for each in recipes_of(recipe_of("another model"), 10_000)}
    for name, expected in told.items():
        followed = recipes[name].settings
        stated = (followed.steps, followed.batch_size, followed.learning_rate, followed.weight_decay)
        assert (*stated, recipes[name].vectors) == expected, name
        assert (followed.timesteps, followed.schedule, followed.start) == ("uniform", "constant", "words"), name
        assert recipes[name].checkpoints[-1] == followed.steps
    assert {name: each.stopped for name, each in recipes.items() if each.stopped} == {
        "DVAR's training": "DVAR", "wordmint without its early stop": "wordmint"
    }  # fmt: skip
    assert recipes["Cross Initialization"].settings.cross_initialised
    directional = recipes["Directional"].settings
    assert (directional.optimiser, directional.concentration, directional.flip) == ("directional", 1e-4, False)
    assert 500 in recipes["diffusers README"].checkpoints, "where the README for SDXL ends"
    assert next(iter(recipes)) == "paper", "what the others are compared with"


def test_our_recipe_is_the_models_own_and_timesteps_are_told_apart() -> None:
    for model in ("mini", "another model"):
        common = replace(recipe_of(model), seed=3)
        *_, ours, uniform = recipes_of(common, 10_000, vectors_of(model))
        assert ours.settings == common
        assert ours.vectors == uniform.vectors == vectors_of(model)
        assert uniform.settings == replace(common, timesteps="uniform", early_stop="off")
    assert recipes_of(recipe_of("mini"), 10_000)[-2].name == "wordmint", "it has no early stop"
    assert recipes_of(InversionSettings(), 100)[0].checkpoints == (0, 12, 25, 50, 100)
    assert checkpoints(12) == (0, 12)


def test_a_start_from_pictures_costs_the_models_own_pictures_of_the_class(
    concepts: list[Concept], epsilon_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a start that is free of cost in the curve, and one that is not made."""
    torch.set_num_threads(1)
    seen: list[np.ndarray] = []
    drawn: list[dict[str, np.ndarray]] = []

    class Encoder:
        digest = "e"

        def vectors(self, pictures: np.ndarray) -> dict[str, np.ndarray]:
            seen.append(np.asarray(pictures))
            return {"text_encoder": np.full(32, 0.01 * len(seen), np.float32)}

    class Recorded:
        def __init__(self, *_: object) -> None: ...

        def __call__(self, name: str, vectors: dict[str, np.ndarray]) -> tuple[float, float]:
            drawn.append(vectors)
            return 0.5, 0.3

    monkeypatch.setattr(eval.comparison.steps_curve, "Scoring", Recorded)
    settings = InversionSettings(steps=2, start="pictures", early_stop="off")
    plain = replace(concepts[0], initializer=None)
    style = replace(concepts[1], kind="style")
    backbone, recipe = load_backbone(str(epsilon_model)), Recipe("r", settings, (0, 2), vectors=2)
    encoder: Any = Encoder()
    rows = measured(backbone, "mini", recipe, [concepts[0]], encoder)
    assert [row.evaluations for row in rows] == [START_COST, START_COST + 8] == [96, 104]
    assert [some.shape[0] for some in seen] == [2, 4], "the concept's pictures, and the model's own of its class"
    moved = drawn[0]["text_encoder"] - backbone.initial_vectors("cat", 2)["text_encoder"]
    np.testing.assert_allclose(moved, np.full((2, 32), -0.01), atol=1e-6)
    for concept in (plain, style):
        assert [row.evaluations for row in measured(backbone, "mini", recipe, [concept], encoder)] == [0, 8]
    assert len(seen) == 3, "a style has no start in its pictures"


def test_a_word_at_a_checkpoint_is_the_word_that_a_training_of_so_many_steps_gives(
    concepts: list[Concept], epsilon_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a curve whose points are not those of words that anybody could have trained."""
    torch.set_num_threads(1)
    backbone = load_backbone(str(epsilon_model))
    seen: dict[tuple[str, int], dict[str, np.ndarray]] = {}

    class Recorded:
        def __init__(self, *_: object) -> None:
            self.calls = 0

        def __call__(self, name: str, vectors: dict[str, np.ndarray]) -> tuple[float, float]:
            seen[name, sum(1 for each, _ in seen if each == name)] = vectors
            return 0.5, 0.3

    monkeypatch.setattr(eval.comparison.steps_curve, "Scoring", Recorded)
    settings = InversionSettings(steps=6, learning_rate=1e-2, early_stop="off")
    rows = measured(backbone, "mini", Recipe("r", settings, (0, 3, 6)), concepts)
    assert [(row.concept, row.step, row.evaluations) for row in rows if row.concept == "ant"] == [
        ("ant", 0, 0), ("ant", 3, 12), ("ant", 6, 24)
    ]  # fmt: skip
    from pipeline.inputs.image_sets import find_sources, load_images
    from pipeline.training.slot import new_slot

    pixels = load_images(find_sources(concepts[1], {}), backbone.resolution).pixels
    slot = new_slot(concepts[1], pixels, backbone, replace(settings, steps=3))
    np.testing.assert_allclose(seen["bee", 0]["text_encoder"], slot.words["text_encoder"].detach().numpy())
    for _ in range(3):
        train_step(backbone, [slot])
    np.testing.assert_allclose(seen["bee", 1]["text_encoder"], slot.words["text_encoder"].detach().numpy(), atol=1e-5)
    assert np.abs(seen["bee", 2]["text_encoder"] - seen["bee", 1]["text_encoder"]).max() > 1e-4


def test_an_early_stop_is_a_point_where_its_rule_first_held_and_the_course_goes_on(
    concepts: list[Concept], epsilon_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a stop that is scored by another word, or whose looks at the fixed batch are not counted."""
    monkeypatch.setattr("pipeline.training.inversion.has_converged", lambda losses, window: len(losses) >= 3)
    monkeypatch.setattr(
        eval.comparison.steps_curve, "PROTOCOL", replace(eval.comparison.steps_curve.PROTOCOL, steps=2, plain_images=2)
    )
    every = look_every(4)
    settings = InversionSettings(steps=3 * every, learning_rate=1e-3, early_stop="dvar")
    recipe = Recipe("paper", settings, (0, 2 * every, 3 * every), "paper with DVAR")
    rows = measured(load_backbone(str(epsilon_model)), "mini", recipe, concepts[:1])
    assert [(row.recipe, row.step, row.evaluations) for row in rows] == [
        ("paper", 0, 0), ("paper", 2 * every, 8 * every), ("paper", 3 * every, 12 * every),
        ("paper with DVAR", 0, 2 * every * 4 + 3 * 8),
    ]  # fmt: skip
    assert all(0 < abs(row.reconstruction) <= 1 for row in rows)
    assert rows[1].reconstruction == rows[3].reconstruction != rows[2].reconstruction
