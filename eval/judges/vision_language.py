"""VQAScore (Lin et al. 2024, arXiv 2404.01291): how probable a vision-language model finds it that a picture shows a text.

    vqa:FOLDER     config.json, model.safetensors, processor and tokenizer, as transformers saves them

The model answers a question about a picture; the score is the probability of "yes" as its first word. No code of a folder is run,
its chat template included, weights are read from safetensors only, and nothing is downloaded.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from safetensors import SafetensorError

from eval.judges.judge import VQA, Features, Picture
from eval.judges.picture_sizes import refuse_large_pictures
from eval.judges.transformers_folder import CONFIGURATION, WEIGHTS, digest_of
from pipeline.models.configuration import ConfigurationError, read_configuration, refuse_code
from pipeline.models.weights.load_weights import load_whole

QUESTION = 'Does this figure show "{}"? Please answer yes or no.'
ANSWERS = ("Yes", "yes", " Yes", " yes")  # those of them that are one token count together
VERSION = 1  # of the arithmetic
BATCH = 8
MOST_SIDE = 4_096  # pixels
# model_type -> the text around a question: what the published chat template makes of a picture and a question. A folder's own
# template is a stranger's program and is never run. Models without a chat are asked as VQAScore's authors ask them (InstructBLIP,
# PaliGemma) or as their own documentation does (BLIP-2); their processors put the picture first.
QWEN = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>{}<|im_end|>\n<|im_start|>assistant\n"
QWEN_2 = f"<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{QWEN}"
SMOL = "<|im_start|>User:<image>{}<end_of_utterance>\nAssistant:"
CHATS = {
    "llava": "USER: <image>\n{} ASSISTANT:",
    "qwen2_vl": QWEN_2,
    "qwen2_5_vl": QWEN_2,
    "qwen3_vl": QWEN,
    "internvl": "<|im_start|>user\n<IMG_CONTEXT>\n{}<|im_end|>\n<|im_start|>assistant\n",
    "idefics2": "User:<image>{}<end_of_utterance>\nAssistant:",
    "idefics3": SMOL,
    "smolvlm": SMOL,
    "gemma3": "<start_of_turn>user\n<start_of_image>{}<end_of_turn>\n<start_of_turn>model\n",
    "paligemma": "<image>{}",
    "blip-2": "Question: {} Answer:",
    "instructblip": "Question: {}",
}
ALONE = ("blip-2", "instructblip")  # their processors take one picture a text, and no list of them
QFORMER = "qformer_tokenizer"  # InstructBLIP's second tokenizer, a folder inside

# Kinds of models that these are made of, beside those of their own family. Of any other, the library would make whatever it knows.
INSIDE = (
    "clip_vision_model", "siglip_vision_model", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "phi", "phi3", "opt", "t5",
)  # fmt: skip


class VisionLanguageJudge:
    """A model that answers, in eval mode, with the precision its folder states.

    name: "vqa:FOLDER". kind: its model_type, one of CHATS. fingerprint: sha256 of the folder's files, the text around the question,
    the question, the answers and the version of the arithmetic.
    """

    def __init__(self, name: str, folder: Path, kind: str, device: str) -> None:
        self.name, self._chat, self._alone = name, CHATS[kind], kind in ALONE
        self._processor: Any = transformers.AutoProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        self._tokenizer: Any = self._processor.tokenizer
        self._tokenizer.padding_side = "left"  # the last place of every row is the one before the answer
        self._model: Any = load_whole(transformers.AutoModelForImageTextToText, folder, dtype="auto")
        self._model.eval().requires_grad_(False).to(device)
        self._device = device
        self._begins = self._beginning()
        spelled = [self._tokenizer.encode(each, add_special_tokens=False) for each in ANSWERS]
        self._yes = sorted({tokens[0] for tokens in spelled if len(tokens) == 1})
        if not self._yes:
            raise ValueError("its tokenizer has no single token for yes")
        inside = [digest_of(folder / QFORMER)] if (folder / QFORMER).is_dir() else []
        method = json.dumps([digest_of(folder), *inside, self._chat, QUESTION, ANSWERS, VERSION])
        self.fingerprint = hashlib.sha256(method.encode()).hexdigest()

    def probabilities(self, pictures: Sequence[Picture], texts: Sequence[str]) -> Features:
        """Of "yes" for each picture, PIL or uint8 (H, W, 3), and its own text: float32 (N,), in [0, 1].

        Raises ValueError for a text that holds one of the model's special tokens, which would break its prompt.
        """
        for text in texts:
            if special := [each for each in self._tokenizer.all_special_tokens if each in text]:
                raise ValueError(f"the text {text[:200]!r} holds {special[0]!r}, a special token of {self.name}")
        answers = np.empty(len(pictures), np.float32)
        for text in dict.fromkeys(texts):
            # Pictures of one text are asked together, so that no text is padded: some models count padding as places.
            places = [place for place, each in enumerate(texts) if each == text]
            for start in range(0, len(places), BATCH):
                some = places[start : start + BATCH]
                answers[some] = self._answered([pictures[place] for place in some], text)
        return answers

    @torch.no_grad()
    def _answered(self, pictures: Sequence[Picture], text: str) -> Features:
        opened = [each if isinstance(each, Image.Image) else Image.fromarray(each) for each in pictures]
        drawn = [each.convert("RGB") for each in opened]
        prepared = self._processor(
            images=drawn if self._alone else [[each] for each in drawn],
            text=[self._chat.format(QUESTION.format(text))] * len(drawn),
            padding=True,
            return_tensors="pt",
        ).to(self._device, self._model.dtype)
        prepared.pop("labels", None)  # PaliGemma's processor has them for training
        if self._begins is None:
            prepared["logits_to_keep"] = 1
        else:
            prepared["decoder_input_ids"] = torch.full((len(drawn), 1), self._begins, device=self._device)
        last = self._model(**prepared).logits[:, -1].float()
        yes: Features = last.softmax(dim=-1)[:, self._yes].sum(dim=1).cpu().numpy()
        return yes

    def _beginning(self) -> int | None:
        """The token that the answer of an encoder with a decoder (T5) begins with; None for a decoder, which continues the text."""
        told = self._model.config.get_text_config()
        return int(told.decoder_start_token_id) if told.is_encoder_decoder else None


def load_vision_language(name: str, device: str = "cpu") -> VisionLanguageJudge:
    """name: "vqa:FOLDER". Raises FileNotFoundError for an incomplete folder, and ConfigurationError or ValueError for a model
    that is not in the list above, weights that do not fit it, or a configuration that would run code.
    """
    folder = Path(name.removeprefix(VQA))
    for wanted in (CONFIGURATION, WEIGHTS):
        if not any(folder.glob(wanted)):
            raise FileNotFoundError(f"judge {name!r}: {folder / wanted} does not exist")
    refuse_code(folder)
    refuse_code(folder / QFORMER)
    configuration = read_configuration(folder / CONFIGURATION)
    kind = configuration.get("model_type")
    if kind not in CHATS:
        raise ConfigurationError(
            f"{folder / CONFIGURATION}: model_type is {str(kind)[:100]!r}; models that answer questions are {', '.join(CHATS)}"
        )
    own = str(kind).replace("-", "_")
    for part, inside in configuration.items():
        of = inside.get("model_type") if isinstance(inside, dict) else None
        if not (of is None or of in INSIDE or str(of).startswith(own)):
            said = f"the model_type of its {part} is {str(of)[:100]!r}; a {kind} is made of {', '.join(INSIDE)}"
            raise ConfigurationError(f"{folder / CONFIGURATION}: {said}")
    refuse_large_pictures(folder, MOST_SIDE, pixels=str(kind).startswith("qwen"))
    try:
        return VisionLanguageJudge(name, folder, str(kind), device)
    except (
        SafetensorError,
        OSError,
        RuntimeError,
        TypeError,
        KeyError,
        ValueError,
        ImportError,
        AttributeError,
    ) as error:
        raise ValueError(f"judge {name!r} does not load: {error}") from error
