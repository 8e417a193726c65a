"""Protocols: the shipped ones are what was published, a user's own is checked whole, and pictures say whose they are."""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models.base import PromptError
from pipeline.protocols import PROTOCOLS, QUICK, Protocol, ProtocolError, find_protocol
from pipeline.protocols.protocol import fill
from pipeline.protocols.reading import read_protocol
from pipeline.randomness import derive_seed
from pipeline.records import Concept
from pipeline.sampling.prompting import Request, leave_out, missing, requests_for

OWL = Concept("owl", (), "<owl>", noun="bird")
DOG = Concept("dog6", (), "<dog6>", noun="dog")
SMALLEST = b'[edits]\nobject = ["a photo of {} on the moon"]\n'


def read(text: str) -> Protocol:
    return read_protocol(text.encode(), "mine.toml")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_protocol_is_read_in_every_encoding_that_says_itself(encoding: str) -> None:
    text = '[edits]\r\nobject = ["a\u00a0photo of {} \u200d"]\r\n'
    assert read_protocol(text.encode(encoding), "mine.toml").edits == {"object": ("a\u00a0photo of {} \u200d",)}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'name = "caf\xe9"', r"mine.toml: not a TOML file: line 1: the byte 0xE9 is not UTF-8 \(it may be Latin-1"),
        (b'[edits]\nobject = ["{} on\\nmars"]', "prompt 1 is .* one line without control characters"),
        (b'name = "K\xc3\xb6ln"\n' + SMALLEST, "lower-case letters a-z"),
    ],
    ids=["Latin-1", "line end", "accented name"],
)
def test_text_that_cannot_serve_in_a_protocol_is_named(content: bytes, said: str) -> None:
    with pytest.raises(ProtocolError, match=said):
        read_protocol(content, "mine.toml")


def drawn(requests: Iterable[Request]) -> list[tuple[str, str, int, int]]:
    return [(each.kind, each.prompt, each.index, each.seed) for each in requests]


def test_quick_draws_the_pictures_it_always_drew() -> None:
    """Catches other seeds or prompts under a label that old runs were scored by."""
    found = requests_for(OWL, QUICK, 0)
    assert QUICK.label == "quick-v1"
    assert len([each for each in found if each.trained]) == 8 + 4 * 4
    assert len([each for each in found if not each.trained]) == (5 + 2) * 4, (
        "the floors: untrained words, noun, no word"
    )
    assert QUICK.pictures == len(found)
    first = found[0]
    assert (first.prompt, first.stated, first.index) == ("a photo of <owl>", "a photo of", 0)
    assert first.seed == derive_seed(0, "owl", "a photo of {}", 0)


def test_a_catalogue_asks_for_the_pictures_of_quick_from_the_seeds_of_a_class() -> None:
    """Catches floors that two concepts of a class cannot share, and noise that a word and its floor do not have in common."""
    second = PROTOCOLS["catalogue"]
    assert second.label == "catalogue-v1"
    assert replace(second, name="quick", seeds="concept") == QUICK
    owl, wren, dog = (
        requests_for(each, second, 0) for each in (OWL, replace(OWL, name="wren", placeholder="<w>"), DOG)
    )
    assert [each.seed for each in owl] == [each.seed for each in wren]
    assert not {each.seed for each in owl} & {each.seed for each in dog}
    assert not {each.seed for each in owl} & {each.seed for each in requests_for(OWL, QUICK, 0)}
    plain = {(each.kind, each.index): each.seed for each in owl if each.prompt == "a photo of <owl>"}
    assert plain["untrained", 0] == plain["reconstruction", 0]
    with pytest.raises(ProtocolError, match="seeds is 'word'; it takes concept or class"):
        read('seeds = "word"\n' + SMALLEST.decode())


def test_the_papers_protocol_is_the_papers() -> None:
    paper = PROTOCOLS["paper"]
    assert (paper.plain_images, paper.edit_images, paper.sampler, paper.steps, paper.guidance) == (
        64,
        64,
        "ddim",
        50,
        5,
    )
    assert sorted(set(paper.difficulty.values())) == ["background", "composition", "style"]
    assert paper.difficulty_of("Elmo holding a <owl>") == "composition"
    assert paper.difficulty_of("a photo of <owl>") is None


