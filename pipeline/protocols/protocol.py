"""The record of a protocol, and which of its prompts are a concept's."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pipeline.records import Concept

SUBJECT = "subject"  # the manifest's column that chooses a list of edit prompts
LISTED = 20


class ProtocolError(ValueError):
    """A protocol that cannot be used, or not for this concept: what is wrong, where, and what would be right."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """A set of prompts and the sampler's settings.

    plain: kind of concept -> the reconstruction prompt. edits: name of a list -> its edit prompts; the lists are named
    for kinds ("object", "style") or for subjects ("live"). In all of them "{}" is where the word stands, and "{class}"
    the manifest's coarse noun.
    plain_images, edit_images: pictures per prompt of the learned word; untrained_images: per prompt of the untrained word.
    subjects: coarse noun -> the list it takes. difficulty: edit prompt -> "background", "style" or "composition".
    digest: of the file, for a protocol that is not shipped; "" for one that is.
    seeds: whose the seeds are: each concept has its own, or those of a class share theirs, so that a picture without the learned
    word is the same for all of them and is drawn once.
    until_ci: pictures of a prompt are drawn only until its score is known to within this (eval/scores/stopping.py), the counts
    above being the most; 0 draws them all.
    pairs: kind of the second word -> prompts with two words, "{a}" of an object and "{b}" of that kind; pair_images: pictures
    of each (eval/pairs/).
    """

    name: str
    version: int
    plain: Mapping[str, str]
    edits: Mapping[str, tuple[str, ...]]
    plain_images: int
    edit_images: int
    untrained_images: int
    sampler: str
    steps: int
    guidance: float
    subjects: Mapping[str, str] = field(default_factory=dict)
    difficulty: Mapping[str, str] = field(default_factory=dict)
    digest: str = ""
    until_ci: float = 0.0
    pairs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    pair_images: int = 4
    seeds: Literal["concept", "class"] = "concept"

    @property
    def label(self) -> str:
        """Names all that a score depends on: what is scored under the same label may be compared."""
        return self.base_label + (f"-until-{self.until_ci:g}" if self.until_ci else "")

    @property
    def base_label(self) -> str:
        """Names all that a picture depends on: sequential stopping draws the first of the same ones."""
        return f"{self.name}-v{self.version}" + (f"-{self.digest[:8]}" if self.digest else "")

    @property
    def pictures(self) -> int:
        """How many are drawn of a concept, at most."""
        edits = max(map(len, self.edits.values()))
        return self.plain_images + edits * self.edit_images + (3 + edits) * self.untrained_images

    def templates_of(self, concept: Concept) -> tuple[str, tuple[str, ...]]:
        """(the plain prompt, the edit prompts) of a concept.

        The list is what the manifest's column `subject` says, else what belongs to the concept's class, else to its kind.
        Where lists are named for kinds alone, a column of that name is just one more to carry through.

        Raises ProtocolError when there is no such list, or a prompt needs the class and the manifest gives none.
        """
        # A negative word is drawn against in an object's prompts.
        kind = "object" if concept.kind == "negative" else concept.kind
        said = concept.carried.get(SUBJECT) if self.edits.keys() - {"object", "style"} else None
        wanted = said or self.subjects.get(concept.noun or "") or kind
        if wanted not in self.edits or kind not in self.plain:
            raise ProtocolError(
                f"{concept.name}: the protocol {self.label} has no prompts for {wanted!r}; give the manifest a column "
                f"{SUBJECT!r} with one of {', '.join(sorted(self.edits))}"
            )
        templates = self.plain[kind], self.edits[wanted]
        if not concept.noun and any("{class}" in template for template in (templates[0], *templates[1])):
            raise ProtocolError(
                f"{concept.name}: the prompts of {self.label} name what a concept is; give the manifest a column 'class' "
                "with its coarse noun, such as 'dog'"
            )
        return templates

    def refuse_unsuited(self, concepts: Iterable[Concept]) -> None:
        """Raises ProtocolError with a line for each of the concepts that the protocol has no prompts for."""
        wrong = []
        for concept in concepts:
            try:
                self.templates_of(concept)
            except ProtocolError as error:
                wrong.append(str(error))
        if wrong:
            more = [f"and {len(wrong) - LISTED} more"] if len(wrong) > LISTED else []
            raise ProtocolError("\n".join(wrong[:LISTED] + more))

    def templates_for(self, concepts: Iterable[Concept]) -> tuple[str, ...]:
        """All prompts of these concepts, each once. Raises ProtocolError."""
        kinds = (self.templates_of(concept) for concept in concepts)
        return tuple(sorted({template for plain, edits in set(kinds) for template in (plain, *edits)}))

    def difficulty_of(self, prompt: str) -> str | None:
        """The class of difficulty of a prompt with a word in it; None in a protocol that tells none apart."""
        for template, difficulty in self.difficulty.items():
            before, after = template.split("{}")
            if prompt.startswith(before) and prompt.endswith(after):
                return difficulty
        return None

    def as_dict(self) -> dict[str, Any]:
        """For run.json."""
        return asdict(self)

    @classmethod
    def of_dict(cls, content: Mapping[str, Any]) -> "Protocol":
        """The way back, JSON's lists made tuples again."""
        lists = {
            name: {kind: tuple(some) for kind, some in content.get(name, {}).items()} for name in ("edits", "pairs")
        }
        return cls(**{**content, **lists})


def fill(template: str, word: str, noun: str | None) -> str:
    """The prompt. In one pass: whatever word and noun hold, it is not read as a template again."""
    return re.sub(r"\{(class)?\}", lambda match: (noun or "") if match[1] else word, template)
