"""Archives of words as run folders keep them, and the maps that are fitted to them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from eval.scores.confusion import FEATURES
from eval.starts.archive import ArchiveError, read_archive
from eval.starts.archive_fit import FEWEST, fit_archive
from pipeline.records import Concept, ImageSet, Kind, Word
from pipeline.store.parts import create_layout, part_path, write_table
from pipeline.store.run_folder import RunFolder
from pipeline.store.run_tables import embedding_rows
from pipeline.store.storage import Storage
from pipeline.training.start_file import decode_start_file, encode_start_file

IMAGES = ImageSet(np.zeros((1, 8, 8, 3), np.uint8), ("a",), ("d",))
FEATURE = 6
Make = Callable[..., RunFolder]


def feature(name: str) -> np.ndarray:
    return np.random.default_rng(list(name.encode())).normal(size=FEATURE).astype(np.float32)


def word_of(name: str, vectors: int, kind: Kind) -> dict[str, np.ndarray]:
    """A linear map of the feature, another one for each text encoder, vector and kind."""
    seen = feature(name)
    return {
        encoder: np.stack([
            np.random.default_rng((ord(encoder[-1]), number, len(kind))).normal(size=(width, FEATURE)) @ seen
            for number in range(vectors)
        ]).astype(np.float32)
        for encoder, width in (("clip_l", 4), ("clip_g", 5))
    }  # fmt: skip


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def written(
        folder: str = "run", objects: int = 24, styles: int = 0, vectors: int = 1, steps: int = 9, clip: str = "mini",
        digest: str = "c" * 64, scored: bool = True,
    ) -> RunFolder:  # fmt: skip
        run = RunFolder(Storage(str(tmp_path / folder)))
        some: list[Kind] = ["object"]
        others: list[Kind] = ["style"]
        kinds = objects * some + styles * others
        parts = create_layout(run, len(kinds))
        words, features = [], []
        for number, kind in enumerate(kinds):
            name = f"{kind}-{number}"
            learned = word_of(name, vectors, kind)
            word = Word(name, f"<{name}>", learned, learned, "", steps, "steps", 1e-3, 0.1, 1.0)
            words.append(embedding_rows(Concept(name, (), f"<{name}>", kind=kind, vectors=vectors), "f", word, IMAGES))
            features.append({
                "concept": name, "fingerprint": "f", "protocol": "quick-v1", "clip": clip, "clip_digest": digest,
                "training": feature(name), "samples": [],
            })  # fmt: skip
        write_table(run, part_path("embeddings", 0, parts["embeddings"]), pa.concat_tables(words))
        if scored:
            write_table(run, part_path("features", 0, parts["scores"]), pa.Table.from_pylist(features, FEATURES))
        return run

    return written


def test_a_word_that_was_never_learned_is_read_off_its_feature_in_every_encoder_and_vector(make: Make) -> None:
    """Catches text encoders or vectors mixed up, styles fitted with objects, and a file that says less than the fit."""
    runs = [make("one", objects=24, styles=14), make("two", objects=20, vectors=2)]
    fit = fit_archive(read_archive(runs, "mini"), "mini", "a" * 64, "mini")
    read = decode_start_file(encode_start_file(fit.start))
    for kind, vectors in (("object", 1), ("style", 1), ("object", 2)):
        found = read.vectors(feature("unseen")[None], kind, vectors)
        assert found is not None
        for name, expected in word_of("unseen", vectors, kind).items():  # type: ignore[arg-type]
            np.testing.assert_allclose(found[name], expected, atol=0.05)
    assert [(each.kind, each.vectors, each.concepts) for each in fit.maps] == [
        ("object", 1, 24), ("object", 2, 20), ("style", 1, 14),
    ]  # fmt: skip
    assert all(each.explained > 0.99 for each in fit.maps)
    assert (read.clip_digest, read.model_digest, read.encoders) == ("c" * 64, "a" * 64, ("clip_g", "clip_l"))
    assert len(fit.guessed) == 58


def test_too_few_styles_get_no_map_and_too_few_words_no_file(make: Make) -> None:
    fit = fit_archive(read_archive([make(styles=FEWEST - 1)], "mini"), "mini", "a" * 64, "mini")
    assert fit.left_out == {("style", 1): FEWEST - 1}
    assert fit.start.kinds == {"object"}
    with pytest.raises(
        ArchiveError, match=r"at least 10 concepts, and these runs have 3 objects of 1 vectors; give more runs"
    ):
        fit_archive(read_archive([make("few", objects=3)], "mini"), "mini", "a" * 64, "mini")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"steps": 0}, "for 24 no step was taken"),
        ({"scored": False}, "24 are not scored by it"),
        ({"clip": "other"}, "score the runs with jobs/evaluate.py, or name another --clip"),
    ],
)
def test_words_that_were_not_learned_or_have_no_feature_are_no_archive(
    make: Make, changed: dict[str, object], said: str
) -> None:
    """Catches a map that is fitted to its own guesses."""
    with pytest.raises(ArchiveError, match=said):
        read_archive([make(**changed)], "mini")


def test_runs_that_were_judged_by_different_clips_of_one_name_are_refused(make: Make) -> None:
    with pytest.raises(ArchiveError, match="2 CLIPs named 'mini' with different weights"):
        read_archive([make("one"), make("two", digest="d" * 64)], "mini")
