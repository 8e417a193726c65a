"""The architectures of jobs/bench/full_size.py are those that are published: counted without taking any memory."""

import pytest

from jobs.bench.full_size import architecture

# Parameters, as the published weights have them.
PUBLISHED = {
    "sd-1.5": {"text_encoder": 123_060_480, "unet": 859_520_964, "vae": 83_653_863},
    "sdxl": {
        "text_encoder": 123_060_480, "text_encoder_2": 694_659_840, "unet": 2_567_463_684, "vae": 83_653_863,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_part_is_of_the_published_size(name: str) -> None:
    """Catches memory and times reported for a model that nobody has."""
    parts = architecture(name).parts
    assert {part: sum(value.numel() for value in module.parameters()) for part, module in parts.items()} == PUBLISHED[
        name
    ]


def test_the_papers_model_has_words_of_1280_numbers() -> None:
    parts = architecture("ldm").parts
    assert parts["bert"].get_input_embeddings().embedding_dim == 1280  # type: ignore[operator]
    assert 850e6 < sum(value.numel() for value in parts["unet"].parameters()) < 900e6