def test_dreambench_has_25_prompts_for_objects_and_other_25_for_live_subjects_which_name_the_class() -> None:
    dreambench = PROTOCOLS["dreambench"]
    assert {name: len(prompts) for name, prompts in dreambench.edits.items()} == {"object": 25, "live": 25}
    assert dreambench.edit_images == 4
    live = [each for each in requests_for(DOG, dreambench, 0) if each.kind == "edit"]
    assert len({each.prompt for each in live}) == 25
    hat = next(each for each in live if "santa" in each.prompt)
    assert (hat.prompt, hat.stated) == ("a <dog6> dog wearing a santa hat", "a dog wearing a santa hat")
    assert any("Eiffel" in each.prompt for each in requests_for(OWL, dreambench, 0))


def test_customconcept101_has_20_prompts_for_every_class_of_the_data_set() -> None:
    protocol = PROTOCOLS["customconcept101"]
    assert {len(prompts) for prompts in protocol.edits.values()} == {20}
    assert protocol.templates_of(DOG)[1] == protocol.edits["dog"]
    assert protocol.templates_of(replace(OWL, noun="pokemon plushie"))[1] == protocol.edits["plushie"]
    with pytest.raises(ProtocolError, match="owl: the protocol customconcept101-v1 has no prompts for 'object'"):
        protocol.templates_of(OWL)


def test_a_column_of_the_manifest_chooses_the_list() -> None:
    dreambench = PROTOCOLS["dreambench"]
    assert dreambench.templates_of(replace(OWL, carried={"subject": "live"}))[1] == dreambench.edits["live"]
    with pytest.raises(ProtocolError, match=r"no prompts for 'alive'.*one of live, object"):
        dreambench.templates_of(replace(OWL, carried={"subject": "alive"}))
    assert QUICK.templates_of(replace(OWL, carried={"subject": "wildlife"}))[1] == QUICK.edits["object"]


def test_a_concept_without_a_class_is_refused_by_prompts_that_name_it() -> None:
    with pytest.raises(PromptError, match="owl: the prompts of dreambench-v1 name what a concept is"):
        requests_for(replace(OWL, noun=None), PROTOCOLS["dreambench"], 0)


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_every_shipped_protocol_survives_the_way_through_run_json(name: str) -> None:
    assert Protocol.of_dict(json.loads(json.dumps(PROTOCOLS[name].as_dict()))) == PROTOCOLS[name]
    assert PROTOCOLS[name].digest == ""


def test_pictures_serve_the_protocol_they_were_drawn_for_and_no_other() -> None:
    """Catches pictures of one sampler scored under the name of another, whose prompts are the same."""
    other = replace(QUICK, name="slow", steps=50)
    pictures = [("training", "", 0, 0), *drawn(requests_for(OWL, QUICK, 0))]
    assert missing(pictures, requests_for(OWL, QUICK, 0)) == []
    for asked in (requests_for(OWL, other, 0), requests_for(OWL, QUICK, 1)):
        assert missing(pictures, asked) == asked
    assert missing(pictures[:-1], requests_for(OWL, QUICK, 0)) == requests_for(OWL, QUICK, 0)[-1:]


def test_the_plain_prompt_is_asked_for_with_the_class_in_the_words_place_and_with_nothing_there() -> None:
    """Catches floors drawn from other noise than what they are held against, or with the word still in them."""
    named = replace(OWL, noun="brown owl", initializer="bird")

    def of(concept: Concept, protocol: Protocol, kind: str) -> list[Request]:
        return [each for each in requests_for(concept, protocol, 0) if each.kind == kind]

    assert {each.prompt for each in of(named, QUICK, "noun")} == {"a photo of brown owl"}
    assert {each.prompt for each in of(replace(named, noun=None), QUICK, "noun")} == {"a photo of bird"}
    assert of(replace(named, noun=None, initializer=None), QUICK, "noun") == []
    assert {each.prompt for each in of(named, QUICK, "wordless")} == {"a photo of"}
    seeds = [each.seed for each in of(named, QUICK, "reconstruction")]
    for kind in ("noun", "wordless"):
        assert [each.seed for each in of(named, QUICK, kind)] == seeds[: QUICK.untrained_images]
    dreambench = PROTOCOLS["dreambench"]
    assert {each.prompt for each in of(DOG, dreambench, "noun")} == {"a photo of a dog"}
    assert {each.prompt for each in of(DOG, dreambench, "wordless")} == {"a photo of a"}


def test_sequential_stopping_has_a_label_of_its_own_and_the_pictures_of_the_full_sample() -> None:
    """Catches an interval that only the first pictures gave, compared with full ones as if it were theirs."""
    stopping = replace(PROTOCOLS["paper"], until_ci=0.005)
    assert stopping.label == "paper-v1-until-0.005"
    assert requests_for(OWL, stopping, 0) == requests_for(OWL, PROTOCOLS["paper"], 0)


