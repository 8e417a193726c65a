"""Loading a model, whole or broken; and how prompts that hold learned words become tokens."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

from pipeline.models.base import Backbone, PromptError, split_at_placeholders
from pipeline.models.find import ModelError, find_model
from pipeline.models.load import load_backbone
from pipeline.records import Concept
from pipeline.settings import InversionSettings
from pipeline.training.inversion import new_slot
from pipeline.training.templates import templates_for
from tests.tiny_model import PIXELS, WIDTH, load_pipeline

WEIGHTS = {"text_encoder": "model.safetensors", "unet": "diffusion_pytorch_model.safetensors",
           "vae": "diffusion_pytorch_model.safetensors"}  # fmt: skip
PICTURES = np.zeros((1, PIXELS, PIXELS, 3), np.uint8)


@pytest.fixture(scope="module")
def backbone(epsilon_model: Path) -> Backbone:
    return load_backbone(str(epsilon_model))


@pytest.fixture
def copy(epsilon_model: Path, tmp_path: Path) -> Path:
    """A copy of the model, to be broken."""
    return Path(shutil.copytree(epsilon_model, tmp_path / "model"))


def ids(backbone: Backbone, prompt: str, words: dict[str, range]) -> list[int]:
    """Without start, end and padding; the words' rows as -1, -2, ..."""
    end = backbone.text["text_encoder"].end[-1]  # type: ignore[attr-defined]
    row = backbone.tokenise([prompt], words).ids[0].tolist()[1:]
    return [backbone.vocabulary - 1 - each if each >= backbone.vocabulary else each for each in row[: row.index(end)]]


def text(backbone: Backbone, *parts: str) -> list[int]:
    return [each for part in parts for each in ids(backbone, part, {})]


def test_names_that_begin_alike_are_told_apart(backbone: Backbone) -> None:
    """Catches "<cat>-2" read as the word "<cat>" followed by "-2": the pictures would be another concept's."""
    words = {"<cat>": range(1), "<cat>-2": range(1, 2), "<cat>-22": range(2, 4)}
    found = ids(backbone, "a <cat>-22, a <cat> and <cat>-2", words)
    a, comma, and_ = (text(backbone, part) for part in ("a", ",", "and"))
    assert found == [*a, -3, -4, *comma, *a, -1, *and_, -2]
    assert ids(backbone, "a <cat>-22, a <cat> and <cat>-2", dict(reversed(words.items()))) == found


def test_a_word_that_is_the_beginning_of_a_common_one_is_found_where_it_stands(backbone: Backbone) -> None:
    assert split_at_placeholders("sks and <sks>", ["<sks>", "sks"]) == ["sks", " and ", "<sks>"]
    assert split_at_placeholders("a (b) [c]", ["(b)", "[c]"]) == ["a ", "(b)", " ", "[c]"]
    assert ids(backbone, "<w><w>dog", {"<w>": range(2)}) == [-1, -2, -1, -2, *text(backbone, "dog")]


@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [
        ("a photo of a bowl", ["a photo of a bowl"]),
        ("an owl's owl, OWL-like owls", ["an ", "owl", "'s ", "owl", ", ", "OWL", "-like owls"]),
        ("owl_1 <owl> owlé", ["owl_1 <", "owl", "> owlé"]),
    ],
)
def test_a_name_without_brackets_is_found_as_a_whole_word_only(prompt: str, pieces: list[str]) -> None:
    """Catches a word file called owl that changes every prompt with a bowl in it."""
    assert split_at_placeholders(prompt, ["owl"]) == pieces


def test_a_placeholder_is_found_whatever_its_case(backbone: Backbone) -> None:
    """Catches a word lost to a tokenizer that lower-cases: the prompt would be of an unknown name's letters."""
    for spelled in ("<My-Cat>", "<my-cat>", "<MY-CAT>"):
        assert ids(backbone, f"a photo of {spelled}", {"<My-cat>": range(1)}) == [*text(backbone, "a photo of"), -1]


@pytest.mark.parametrize("prompt", ["a photo of <w>", "<w>, at night", "<w>-like dog", "a dog like (<w>)", "a<w>cat"])
@pytest.mark.parametrize("count", [1, 3])
def test_tokens_are_those_of_diffusers_with_the_word_loaded(
    prompt: str, count: int, backbone: Backbone, epsilon_model: Path
) -> None:
    theirs = load_pipeline(epsilon_model)
    theirs.load_textual_inversion({"<w>": torch.zeros(count, WIDTH)})
    expanded = theirs.maybe_convert_prompt(prompt, theirs.tokenizer)
    wanted = theirs.tokenizer(expanded, padding="max_length", return_tensors="pt").input_ids
    assert torch.equal(backbone.tokenise([prompt], {"<w>": range(count)}).ids, wanted)


