"""VQAScore by tiny models of random weights, one a family, built by transformers; and by ones that answer by brightness."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from eval.judges.judge import load_judge
from eval.judges.vision_language import CHATS, VisionLanguageJudge, load_vision_language
from eval.scores.score_run import Judgement
from pipeline.models.configuration import ConfigurationError
from pipeline.protocols import QUICK
from tests.answering_judges import FAMILIES, save_answering_judge

ASKED = 'Does this figure show "a cat"? Please answer yes or no.'
# What each family is asked, written out.
WORDED = {
    "llava": f"USER: <image>\n{ASKED} ASSISTANT:",
    "qwen2_vl": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|><|image_pad|>"
    f"<|vision_end|>{ASKED}<|im_end|>\n<|im_start|>assistant\n",
    "paligemma": f"<image>{ASKED}",
    "blip-2": f"Question: {ASKED} Answer:",
    "instructblip": f"Question: {ASKED}",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: save_answering_judge(tmp_path_factory.mktemp(family), family) for family in FAMILIES}


@pytest.fixture(scope="module")
def folder(folders: dict[str, Path]) -> Path:
    return folders["llava"]


@pytest.fixture(scope="module")
def judge(folder: Path) -> VisionLanguageJudge:
    return load_vision_language(f"vqa:{folder}")


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def grey(*shades: int) -> list[Image.Image]:
    return [Image.fromarray(np.full((48, 40, 3), shade, np.uint8)) for shade in shades]


def test_the_score_is_the_share_of_yes_in_the_first_word_that_transformers_generates(
    family: str, folders: dict[str, Path]
) -> None:
    """Catches a wording that a family does not take, a picture it does not see, and an answer read at the wrong place."""
    processor: Any = transformers.AutoProcessor.from_pretrained(folders[family])
    model: Any = transformers.AutoModelForImageTextToText.from_pretrained(folders[family]).eval()
    (picture,) = grey(200)
    prepared = processor(images=picture, text=[WORDED[family]], return_tensors="pt")
    prepared.pop("labels", None)
    written = model.generate(
        **prepared, max_new_tokens=1, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    spelled = processor.tokenizer.convert_tokens_to_ids(["Yes", "yes", "Ġyes"])  # " Yes" is two tokens here
    assert processor.tokenizer.unk_token_id not in spelled
    expected = float(written.logits[0].softmax(-1)[0, spelled].sum())
    ours = load_vision_language(f"vqa:{folders[family]}")
    assert ours.probabilities([picture], ["a cat"])[0] == pytest.approx(expected, rel=1e-4)
    assert ours.probabilities(grey(0), ["a cat"])[0] != pytest.approx(expected, rel=1e-6)


def test_a_batch_of_long_and_short_texts_scores_as_each_of_them_alone(family: str, folders: dict[str, Path]) -> None:
    """Catches padding that the model reads as words, and answers that go to other pictures."""
    judge, pictures = load_vision_language(f"vqa:{folders[family]}"), grey(*range(0, 250, 25))
    texts = ["a cat" if place % 2 else f"a long sentence on cat {place % 4} at night, on grass" for place in range(10)]
    alone = [judge.probabilities([one], [text])[0] for one, text in zip(pictures, texts, strict=True)]
    assert len(set(alone)) == 10
    np.testing.assert_allclose(judge.probabilities(pictures, texts), alone, rtol=1e-5)
    assert judge.probabilities([], []).shape == (0,)


def test_a_judge_whose_yes_is_brightness_orders_pictures_by_it(family: str, folders: dict[str, Path]) -> None:
    """Its answer is made to depend on what a light picture changes before the answer alone, so that the order is certain."""
    judge: Any = load_vision_language(f"vqa:{folders[family]}")
    head, seen = judge._model.get_output_embeddings(), []
    watched = head.register_forward_hook(lambda _, states, __: seen.append(states[0][:, -1]))
    judge.probabilities(grey(0, 255), ["a light"] * 2)
    watched.remove()
    dark, light = seen[0]

    def by_brightness(_: Any, states: Any, logits: torch.Tensor) -> torch.Tensor:
        along = (states[0] - (dark + light) / 2) @ (light - dark) / (light - dark).square().sum()
        told = torch.zeros_like(logits)
        told[..., judge._yes] = 10 * along.unsqueeze(-1)
        return told

    head.register_forward_hook(by_brightness)
    noise = np.random.default_rng(0).integers(0, 40, (6, 48, 48, 3), dtype=np.uint8)
    answers = judge.probabilities([*noise[:3], *(255 - noise[3:])], ["a light"] * 6)
    assert answers[:3].max() < answers[3:].min()


@pytest.mark.parametrize("kind", sorted(CHATS))
def test_a_wording_holds_the_question_once_and_is_one_of_a_model_that_transformers_has(kind: str) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    assert CHATS[kind].count("{}") == 1
    assert kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES


def test_a_second_tokenizer_is_part_of_the_fingerprint_and_may_run_no_code(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    for path in folders["instructblip"].rglob("*"):
        if path.is_file():
            (tmp_path / path.relative_to(folders["instructblip"])).parent.mkdir(exist_ok=True)
            (tmp_path / path.relative_to(folders["instructblip"])).write_bytes(path.read_bytes())
    before = load_vision_language(f"vqa:{tmp_path}").fingerprint
    inside = tmp_path / "qformer_tokenizer" / "tokenizer_config.json"
    told = json.loads(inside.read_text())
    inside.write_text(json.dumps({**told, "clean_up_tokenization_spaces": True}))
    assert load_vision_language(f"vqa:{tmp_path}").fingerprint != before
    inside.write_text(json.dumps({**told, "auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}))
    with pytest.raises(ConfigurationError, match="'auto_map'"):
        load_vision_language(f"vqa:{tmp_path}")


def test_the_fingerprint_follows_the_weights_and_the_question_and_not_the_path(
    folder: Path, judge: VisionLanguageJudge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert load_judge(f"vqa:{tmp_path}").fingerprint == judge.fingerprint
    monkeypatch.setattr("eval.judges.vision_language.QUESTION", "Is this {}?")
    assert load_judge(f"vqa:{tmp_path}").fingerprint != judge.fingerprint


def test_a_text_that_holds_a_picture_of_its_own_is_refused(judge: VisionLanguageJudge) -> None:
    with pytest.raises(ValueError, match="holds '<image>', a special token"):
        judge.probabilities(grey(0), ["an <image> of a cat"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"auto_map": {"AutoModelForImageTextToText": "evil.Model"}}, "'auto_map'"),
        ({"text_config": {"auto_map": {"AutoModel": "evil.Model"}}}, "'auto_map'"),
        (
            {"vision_config": {"model_type": "timm_wrapper", "architecture": "resnet18"}},
            "'model_type' is 'timm_wrapper'",
        ),
        ({"vision_config": {"model_type": "vitdet"}}, "model_type of its vision_config is 'vitdet'"),
        ({"text_config": {"model_type": "rag"}}, "model_type of its text_config is 'rag'"),
        ({"model_type": "git"}, "model_type is 'git'; models that answer questions are llava"),
    ],
)
def test_a_folder_that_would_have_anything_else_run_is_refused(
    change: dict[str, object], said: str, folder: Path, tmp_path: Path
) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    told = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**told, **change}))
    with pytest.raises(ConfigurationError, match=said):
        load_vision_language(f"vqa:{tmp_path}")
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="safetensors does not exist"):
        load_vision_language(f"vqa:{tmp_path}")


def test_it_is_a_judge_of_answers_alone(judge: VisionLanguageJudge) -> None:
    judgement = Judgement(QUICK, "m", "d", judge.name)
    assert judgement.answers
    assert not judgement.reads_texts
