"""The options that change a word: each reaches its setting, is explained in --help, and is refused with what could be."""

import dataclasses
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from jobs import generate, import_words, invert_all
from jobs.api import NotStartedError
from jobs.cli.training_arguments import settings_of
from jobs.invert_all import parser
from pipeline.inputs.manifest import MAX_VECTORS, RowDefaults, read_manifest
from pipeline.settings import InversionSettings
from pipeline.training.recipes import PUBLISHED, recipe_of

GIVEN: dict[str, tuple[list[str], Any]] = {
    "steps": (["--steps", "7"], 7),
    "batch_size": (["--batch-size", "3"], 3),
    "learning_rate": (["--learning-rate", "0.1"], 0.1),
    "weight_decay": (["--weight-decay", "0.2"], 0.2),
    "resolution": (["--resolution", "128"], 128),
    "crop": (["--crop", "squash"], "squash"),
    "flip": (["--no-flip"], False),
    "early_stop": (["--early-stop", "dvar"], "dvar"),
    "seed": (["--seed", "5"], 5),
    "schedule": (["--schedule", "linear"], "linear"),
    "warmup_steps": (["--warmup-steps", "2"], 2),
    "start": (["--start", "statistics"], "statistics"),
    "start_clip": (["--start", "nearest", "--clip", "mini"], "mini"),
    "templates": (["--templates", "{templates}"], ("a drawing of {}", "my {} at night")),
    "captions": (["--captions"], True),
    "masks": (["--masks", "sidecar"], "sidecar"),
    "background": (["--masks", "alpha", "--mask-background", "0.3"], 0.3),
    "progressive": (["--progressive", "0.4"], 0.4),
    "per_image": (["--per-image-words", "0.25"], 0.25),
    "regularisation": (["--regularisation", "0.5"], 0.5),
    "min_snr": (["--min-snr", "5"], 5.0),
    "norm": (["--norm", "vocabulary"], "vocabulary"),
    "norm_limit": (["--norm-limit", "2"], 2.0),
    "flow_times": (["--flow-times", "uniform"], "uniform"),
    "encoders": (["--encoders", "t5,clip_l"], ("t5", "clip_l")),
    "word_place": (["--word-place", "output"], "output"),
    "timesteps": (["--timesteps", "uniform"], "uniform"),
    "cross_initialised": (["--cross-initialisation"], True),
    "optimiser": (["--optimiser", "directional"], "directional"),
    "concentration": (["--optimiser", "directional", "--concentration", "0.01"], 0.01),
}
WITHOUT_OPTION = {"minimum_images", "start_encoder"}


def settings(*arguments: str) -> InversionSettings:
    return settings_of(parser().parse_args(["manifest.csv", *arguments]), {})


def test_every_setting_has_an_option() -> None:
    assert set(GIVEN) | WITHOUT_OPTION == {field.name for field in dataclasses.fields(InversionSettings)}


def test_without_options_a_model_has_its_own_recipe_and_a_large_one_the_published() -> None:
    """Catches the shipped model's few steps given to a Stable Diffusion, and an option that loses the rest of the recipe."""
    assert settings() == recipe_of("mini") != PUBLISHED
    assert settings("--model", "somebody/stable-diffusion") == PUBLISHED
    assert (PUBLISHED.steps, PUBLISHED.batch_size, PUBLISHED.learning_rate, PUBLISHED.start) == (3000, 4, 2e-3, "words")
    assert settings("--seed", "5") == dataclasses.replace(recipe_of("mini"), seed=5)


@pytest.mark.parametrize("field", GIVEN)
def test_an_option_reaches_its_setting(field: str, tmp_path: Path) -> None:
    """Catches an option that is taken and dropped."""
    file = tmp_path / "templates.txt"
    file.write_text("\ufeffa drawing of {}\n\n  my {} at night \n", encoding="utf-8")
    arguments, value = GIVEN[field]
    found = getattr(settings(*(each.format(templates=file) for each in arguments)), field)
    assert found == value
    assert found != getattr(recipe_of("mini"), field)


