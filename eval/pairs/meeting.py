"""Chooses which two concepts are drawn together: from the manifest's column `partner`, else from the run's seed."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.protocols import Protocol
from pipeline.randomness import derive_seed
from pipeline.records import Concept, Failure

PARTNER = "partner"  # the manifest's column


@dataclass(frozen=True, slots=True)
class Meeting:
    """A prompt with two words: `{a}` is the object's, `{b}` another object's or a style's. a, b: names of concepts."""

    a: str
    b: str
    template: str


def meetings_of(
    concepts: Mapping[str, Concept], protocol: Protocol, seed: int
) -> tuple[list[Meeting], tuple[Failure, ...]]:
    """Every object with one partner of each kind that the protocol has pairs for, at each of its prompts.

    concepts: those of the run that have a word, by name. Without the column, concepts stand in a circle, ordered by random numbers
    from (seed, concept), and each one's partner is the next. So a new concept changes one partner, not all.
    Failures: concepts whose column names a partner without a word, or the concept itself.
    """
    meetings, failures = [], []
    for kind, templates in protocol.pairs.items():
        circle = sorted(
            (_number(name, protocol, seed), name) for name, concept in concepts.items() if concept.kind == kind
        )
        for name, concept in sorted(concepts.items()):
            if concept.kind != "object":
                continue
            said = concepts.get(concept.carried.get(PARTNER, ""))
            if said is not None and said.kind == kind and said.name != name:
                partner: str | None = said.name
            else:
                partner = _next(circle, (_number(name, protocol, seed), name))
            if partner is not None:
                meetings += [Meeting(name, partner, template) for template in templates]
    for name, concept in sorted(concepts.items()):
        wanted = concept.carried.get(PARTNER, "")
        if protocol.pairs and concept.kind == "object" and wanted and (wanted == name or wanted not in concepts):
            what = "itself" if wanted == name else "which has no word in this run"
            failures.append(Failure(name, "scoring", f"its partner is {wanted!r}, {what}; it was drawn beside another"))
    return meetings, tuple(failures)


def _number(name: str, protocol: Protocol, seed: int) -> int:
    return derive_seed(seed, name, f"{protocol.base_label} pairs")


def _next(circle: Sequence[tuple[int, str]], own: tuple[int, str]) -> str | None:
    """The next concept in the circle after `own`, which need not be in it itself; None if there is no other."""
    following = circle[bisect_right(circle, own) % len(circle)] if circle else own
    return None if following == own else following[1]