def test_words_may_come_as_parameters_and_as_plain_tensors_in_turn(backbone: Backbone) -> None:
    """Catches a Parameter that the table of words keeps as its own: every later word would be refused, and digests differ."""
    before, tokens = backbone.weights_digest(), backbone.tokenise(["<cat>"], {"<cat>": range(1)})
    word = torch.nn.Parameter(torch.ones(1, backbone.encoders["text_encoder"]))
    as_parameter = backbone.embed(tokens, {"text_encoder": word}).context
    as_tensor = backbone.embed(tokens, {"text_encoder": word.detach()}).context
    assert torch.equal(as_parameter, as_tensor)
    assert as_parameter.requires_grad
    assert backbone.weights_digest() == before


@pytest.mark.parametrize("placeholder", ["cat", "CAT", " cat ", "<|endoftext|>"])
def test_a_placeholder_that_already_is_a_word_is_refused(placeholder: str, backbone: Backbone) -> None:
    """Catches a new word that would silently take the place of "cat" in every prompt."""
    with pytest.raises(PromptError, match="already is a word"):
        backbone.refuse_placeholder(placeholder)
    with pytest.raises(PromptError, match="already is a word"):
        new_slot(Concept("c", (), placeholder), PICTURES, backbone, InversionSettings())


def test_a_placeholder_of_several_tokens_is_welcome(backbone: Backbone) -> None:
    for placeholder in ("<cat>", "my cat", "sks"):
        backbone.refuse_placeholder(placeholder)


def test_a_prompt_too_long_for_the_model_is_refused_by_name(backbone: Backbone) -> None:
    """Catches a prompt cut at the end, where the word often stands: the pictures would show anything but it."""
    room = 30
    fits = "cat " * (room - 3) + "<w>"
    assert ids(backbone, fits, {"<w>": range(3)})[-3:] == [-1, -2, -3]
    with pytest.raises(PromptError, match=r"prompt .dog cat .*\.\.\.. has 31 tokens; the model takes 30: shorten it"):
        backbone.tokenise(["a cat", f"dog {fits}"], {"<w>": range(3)})


def test_every_vector_of_a_word_is_in_every_prompt_it_is_trained_on(backbone: Backbone) -> None:
    concept = Concept("c", (), "<c>", vectors=5)
    found = new_slot(concept, PICTURES, backbone, InversionSettings()).templates.ids
    assert len(found) == len(templates_for("object"))
    assert ((found >= backbone.vocabulary).sum(dim=1) == 5).all()
    assert found.amax().item() == backbone.vocabulary + 4


def test_a_word_of_more_vectors_than_its_prompts_can_hold_is_refused(backbone: Backbone) -> None:
    with pytest.raises(PromptError, match="shorten it"):
        new_slot(Concept("c", (), "<c>", vectors=29), PICTURES, backbone, InversionSettings())


def test_an_initializer_without_tokens_is_refused_by_name(backbone: Backbone) -> None:
    with pytest.raises(PromptError, match="initializer ' ' has no token"):
        backbone.initial_vectors(" ", 1)


def test_the_weights_digest_of_a_folder_tells_models_apart(epsilon_model: Path, copy: Path) -> None:
    """Catches words of other weights taken for done."""
    assert find_model(str(copy)).digest == find_model(str(epsilon_model)).digest
    change_weights(copy, "vae", lambda value: value.add_(1e-3))
    assert find_model(str(copy)).digest != find_model(str(epsilon_model)).digest


def change_weights(folder: Path, part: str, change: Callable[[torch.Tensor], object]) -> None:
    """Applies `change` to the first of the part's weights."""
    weights = load_file(folder / part / WEIGHTS[part])
    change(weights[min(weights)])
    save_file(weights, folder / part / WEIGHTS[part], metadata={"format": "pt"})


def refused(name: Path | str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        load_backbone(str(name))


@pytest.mark.parametrize("name", ["/nowhere/model", "./model", "model", "a/b/c", "~/no such model"])
def test_a_model_that_is_not_there_is_named(name: str) -> None:
    refused(name, f"model '{name}': there is no such folder, and it is not a hub id")


def test_a_model_that_the_hub_does_not_give_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*arguments: object, **keywords: object) -> None:
        raise LocalEntryNotFoundError("no outgoing traffic")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    refused("owner/name", "model 'owner/name': not a folder here, and the hub did not give it: no outgoing traffic")


