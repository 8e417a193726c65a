"""Whether a protocol's prompts fit into the model and the judge, before any of its pictures is drawn."""

import functools
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayTaskError

from eval.judges.judge import ImageScorer, RefusesLong, load_scorer
from eval.scores.drawn_pictures import loaded, parts_of_samples, undrawn
from eval.scores.score_run import Judgement
from pipeline.protocols.protocol import Protocol, ProtocolError, fill
from pipeline.records import Concept
from pipeline.sampling.pictures_of_a_word import refuse_long_protocol
from pipeline.store.parts import read_layout
from pipeline.store.run_folder import RunFolder, shard_of


def refuse_long_prompts(run: RunFolder, judgement: Judgement, names: Collection[str]) -> None:
    """Raises ProtocolError if a prompt is too long for the judge, or pictures are missing and it is too long for the model, with
    each of the named concepts' words. One that is too long only by its own vectors, or its class, is a failure of its own later.
    """
    if not names or judgement.drawing is None:
        return
    parts = read_layout(run)
    by_part: dict[int, list[str]] = defaultdict(list)
    for name in names:
        by_part[shard_of(name, parts_of_samples(parts, judgement.protocol))].append(name)
    task: Any = functools.partial(ray.remote, num_cpus=1, max_retries=3)
    find = task()(undrawn)
    lacking = ray.get([
        find.remote(run, number, some, parts, judgement.protocol, judgement.drawing.seed) for number, some in by_part.items()
    ])  # fmt: skip
    every, missing = (shortest((each for pair in lacking for each in pair[at]), judgement.protocol) for at in (0, 1))
    try:
        ray.get(task(num_gpus=int(judgement.device == "cuda"))(_refuse_long).remote(judgement, every, missing))
    except RayTaskError as error:
        if isinstance(error.cause, ProtocolError):
            raise error.cause from None
        raise


def shortest(concepts: Iterable[Concept], protocol: Protocol) -> list[Concept]:
    """For each set of prompts the concept with the shortest class. Concepts that the protocol has no prompts for are left out."""
    by_prompts: dict[object, Concept] = {}
    for concept in concepts:
        try:
            prompts = protocol.templates_of(concept)
        except ProtocolError:
            continue
        by_prompts[prompts] = min(by_prompts.get(prompts, concept), concept, key=lambda each: len(each.noun or ""))
    return list(by_prompts.values())


def refuse_long_texts(scorer: ImageScorer, protocol: Protocol, concepts: Sequence[Concept]) -> None:
    """Raises ProtocolError if the judge cannot read one of these concepts' prompts whole."""
    if not isinstance(scorer, RefusesLong):
        return
    said = {(protocol.templates_of(each), each.noun) for each in concepts}
    texts = {fill(template, "", noun) for (plain, edits), noun in said for template in (plain, *edits)}
    try:
        scorer.refuse_long(sorted(texts))
    except ValueError as error:
        raise ProtocolError(f"the protocol {protocol.label} does not suit the judge: {error}") from None


def _refuse_long(judgement: Judgement, every: Sequence[Concept], missing: Sequence[Concept]) -> None:
    """every: concepts whose pictures are scored. missing: those whose pictures have to be drawn first."""
    refuse_long_texts(load_scorer(judgement.clip, judgement.device), judgement.protocol, every)
    if missing and judgement.drawing is not None:
        backbone = loaded(judgement.drawing)
        words = [replace(each, vectors=1) for each in missing]
        refuse_long_protocol(backbone, words, judgement.protocol, tuple(backbone.encoders))
