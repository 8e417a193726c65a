"""Which of a concept's repeats it is known by, in a run folder whose words were chosen.

    chosen/<concept>.safetensors   the chosen word, under the concept's own placeholder
    chosen.parquet                 a row for each concept; written last

A run that does not choose takes both away.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from pipeline.store.damaged import DamagedFileError
from pipeline.store.parquet.parquet_tables import TableError, rows_of
from pipeline.store.parts import write_table
from pipeline.store.run_folder import RunFolder
from pipeline.store.storage import StorageNotFoundError

TABLE, FOLDER = "chosen.parquet", "chosen"
CHOSEN = pa.schema([
    ("concept", pa.string()), ("word", pa.string()), ("fingerprint", pa.string()), ("of", pa.int64()),
    ("reconstruction", pa.float64()), ("editability", pa.float64()),
    ("reconstruction_first", pa.float64()), ("editability_first", pa.float64()),
])  # fmt: skip
STATED = ("concept", "word", "fingerprint", "of", "reconstruction", "reconstruction_first")  # of every row


@dataclass(frozen=True, slots=True)
class ChosenWord:
    """word, fingerprint: the repeat that the concept is known by. of: how many there were to choose from.

    The similarities are those of the pictures that it was chosen on, its own and the first word's; editability is None where the
    judge reads no texts.
    """

    concept: str
    word: str
    fingerprint: str
    of: int
    reconstruction: float
    editability: float | None
    reconstruction_first: float
    editability_first: float | None


def word_path(concept: str) -> str:
    return f"{FOLDER}/{concept}.safetensors"


def read_chosen(run: RunFolder) -> tuple[ChosenWord, ...]:
    """() for a folder without chosen words. Raises DamagedFileError."""
    try:
        return tuple(ChosenWord(**row) for row in rows_of(run.storage.read_bytes(TABLE), CHOSEN, STATED))
    except StorageNotFoundError:
        return ()
    except TableError as error:
        raise DamagedFileError(f"{TABLE} is damaged: {error}; delete it, and the next run chooses again") from None


def write_chosen(run: RunFolder, chosen: Sequence[ChosenWord], files: Mapping[str, bytes]) -> None:
    """files: concept -> its word file. Words of concepts that were chosen before and are not now are deleted."""
    for concept, data in files.items():
        run.storage.write_bytes(word_path(concept), data)
    for path in _word_files(run):
        if path not in {word_path(concept) for concept in files}:
            run.storage.delete(path)
    write_table(run, TABLE, pa.Table.from_pylist([asdict(each) for each in chosen], CHOSEN))


def forget_chosen(run: RunFolder) -> None:
    """The table first: without it no file counts."""
    for path in (TABLE, *_word_files(run)):
        run.storage.delete(path)


def _word_files(run: RunFolder) -> list[str]:
    """Without files that are none of ours."""
    return [f"{FOLDER}/{name}" for name in run.storage.names(FOLDER) if name.endswith(".safetensors")]


def with_chosen(rows: Iterable[Mapping[str, Any]], chosen: Iterable[ChosenWord]) -> list[dict[str, Any]]:
    """Rows of EMBEDDINGS, those of each concept's first word with the vectors of the word that was chosen.

    A choice counts as long as the word is the one that was chosen: a word that was learned again is not.
    """
    of_words: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    rows = list(rows)
    for row in rows:
        of_words.setdefault((row["concept"], row["fingerprint"]), []).append(row)
    now = {each.concept: of_words.get((each.word, each.fingerprint)) for each in chosen}
    known = []
    for row in rows:
        mine = next((one for one in now.get(row["concept"]) or () if one["text_encoder"] == row["text_encoder"]), row)
        known.append({**mine, **{name: row[name] for name in ("concept", "placeholder", "carried")}})
    return known