def test_every_option_is_explained() -> None:
    actions = {option: action.help for action in parser()._actions for option in action.option_strings}
    for arguments, _ in GIVEN.values():
        assert all(actions[each] for each in arguments if each.startswith("--"))
    parser().format_help()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds no sentence"),
        (b"a photo", "one {} where the word stands"),
        (b"\xff{}", "line 1: the byte 0xFF is not UTF-8"),
        ("a \u2028{}".encode(), "holds a control character or a line separator"),
        (None, "no such"),
    ],
    ids=["empty", "no place for the word", "no text", "line separator", "no file"],
)
def test_a_file_of_templates_that_cannot_serve_is_refused(content: bytes | None, said: str, tmp_path: Path) -> None:
    file = tmp_path / "templates.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(Exception) as refused:  # noqa: PT011 - one of two kinds, both of which the job tells
        settings("--templates", str(file))
    assert said in str(refused.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_templates_and_prompts_are_read_in_every_encoding_that_says_itself(encoding: str, tmp_path: Path) -> None:
    """Catches the byte-order mark of a file from Windows, drawn and learned as a part of its first sentence."""
    file, lines = tmp_path / "lines.txt", ("a photo of {}", "a\u00a0{} of \u732b")
    mark = "\ufeff" if encoding == "utf-16-le" else ""
    file.write_bytes((mark + "\r\n".join(lines) + "\r\n").encode(encoding))
    assert settings("--templates", str(file)).templates == lines
    asked = generate.request_of(generate.parser().parse_args(["run", "--prompts", str(file)]))
    assert asked.prompts == lines
    file.write_bytes("a photo\ncaf\xe9".encode("latin-1"))
    with pytest.raises(NotStartedError, match=r"--prompts .*lines.txt: line 2: the byte 0xE9 is not UTF-8 \(it may be"):
        generate.request_of(generate.parser().parse_args(["run", "--prompts", str(file)]))


@pytest.mark.parametrize("job", [invert_all, import_words])
def test_a_column_of_another_name_reaches_the_request(job: ModuleType) -> None:
    """Catches --column that is taken and dropped."""
    options = ["--column", "concept=SKU", "--column", "images = photo = url"]
    asked = invert_all.request_of(job.parser().parse_args(["manifest.csv", *options]))
    assert asked.columns == {"concept": "SKU", "images": "photo = url"}
    for wrong, said in (
        ("SKU", "takes OURS=THEIRS"),
        ("concept=", "takes OURS=THEIRS"),
        ("concept=ID", "is already SKU"),
    ):
        with pytest.raises(ValueError, match=said):
            invert_all.request_of(job.parser().parse_args(["manifest.csv", *options, "--column", wrong]))


def test_rows_that_say_nothing_have_the_defaults_that_were_given(tmp_path: Path) -> None:
    """Catches --vectors and --initializer that override what a row says, or that nothing looks at."""
    path = tmp_path / "manifest.csv"
    path.write_text("concept,images,initializer,class,vectors\na,a/,,,\nb,b/,owl,,2\nc,c/,,bird,\n")
    rows = read_manifest(str(path), defaults=RowDefaults(3, "a toy")).concepts
    assert [(row.vectors, row.initializer) for row in rows] == [(3, "a toy"), (2, "owl"), (3, "bird")]
    assert next((row.vectors, row.initializer) for row in read_manifest(str(path)).concepts) == (1, None)


@pytest.mark.parametrize(
    ("vectors", "initializer", "said"),
    [(0, None, "vectors is 0"), (MAX_VECTORS + 1, None, "vectors is 65"), (1, " ", "initializer is ' '")],
)
def test_defaults_that_no_row_could_have_are_refused(vectors: int, initializer: str | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        RowDefaults(vectors, initializer)
