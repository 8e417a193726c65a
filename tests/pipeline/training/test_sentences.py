"""The sentences of a word: templates of its kind or of one's own, captions, and a picture's own word beside the concept's."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.models.base import Backbone, PromptError
from pipeline.models.load import load_backbone
from pipeline.records import Concept
from pipeline.settings import InversionSettings
from pipeline.training.sentences import Sentences, as_pattern, sentences_of
from pipeline.training.templates import OBJECT, STYLE

CAT = Concept("my-cat", (), "<my-cat>", vectors=2)
SETTINGS = InversionSettings()
MINE = InversionSettings(templates=("a painting of {}", "the {} at night"))


@pytest.fixture(scope="module")
def backbone(epsilon_model: Path) -> Backbone:
    return load_backbone(str(epsilon_model))


def spelled(sentences: Sentences, backbone: Backbone) -> list[list[list[str]]]:
    """Kind -> picture -> its sentences without spaces, with w0, w1, ... for the rows of the table of words."""
    encoder = backbone.text["text_encoder"]  # type: ignore[attr-defined]

    def text(row: int) -> str:
        ids = sentences.tokens.ids[row].tolist()
        ids = ids[1 : ids.index(encoder.end[-1])]
        first = backbone.vocabulary
        pieces = [f"w{each - first}" if each >= first else encoder.tokenizer.decode([each]) for each in ids]
        return "".join("".join(pieces).split())

    return [[[text(row) for row in rows] for rows in kind] for kind in sentences.choices.tolist()]


@pytest.mark.parametrize(("kind", "templates"), [("object", OBJECT), ("style", STYLE)])
def test_without_captions_every_picture_has_the_templates_of_its_kind(
    kind: str, templates: tuple[str, ...], backbone: Backbone
) -> None:
    found = sentences_of(backbone, replace(CAT, kind=kind), SETTINGS, (None, None), 2)  # type: ignore[arg-type]
    assert len(found.tokens.ids) == len(templates)
    assert found.choices.tolist() == [[list(range(len(templates)))] * 2]
    assert len({tuple(ids.tolist()) for ids in found.tokens.ids}) == len(templates)


def test_a_picture_with_a_caption_has_no_other_sentence(backbone: Backbone) -> None:
    """Catches captions that are mixed up between pictures, or drawn beside templates that say less."""
    captions = ("a dog and a {}", None, "on the beach")
    found = sentences_of(backbone, CAT, MINE, captions, 2)
    templates = ["apaintingofw0w1", "thew0w1atnight"]
    assert spelled(found, backbone) == [[["adogandaw0w1"] * 2, templates, ["apaintingofw0w1,onthebeach"] * 2]]


def test_a_pictures_own_word_follows_the_concepts_last_vector(backbone: Backbone) -> None:
    """Catches an own word that would be a vector of the concept, or another picture's, also while vectors are joining."""
    settings = replace(MINE, per_image=0.5)
    found = sentences_of(backbone, CAT, settings, (None, "a dog and a {}"), 1)
    assert spelled(found, backbone) == [
        [["apaintingofw0", "thew0atnight"], ["adogandaw0"] * 2],
        [["apaintingofw0withw2", "thew0withw2atnight"], ["adogandaw0withw3"] * 2],
    ]


@pytest.mark.parametrize(
    ("caption", "pattern"),
    [
        ("a {} on a chair", "a {} on a chair"),
        ("a <cat> on\n a chair", "a {} on a chair"),
        ("a <Cat> on a chair", "a {} on a chair"),
        ("on a chair", "a photo of a {}, on a chair"),
    ],
)
def test_a_caption_holds_the_word_once(caption: str, pattern: str) -> None:
    assert as_pattern(caption, "<cat>", "a photo of a {}") == pattern


def test_a_caption_mentions_a_name_without_brackets_as_a_whole_word_only() -> None:
    assert as_pattern("a bowl and an Owl", "owl", "a photo of a {}") == "a bowl and an {}"
    assert as_pattern("a bowl", "owl", "a photo of a {}") == "a photo of a {}, a bowl"


def test_a_placeholder_that_is_a_word_of_the_templates_is_refused(backbone: Backbone) -> None:
    """Catches a word that stands twice in its sentences; a piece of one of their words stands in none."""
    with pytest.raises(
        PromptError, match=r"placeholder 'night' is a word of the sentence .*choose another, like <night>"
    ):
        sentences_of(backbone, replace(CAT, placeholder="night"), MINE, (None,), 2)
    found = sentences_of(backbone, replace(CAT, placeholder="nigh"), MINE, (None,), 2)
    assert spelled(found, backbone) == [[["apaintingofw0w1", "thew0w1atnight"]]]


def test_a_caption_that_is_too_long_is_refused_with_its_text(backbone: Backbone) -> None:
    """Catches a word that is cut off behind a long caption, and then learns from nothing."""
    with pytest.raises(PromptError, match=r"a very very very .* tokens; the model takes"):
        sentences_of(backbone, CAT, SETTINGS, ("a " + "very " * 100 + "{}",), 2)
