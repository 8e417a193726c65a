"""VQAScore by a tiny LLaVA of random weights, built by transformers, and by one that is set to answer by brightness."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from eval.judges.vision_language import QUESTION, VisionLanguageJudge, load_vision_language
from eval.scores.score_run import Judgement, load_judge
from pipeline.models.configuration import ConfigurationError
from pipeline.protocols import QUICK

SIDE = 32
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}"


def save_tiny_llava(folder: Path) -> Path:
    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer: Any = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<pad>", "<s>", "</s>", "<image>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(["Yes yes No no"] * 50, trainer)
    fast: Any = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip
    processor: Any = transformers.LlavaProcessor(
        image_processor=transformers.CLIPImageProcessor(
            size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
        ),
        tokenizer=fast, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=ENDLESS,
    )  # fmt: skip
    processor.save_pretrained(folder)
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = transformers.LlavaForConditionalGeneration(
            transformers.LlavaConfig(
                vision_config=transformers.CLIPVisionConfig(**sizes, image_size=SIDE, patch_size=8),
                text_config=transformers.LlamaConfig(**sizes, vocab_size=len(fast), max_position_embeddings=512),
                image_token_index=fast.convert_tokens_to_ids("<image>"), image_seq_length=16, vision_feature_layer=-1,
            )
        )  # fmt: skip
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def judge(folder: Path) -> VisionLanguageJudge:
    return load_vision_language(f"vqa:{folder}")


def grey(*shades: int) -> list[Image.Image]:
    return [Image.fromarray(np.full((48, 40, 3), shade, np.uint8)) for shade in shades]


def test_the_score_is_the_share_of_yes_in_transformers_own_next_word(folder: Path, judge: VisionLanguageJudge) -> None:
    processor: Any = transformers.AutoProcessor.from_pretrained(folder)
    model: Any = transformers.LlavaForConditionalGeneration.from_pretrained(folder).eval()
    assert QUESTION.format("a cat") == 'Does this figure show "a cat"? Please answer yes or no.'
    asked = f"USER: <image>\n{QUESTION.format('a cat')} ASSISTANT:"
    prepared = processor(images=grey(200), text=asked, return_tensors="pt")
    with torch.no_grad():
        shares = model(**prepared).logits[0, -1].softmax(0)
    spelled = processor.tokenizer.convert_tokens_to_ids(["Yes", "yes", "Ġyes"])  # " Yes" is two tokens here
    assert processor.tokenizer.unk_token_id not in spelled
    expected = float(shares[spelled].sum())
    assert judge.probabilities(grey(200), ["a cat"])[0] == pytest.approx(expected, rel=1e-4)


def test_a_batch_of_long_and_short_texts_scores_as_each_of_them_alone(judge: VisionLanguageJudge) -> None:
    """Catches padding that the model reads as words, and answers that go to other pictures."""
    pictures = grey(*range(0, 250, 25))
    texts = ["a cat" if place % 2 else f"a long sentence on cat {place} at night, on grass" for place in range(10)]
    alone = [judge.probabilities([one], [text])[0] for one, text in zip(pictures, texts, strict=True)]
    assert len(set(alone)) == 10
    np.testing.assert_allclose(judge.probabilities(pictures, texts), alone, rtol=1e-3)
    assert judge.probabilities([], []).shape == (0,)


def test_a_judge_whose_yes_is_brightness_orders_pictures_by_it(tmp_path: Path) -> None:
    """The weights of its answer are set along what a light picture changes before the answer, so that the order is certain."""
    judge: Any = load_vision_language(f"vqa:{save_tiny_llava(tmp_path)}")
    model: Any = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path)
    prepared = judge._processor(
        images=grey(0, 255), text=[judge._chat.format(QUESTION.format("a light"))] * 2, return_tensors="pt"
    )
    with torch.no_grad():
        dark, light = model(**prepared, output_hidden_states=True).hidden_states[-1][:, -1]
        model.lm_head.weight.zero_()
        model.lm_head.weight[judge._yes] = (light - dark) * 100
    model.save_pretrained(tmp_path)
    noise = np.random.default_rng(0).integers(0, 40, (6, 48, 48, 3), dtype=np.uint8)
    pictures = [*noise[:3], *(255 - noise[3:])]
    answers = load_vision_language(f"vqa:{tmp_path}").probabilities(pictures, ["a light"] * 6)
    assert answers[:3].max() < answers[3:].min()


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
        ({"model_type": "blip-2"}, "model_type is 'blip-2'; models that answer questions are llava"),
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