def test_a_revision_of_the_hub_is_pinned_and_recorded(
    epsilon_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's own cache, offline, with two commits of one repository in it."""
    cached = tmp_path / "models--owner--name"
    old, new = "a" * 40, "b" * 40
    for commit in (old, new):
        shutil.copytree(epsilon_model, cached / "snapshots" / commit)
    for vectors in (cached / "snapshots" / new).glob("text_encoder/*.safetensors"):
        save_file({name: value + 1 for name, value in load_file(vectors).items()}, vectors)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(new)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    pinned, latest = find_model(f"owner/name@{old}"), find_model("owner/name")
    assert (pinned.revision, latest.revision) == (old, new)
    assert pinned.name == f"owner/name@{old}"
    assert pinned.digest == find_model(str(epsilon_model)).digest != latest.digest
    assert find_model(str(epsilon_model)).revision is None


def test_a_folder_without_an_index_is_refused(copy: Path) -> None:
    (copy / "model_index.json").unlink()
    refused(copy, "has no model_index.json; a model is a folder in diffusers' layout")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"text"', b"\xff\xfe"])
def test_an_index_that_is_no_json_object_is_refused(content: bytes, copy: Path) -> None:
    (copy / "model_index.json").write_bytes(content)
    refused(copy, "model_index.json is not a JSON object")


def test_another_family_is_refused_with_those_that_are_known(copy: Path) -> None:
    (copy / "model_index.json").write_text(json.dumps({"_class_name": "HunyuanDiTPipeline"}), encoding="utf-8")
    refused(copy, "is a HunyuanDiTPipeline; this version knows .*StableDiffusionPipeline")


@pytest.mark.parametrize("part", WEIGHTS)
def test_a_missing_part_is_named(part: str, copy: Path) -> None:
    shutil.rmtree(copy / part)
    refused(copy, f"has no folder {part}/")


@pytest.mark.parametrize("part", WEIGHTS)
def test_pickled_weights_are_refused_with_what_to_do(part: str, copy: Path) -> None:
    """Catches code run from somebody's .bin file."""
    (copy / part / WEIGHTS[part]).rename(copy / part / "pytorch_model.bin")
    refused(copy, f"{part} has no .safetensors file; pickled weights can run code.*save_pretrained")


@pytest.mark.parametrize("part", WEIGHTS)
def test_weights_that_are_not_finite_are_named(part: str, copy: Path) -> None:
    """Catches hours of training under a model that answers NaN to everything."""
    change_weights(copy, part, lambda value: value.view(-1)[-1:].fill_(torch.nan))
    refused(copy, "weight .* is not finite")


@pytest.mark.parametrize("part", WEIGHTS)
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.9], ids=["empty", "header cut", "data cut"])
def test_truncated_weights_are_refused(part: str, kept: float, copy: Path) -> None:
    """Catches a download that broke off."""
    file = copy / part / WEIGHTS[part]
    data = file.read_bytes()
    file.write_bytes(data[: int(kept * len(data))])
    refused(copy, f"model '{copy}' in .* does not load")


@pytest.mark.parametrize("part", WEIGHTS)
def test_a_missing_weight_is_named_rather_than_made_up(part: str, copy: Path) -> None:
    """Catches a model that libraries complete with random numbers and a warning nobody reads."""
    file = copy / part / WEIGHTS[part]
    weights = load_file(file)
    gone = max(weights)
    del weights[gone]
    save_file(weights, file, metadata={"format": "pt"})
    refused(copy, f"lacks the weights {re.escape(gone)}")


@pytest.mark.parametrize(
    "file",
    [
        "text_encoder/config.json", "unet/config.json", "vae/config.json", "scheduler/scheduler_config.json",
        "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json",
    ],
)  # fmt: skip
@pytest.mark.parametrize("content", ["", "{", "[]"])
@pytest.mark.filterwarnings("ignore:It is deprecated to pass a pretrained model name:FutureWarning")
def test_a_broken_configuration_is_refused(file: str, content: str, copy: Path) -> None:
    (copy / file).write_text(content, encoding="utf-8")
    refused(copy, f"model '{copy}' in .* does not load")


@pytest.mark.parametrize("folder", ["tokenizer", "scheduler"])
def test_a_missing_tokenizer_or_scheduler_is_refused(folder: str, copy: Path) -> None:
    shutil.rmtree(copy / folder)
    refused(copy, f"model '{copy}' in .* does not load")


def test_a_model_that_predicts_something_else_is_refused_when_it_is_loaded(copy: Path) -> None:
    """Catches the first step of every concept failing on every worker, where one line at the start would do."""
    file = copy / "scheduler/scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"prediction_type": "sample"}), encoding="utf-8")
    refused(copy, "predicts 'sample', not epsilon or v_prediction")
