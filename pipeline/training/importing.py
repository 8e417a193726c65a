"""Imports a word that another trainer learned, so that it is drawn and scored like ours."""

import time
from dataclasses import replace

import torch

from pipeline.models.base import Backbone
from pipeline.records import Concept, ImageSet, Word
from pipeline.settings import InversionSettings
from pipeline.store.locations import without_credentials
from pipeline.store.model_spec import stated_in
from pipeline.store.word_files import WordFileError, decode_word, is_negative, stated_model, suited
from pipeline.training.inversion import InversionError, validate
from pipeline.training.slot import SideInformation, new_slot


def imported_word(
    concept: Concept, data: bytes, images: ImageSet, backbone: Backbone, settings: InversionSettings
) -> Word:
    """The word in a file's bytes, under the concept's placeholder whatever the file calls it.

    It has as many vectors as the file and what that says of the word, no steps and no learning rate. Its loss is that of our
    validation batch. `initial` is the start that our own training would have had.
    Raises InversionError for bytes that are no word, or a word for another model, and PromptError.
    """
    began = time.monotonic()
    try:
        vectors = suited(decode_word(data)[1], backbone.word_widths, backbone.word_keys)
    except WordFileError as error:
        raise InversionError(f"{without_credentials(str(concept.word_file))}: {error}{stated_model(data)}") from error
    if is_negative(data) and concept.kind != "negative":
        raise InversionError(
            f"{without_credentials(str(concept.word_file))}: its metadata says that it is a word for the negative prompt; give the "
            "concept the kind 'negative' in the manifest"
        )
    count = len(next(iter(vectors.values())))
    plain = replace(settings, progressive=0.0, start="words", start_clip="", start_encoder="")
    side = SideInformation(images.captions, images.masks)
    slot = new_slot(replace(concept, vectors=count), images.pixels, backbone, plain, side, tuple(vectors))
    with torch.no_grad():
        for name, parameter in slot.words.items():
            parameter[:count] = torch.from_numpy(vectors[name]).to(parameter.device)
    validate(backbone, [slot])
    return Word(
        concept=concept.name,
        placeholder=concept.placeholder,
        vectors=vectors,
        initial=slot.initial,
        initializer=concept.initializer or "",
        steps=0,
        stopped_by="imported",
        learning_rate=0.0,
        loss=slot.losses[-1],
        seconds=time.monotonic() - began,
        stated=stated_in(data),
    )
