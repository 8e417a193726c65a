"""Learns the same concepts from several starts, and scores their words on the way."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch

from eval.judges.clip import load_clip
from eval.judges.judge import ClipScorer, ImageScorer
from eval.scores.metrics import image_similarity, training_ceiling
from eval.starts.archive import ArchivedWord
from eval.starts.gain import FITTED, INITIALIZER, Gain, Looked, gain_of
from pipeline.inputs.picture_file import decode_drawn
from pipeline.models.base import Backbone
from pipeline.models.load import load_backbone
from pipeline.protocols import QUICK, Protocol
from pipeline.records import Concept
from pipeline.sampling.picture_pool import Wanted
from pipeline.sampling.pictures_of_a_word import pixels_of, wanted_of
from pipeline.sampling.prompting import Request, requests_for
from pipeline.settings import InversionSettings, ModelSettings
from pipeline.store.parts import part_path, read_layout, read_table
from pipeline.store.run_folder import RunFolder, shard_of
from pipeline.training.early_stopping import is_look
from pipeline.training.inversion import SideInformation, train_step
from pipeline.training.slot import Slot, new_slot

PLAIN = replace(QUICK, name="starts", plain_images=4, edit_images=0, untrained_images=0, steps=12)
MOST_STEPS = 192  # that a word is followed from its initializer

Vectors = Mapping[str, np.ndarray]  # text encoder -> float32 (V, D)


@dataclass(frozen=True, slots=True)
class Subject:
    """pixels: uint8 (N, R, R, 3), the concept's pictures. starts: name of a start -> first vectors."""

    concept: Concept
    pixels: np.ndarray
    starts: Mapping[str, Vectors]


def follow(
    backbone: Backbone,
    subjects: Sequence[Subject],
    settings: InversionSettings,
    looks: Mapping[str, Sequence[int]],
    judge: ImageScorer,
    protocol: Protocol = PLAIN,
    texts: ClipScorer | None = None,
    together: int = 4,
) -> list[Looked]:
    """looks: name of a start -> steps after which its words are looked at; it is trained up to the last of them.

    judge, texts: score likeness, and text similarity of the protocol's edits. together: concepts in one batch.
    """
    torch.set_num_threads(1)
    settings = replace(settings, start="fitted", start_encoder="", start_clip="", early_stop="off")
    looked = []
    for first in range(0, len(subjects), together):
        some = subjects[first : first + together]
        training = [judge.encode_images(list(each.pixels)) for each in some]
        for start, steps in looks.items():
            slots = [
                new_slot(each.concept, each.pixels, backbone, settings, SideInformation(pictured=each.starts[start]))
                for each in some
            ]
            for step in range(max(steps) + 1):
                if step in steps:
                    seen = _look(backbone, slots, protocol, judge, texts)
                    for slot, (features, text), own in zip(slots, seen, training, strict=True):
                        likeness = float(image_similarity(features, own).mean())
                        looked.append(Looked(start, slot.concept.name, step, likeness, text, features))
                if step < max(steps):
                    train_step(backbone, slots)
    return looked


def _look(
    backbone: Backbone, slots: Sequence[Slot], protocol: Protocol, judge: ImageScorer, texts: ClipScorer | None
) -> list[tuple[np.ndarray, float]]:
    """Of each word: features of its plain pictures, mean text similarity of its edits. All words are drawn together."""
    wanted: list[Wanted] = []
    asked: list[list[Request]] = []
    for slot in slots:
        requests = [each for each in requests_for(slot.concept, protocol, 0) if each.trained]
        word = {name: vectors.detach().cpu().numpy().copy() for name, vectors in slot.words.items()}
        wanted += wanted_of(backbone, slot.concept, word, requests)
        asked.append(requests)
    drawn = iter(pixels_of(backbone, wanted, protocol))
    seen = []
    for requests in asked:
        pictures = [(each, next(drawn)) for each in requests]
        plain = [picture for each, picture in pictures if each.kind == "reconstruction"]
        edits = [(picture, each.stated) for each, picture in pictures if each.kind == "edit"]
        seen.append((judge.encode_images(plain), _obedience(texts, edits)))
    return seen


def _obedience(texts: ClipScorer | None, edits: Sequence[tuple[np.ndarray, str]]) -> float:
    """Mean text similarity of pictures to what they should show; nan without a judge or pictures."""
    if texts is None or not edits:
        return math.nan
    drawn, stated = texts.encode_images([each for each, _ in edits]), texts.encode_texts([each for _, each in edits])
    return float((drawn * stated).sum(1).mean())


def measure_gain(
    runs: Sequence[RunFolder],
    guessed: Sequence[tuple[ArchivedWord, Vectors]],
    model: str,
    digest: str,
    clip: str,
    device: str,
    options: Mapping[str, Any],
) -> Gain:
    """Learns these archived words again from their initializers, by the first run's settings and at most MOST_STEPS steps.

    Raises ValueError for a run whose pictures are gone.
    """
    made = runs[0].read_json("run.json")
    settings = InversionSettings(**{**made["settings"], "encoders": tuple(made["settings"].get("encoders", ())),
                                    "templates": tuple(made["settings"].get("templates", ()))})  # fmt: skip
    settings = replace(
        settings, steps=max(1, min(settings.steps, MOST_STEPS)), captions=False, masks="off", background=0.0
    )
    backbone = load_backbone(model, device, ModelSettings(**made["model_settings"]), options, digest)
    subjects = []
    for word, vectors in guessed:
        concept = Concept(
            word.concept,
            (),
            word.placeholder,
            initializer=word.initializer or None,
            kind=word.kind,
            vectors=word.key[1],
        )
        plain = backbone.initial_vectors(concept.initializer, concept.vectors, tuple(vectors))
        starts = {FITTED: vectors, INITIALIZER: plain}
        subjects.append(Subject(concept, _pictures(runs[word.run], word), starts))
    judge = load_clip(clip, device)
    looks = [step for step in range(settings.steps + 1) if step in (0, settings.steps) or is_look(step, "settled", 4)]
    looked = follow(backbone, subjects, settings, {FITTED: [0], INITIALIZER: looks}, judge)
    ceilings = [training_ceiling(judge.encode_images(list(each.pixels))) for each in subjects]
    return gain_of(looked, float(np.nanmean(ceilings)) if not np.isnan(ceilings).all() else math.nan)


def _pictures(run: RunFolder, word: ArchivedWord) -> np.ndarray:
    """The concept's pictures as the model saw them, uint8 (N, R, R, 3)."""
    parts = read_layout(run)["samples"]
    table = read_table(run, part_path("samples", shard_of(word.concept, parts), parts))
    if table is not None:
        kept = pc.and_(pc.equal(table["concept"], word.concept), pc.equal(table["fingerprint"], word.fingerprint))
        rows = table.filter(pc.and_(kept, pc.equal(table["kind"], "training"))).to_pylist()
        if rows:
            return np.stack([np.array(decode_drawn(row["image"]["bytes"])) for row in rows])
    raise ValueError(f"the run has no pictures of {word.concept} to measure with; --measure 0 does without them")