def test_the_smallest_file_is_a_list_of_prompts() -> None:
    mine = read(SMALLEST.decode())
    assert (mine.name, mine.plain, mine.sampler, mine.plain_images) == ("mine", QUICK.plain, "dpm++", 8)
    assert [each.prompt for each in requests_for(OWL, mine, 0) if each.kind == "edit"] == [
        "a photo of <owl> on the moon"
    ] * 4


def test_two_files_of_one_name_have_labels_of_their_own() -> None:
    """Catches an edited prompt file whose scores are mixed with those of the old one."""
    one, other = read(SMALLEST.decode()), read("steps = 21\n" + SMALLEST.decode())
    assert one.label.startswith("mine-v1-")
    assert one.label != other.label


def test_all_that_is_wrong_with_a_file_is_said_at_once_and_where() -> None:
    with pytest.raises(ProtocolError) as caught:
        read(
            'name = "My Prompts"\nsampler = "plms"\nguidance = "high"\nsteps = 0\ncolour = 1\n'
            '[plain]\nanimal = "a {}"\n[subjects]\ncat = "live"\n[edits]\n'
            'object = ["a photo", "a {} and {}", "{0.__class__} {}", "{}", "a photo of {} at night", "a photo of {} at night"]\n'
            "[edits.style]\nhard = []\n"
        )
    said = str(caught.value)
    assert all(line.startswith("mine.toml: ") for line in said.splitlines())
    for expected in (
        "name is 'My Prompts'", "sampler is 'plms'; it takes one of ddim, dpm++, euler", "guidance is 'high'",
        "steps is 0; it takes a whole number from 1 to 1000", "'colour' means nothing here", "[plain] animal means nothing",
        "[subjects] cat is 'live'; the lists of [edits] are object, style", "object, prompt 1 is 'a photo'",
        "object, prompt 2 is 'a {} and {}'", "prompt 3 is '{0.__class__} {}'", "prompt 4 is '{}'; besides the word",
        "holds 'a photo of {} at night' twice", "[edits.style] hard means nothing; the classes are background",
    ):  # fmt: skip
        assert expected in said


@pytest.mark.parametrize(
    ("data", "said"), [(b"\xff", "not a TOML file"), (b"[edits", "not a TOML file"), (b"", r"\[edits\] is missing")]
)
def test_a_file_that_is_no_protocol_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(ProtocolError, match=said):
        read_protocol(data, "mine.toml")


def test_a_name_that_is_neither_shipped_nor_a_file_is_refused_with_the_choice(tmp_path: Path) -> None:
    with pytest.raises(
        ProtocolError, match="none of catalogue, compare, compare-v2, customconcept101, dreambench, paper, quick"
    ):
        find_protocol("papre")
    (tmp_path / "mine.toml").write_bytes(SMALLEST)
    assert find_protocol(str(tmp_path / "mine.toml")).name == "mine"


@given(word=st.text(max_size=20), noun=st.text(max_size=20))
def test_what_word_and_class_hold_is_never_read_as_a_template(word: str, noun: str) -> None:
    """Catches a class named "{}" or a word named "{class}" that would be filled in again."""
    assert fill("a {} {class}!", word, noun) == f"a {word} {noun}!"


def test_a_word_is_left_out_as_a_whole_word_only() -> None:
    """Catches a text to score against that has lost pieces of its words."""
    assert leave_out("a photo of Phot at night", "phot") == "a photo of at night"


def test_a_placeholder_that_is_a_word_of_a_protocols_prompts_is_refused() -> None:
    protocol = read('[edits]\nobject = ["a photo of {} on the moon"]\n')
    with pytest.raises(PromptError, match="placeholder 'Moon' is a word of the sentence"):
        requests_for(replace(OWL, placeholder="Moon"), protocol, 0)


@pytest.mark.parametrize(
    "text",
    [
        "plain = " + "[" * 200_000, "plain = " + "{a=" * 100_000, "a" + ".a" * 200_000 + " = 1", "[" + "a . " * 100_000 + "b]",
        "steps = " + "9" * 500_000, "steps = 0x" + "f" * 500_000,
    ],
    ids=["lists", "tables", "a key", "a heading", "a number", "a number in hexadecimal"],
)  # fmt: skip
def test_a_protocol_nested_or_long_beyond_reason_is_refused_in_one_sentence(text: str) -> None:
    """Catches a file of 400 kB that the parser works on for hours, and a traceback."""
    with pytest.raises(ProtocolError, match="not a TOML file") as error:
        read_protocol(text.encode(), "mine.toml")
    assert len(str(error.value)) < 300
