"""Several words of each concept, each trained from draws of its own: `--repeats`.

A repeat is a concept like any other, named owl, owl.r2, owl.r3, ...; every draw depends on the name. The carried columns
`repeat_of` and `repeat` tell which belong together. The first is what it is without repeats: name, fingerprint, files.
"""

from dataclasses import replace

from pipeline.inputs.manifest import MAX_NAME, Manifest
from pipeline.records import Concept

REPEAT_OF, REPEAT = "repeat_of", "repeat"


def with_repeats(manifest: Manifest, repeats: int) -> Manifest:
    """Raises ValueError for a column or a name of the manifest that the repeats would take."""
    if repeats == 1:
        return manifest
    if taken := sorted({REPEAT_OF, REPEAT} & manifest.types.keys()):
        raise ValueError(
            f"--repeats {repeats}: the manifest has a column {taken[0]!r}, which repeats are told by; rename it"
        )
    concepts = tuple(_repeat(concept, number) for concept in manifest.concepts for number in range(1, repeats + 1))
    own = {text.lower() for concept in manifest.concepts for text in (concept.name, concept.placeholder)}
    for concept in concepts:
        if concept.carried[REPEAT] != "1" and {concept.name.lower(), concept.placeholder.lower()} & own:
            raise ValueError(f"--repeats {repeats}: {concept.name} is a row of its own in the manifest; rename it")
        if len(concept.name) > MAX_NAME:
            raise ValueError(
                f"--repeats {repeats}: {concept.name} has more than {MAX_NAME} characters; shorten the concept's name"
            )
    return replace(manifest, concepts=concepts, types={**manifest.types, REPEAT_OF: "text", REPEAT: "integer"})


def _repeat(concept: Concept, number: int) -> Concept:
    carried = {**concept.carried, REPEAT_OF: concept.name, REPEAT: str(number)}
    if number == 1:
        return replace(concept, carried=carried)
    body, bracket = (concept.placeholder[:-1], ">") if concept.placeholder.endswith(">") else (concept.placeholder, "")
    placeholder = f"{body}.r{number}{bracket}"
    return replace(concept, name=f"{concept.name}.r{number}", placeholder=placeholder, carried=carried)
