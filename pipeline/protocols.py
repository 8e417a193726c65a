"""Which pictures are drawn of a word, and how: a protocol is pinned, versioned and named beside every score it made."""

from dataclasses import dataclass

from pipeline.records import Kind


@dataclass(frozen=True, slots=True)
class Protocol:
    """A set of prompts and the sampler's settings.

    plain, edits: prompts with "{}" where the word stands, per kind of concept; `plain` is the reconstruction prompt.
    plain_images, edit_images: pictures per prompt of the learned word; untrained_images: per prompt of the untrained word.
    """

    name: str
    version: int
    plain: dict[Kind, str]
    edits: dict[Kind, tuple[str, ...]]
    plain_images: int
    edit_images: int
    untrained_images: int
    sampler: str
    steps: int
    guidance: float

    @property
    def label(self) -> str:
        return f"{self.name}-v{self.version}"


QUICK = Protocol(
    name="quick",
    version=1,
    plain={"object": "a photo of {}", "style": "a painting in the style of {}"},
    edits={
        "object": (
            "a photo of {} on the grass",
            "a photo of {} at night",
            "a photo of {} on a blue background",
            "a pencil sketch of {}",
        ),
        "style": (
            "a painting of a cat in the style of {}",
            "a painting of a pizza in the style of {}",
            "a painting of a car in the style of {}",
            "a painting of a tree in the style of {}",
        ),
    },
    plain_images=8,
    edit_images=4,
    untrained_images=4,
    sampler="dpm++",
    steps=20,
    guidance=5.0,
)

PROTOCOLS = {QUICK.name: QUICK}
