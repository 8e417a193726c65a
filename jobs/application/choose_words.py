"""Chooses the word that a concept is known by among its repeats, and writes it into the run folder: `--choose`."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.application.phases import phase
from jobs.application.public_files import word_file
from jobs.application.requests import Listener
from pipeline.models.families import family_of
from pipeline.store.catalogue.chosen import ChosenWord, with_chosen, write_chosen
from pipeline.store.parts import read_layout, read_parts
from pipeline.store.run_folder import RunFolder
from pipeline.store.run_tables import EMBEDDINGS

if TYPE_CHECKING:
    from eval.scores.score_run import Judgement
    from eval.scores.summary import ConceptSummary


def choose_words(run: RunFolder, judgement: "Judgement", events: Listener) -> tuple[ChosenWord, ...]:
    """judgement: the run's own. Draws and scores what the choice is made on, if it is not there yet."""
    from eval.nightly.choosing import choose, choosing_protocol
    from eval.scores.score_run import score_run
    from jobs.application.report_run import summarise_run

    judgement = replace(judgement, protocol=choosing_protocol(judgement.protocol), metrics=(), keep_features=False)
    with phase(events, "choosing words") as counts:
        steps = counts.of("drew", "words to choose from"), counts.of("scored", "words to choose from")
        under = score_run(run, judgement, None, *steps).under
        chosen = choose(summarise_run(run, under).concepts)
        rows = read_parts(run, "embeddings", read_layout(run)["embeddings"], EMBEDDINGS).to_pylist()
        family = family_of(run.read_run("model_family")["model_family"])
        of_concepts: dict[str, list[dict[str, Any]]] = {each.concept: [] for each in chosen}
        for row in with_chosen(rows, chosen):
            if row["concept"] in of_concepts:
                of_concepts[row["concept"]].append(row)
        files = {concept: data for concept, some in of_concepts.items() if (data := word_file(some, family))}
        write_chosen(run, chosen, files)
    return chosen


def said_of_chosen(words: Sequence["ConceptSummary"], chosen: Sequence[ChosenWord]) -> str:
    """words: as the report scores them, on other pictures than those of the choice."""
    from eval.nightly.choosing import known_by

    others = sum(each.word != each.concept for each in chosen)
    first, known = known_by(words, ()), known_by(words, chosen)
    figures = [
        f"{name} {np.nanmean([word.figure(name) for word in first]):.3f} -> {np.nanmean([word.figure(name) for word in known]):.3f}"
        for name in ("reconstruction", "editability")
    ]
    return (
        f"chosen    {others} of {len(chosen)} concepts are known by another word than their first; on the report's pictures "
        f"{', '.join(figures)}"
    )
