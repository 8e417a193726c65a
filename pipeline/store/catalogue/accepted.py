"""Which word of a concept is public, in a run folder whose words pass a gate first.

    words/<concept>.safetensors            the accepted word
    candidates/<concept>.safetensors       a word that was learned since and is not accepted, or not yet
    _previous/<concept>@<short fingerprint>.safetensors   words that were accepted before
    gate/words.parquet                     a row for each of these, with the scores that it was judged by

A folder is gated from the first run that asks for it; the table, empty at first, says so. Files are copied before the table is
written, and the table before anything is deleted: a driver that is killed in between does the same again.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import pyarrow as pa

from pipeline.store.catalogue.chosen import read_chosen, with_chosen
from pipeline.store.catalogue.listed import listed, read_lists
from pipeline.store.damaged import DamagedFileError, say_damaged
from pipeline.store.lease import lease
from pipeline.store.parquet.parquet_tables import TableError, rows_of
from pipeline.store.parts import read_layout, read_parts, write_table
from pipeline.store.run_folder import RunFolder, short
from pipeline.store.run_tables import EMBEDDINGS, KEY
from pipeline.store.storage import StorageNotFoundError

TABLE, CANDIDATES, PREVIOUS = "gate/words.parquet", "candidates", "_previous"
State = Literal["accepted", "candidate", "previous"]
TAKEN_BACK = "taken back"  # the reason of a previous word that a person rolled back from: no roll-back returns to it
JUDGED = pa.schema([
    *KEY, ("state", pa.string()), ("since", pa.string()), ("reconstruction", pa.float64()),
    ("reconstruction_low", pa.float64()), ("reconstruction_high", pa.float64()), ("editability", pa.float64()),
    ("scored_under", pa.string()), ("reason", pa.string()),
])  # fmt: skip
LEASE = "gate"  # held by whoever changes the table
STATED = ("concept", "fingerprint", "state", "since")  # of every row


@dataclass(frozen=True, slots=True)
class JudgedWord:
    """A word and what the gate said of it.

    since: when it was judged, UTC, ISO 8601. reconstruction with its 95 % interval, and editability: its scores; None without.
    scored_under: digest of the conditions of its scores. reason: why it is a candidate; of a previous word TAKEN_BACK or "".
    """

    concept: str
    fingerprint: str
    state: State
    since: str
    reconstruction: float | None = None
    reconstruction_low: float | None = None
    reconstruction_high: float | None = None
    editability: float | None = None
    scored_under: str = ""
    reason: str = ""


def is_gated(run: RunFolder) -> bool:
    return run.storage.exists(TABLE)


def read_judged(run: RunFolder) -> list[JudgedWord]:
    """() for a folder without a gate. Raises DamagedFileError."""
    try:
        rows = rows_of(run.storage.read_bytes(TABLE), JUDGED, STATED)
        if odd := {row["state"] for row in rows}.difference(get_args(State)):
            raise TableError(f"the state {min(odd)[:100]!r}")
        return [JudgedWord(**row) for row in rows]
    except StorageNotFoundError:
        return []
    except TableError as error:
        raise DamagedFileError(
            f"{TABLE} is damaged: {error}; delete it, and the next gated run takes the words in words/ as accepted"
        ) from None


def write_judged(run: RunFolder, words: Iterable[JudgedWord]) -> None:
    rows = sorted((asdict(word) for word in words), key=lambda row: (row["concept"], row["since"]))
    write_table(run, TABLE, pa.Table.from_pylist(rows, JUDGED))


def accepted_of(words: Iterable[JudgedWord]) -> dict[str, JudgedWord]:
    """Concept -> its public word."""
    return {word.concept: word for word in words if word.state == "accepted"}


def accepted_among(run: RunFolder, done: Mapping[str, str]) -> dict[str, str]:
    """Those of `done` (concept -> fingerprint) that are the accepted words, and may be restored from the tables, which hold the
    newest words.
    """
    accepted = accepted_of(read_judged(run))
    return {
        name: fingerprint
        for name, fingerprint in done.items()
        if name in accepted and accepted[name].fingerprint == fingerprint
    }


def waiting(run: RunFolder) -> set[str]:
    """The concepts that have a candidate."""
    return {name.removesuffix(".safetensors") for name in run.storage.names(CANDIDATES)}


def accept(
    run: RunFolder,
    judged: Sequence[JudgedWord],
    accepting: Sequence[JudgedWord],
    keep: int,
    step: Callable[[int, int], None] = lambda *_: None,
) -> list[JudgedWord]:
    """Makes these candidates the public words of their concepts. Returns the new table, which has been written.

    run: of the lease that the caller holds. keep: how many words that were accepted before stay, for each concept. step: called
    with the number of words that are in their public place, and of all.
    """
    names, before = {word.concept for word in accepting}, accepted_of(judged)
    for number, word in enumerate(accepting, 1):
        if (old := before.get(word.concept)) and old.fingerprint != word.fingerprint:
            _copy(run, run.word_path(word.concept), _previous(old), anew=False)
        _copy(run, run.candidate_path(word.concept), run.word_path(word.concept))
        step(number, len(accepting))
    rest = [
        replace(word, state="previous") if word.state == "accepted" and word.concept in names else word
        for word in judged
        if not (word.concept in names and word.state == "candidate")
        and (word.concept, word.fingerprint) not in {(each.concept, each.fingerprint) for each in accepting}
    ]
    made = [*rest, *(replace(word, state="accepted", reason="") for word in accepting)]
    made, dropped = _newest(made, keep)
    write_judged(run, made)
    for word in accepting:
        run.storage.delete(run.candidate_path(word.concept))
    for word in dropped:
        run.storage.delete(_previous(word))
    return made


def roll_back(run: RunFolder, judged: Sequence[JudgedWord], concepts: Sequence[str]) -> list[JudgedWord]:
    """Makes the word that was accepted before public again, of each concept; of one that is named twice, the word before that.

    Returns the new table, which has been written. The word that is taken back is kept among the earlier ones. Raises ValueError,
    before anything is changed, if there is no earlier word, or its file is gone. run: of the lease that the caller holds.
    """
    made, turns = list(judged), []
    for concept in concepts:
        now = accepted_of(made).get(concept)
        older = [
            word for word in made
            if word.concept == concept and word.state == "previous" and word.reason != TAKEN_BACK
            and (now is None or word.since < now.since)
        ]  # fmt: skip
        if now is None or not older:
            raise ValueError(f"--roll-back {concept}: no word of it was accepted before the present one and kept")
        back = max(older, key=lambda word: word.since)
        if not run.storage.exists(_previous(back)):
            raise ValueError(
                f"--roll-back {concept}: {_previous(back)}, the word that was accepted before, is not there"
            )
        turned = {now: replace(now, state="previous", reason=TAKEN_BACK), back: replace(back, state="accepted")}
        made = [turned.get(word, word) for word in made]
        turns.append((now, back))
    for now, back in turns:
        _copy(run, run.word_path(now.concept), _previous(now), anew=False)
        _copy(run, _previous(back), run.word_path(back.concept))
    write_judged(run, made)
    return made


def newest_files(run: RunFolder, words: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Concept -> the file of the word that was learned last, which is public only if it was accepted.

    words: (concept, short fingerprint) of the words that were learned last.
    """
    accepted, candidates = accepted_of(read_judged(run)), waiting(run)
    files = {}
    for concept, of in words:
        word = accepted.get(concept)
        if concept in candidates:
            files[concept] = run.candidate_path(concept)
        elif word is None or short(word.fingerprint) == of:
            files[concept] = run.word_path(concept)
        else:  # a person went back to an earlier word
            files[concept] = f"{PREVIOUS}/{concept}@{of}.safetensors"
    return files


def forget_judged(run: RunFolder, concepts: Collection[str]) -> None:
    """Of words that retire: what returns is judged as a new word."""
    if not is_gated(run):
        return
    with lease(run.storage, LEASE) as storage:
        run = RunFolder(storage)
        judged = read_judged(run)
        write_judged(run, [word for word in judged if word.concept not in concepts])
        for word in judged:
            if word.concept in concepts and word.state == "previous":
                run.storage.delete(_previous(word))
        for name in waiting(run).intersection(concepts):
            run.storage.delete(run.candidate_path(name))


def public_rows(run: RunFolder, keys: Mapping[str, str]) -> list[dict[str, Any]]:
    """The rows of EMBEDDINGS of the words that are public. keys: text encoder -> its key in word files.

    Only concepts that a manifest of the folder lists have one; a run that was cut short may not have taken the others out yet.
    A concept whose word was chosen among several has the vectors of that one (chosen.py). Where a candidate waits, its row has the
    vectors of the accepted word instead; without an accepted word there is none.
    """
    rows = read_parts(run, "embeddings", read_layout(run)["embeddings"], EMBEDDINGS).to_pylist()
    if lists := read_lists(run):
        names = listed(lists)
        rows = [row for row in rows if row["concept"] in names]
    if not is_gated(run):
        return with_chosen(rows, read_chosen(run))
    from pipeline.store.word_files import WordFileError, decode_word, suited  # it imports torch

    accepted, held = accepted_of(read_judged(run)), waiting(run)
    public = []
    for row in rows:
        word = accepted.get(row["concept"])
        if word is None and row["concept"] in held:
            continue
        if word is not None and word.fingerprint != row["fingerprint"]:
            path = run.word_path(row["concept"])
            try:
                placeholder, vectors = decode_word(run.storage.read_bytes(path))
            except (WordFileError, StorageNotFoundError) as error:
                say_damaged(path, str(error))
                continue
            mine = suited(vectors, None, keys).get(row["text_encoder"])
            if mine is None:
                continue
            row = {**row, "fingerprint": word.fingerprint, "placeholder": placeholder, "vectors": mine.tolist()}
        public.append(row)
    return public


def _previous(word: JudgedWord) -> str:
    return f"{PREVIOUS}/{word.concept}@{short(word.fingerprint)}.safetensors"


def _copy(run: RunFolder, source: str, target: str, *, anew: bool = True) -> None:
    """anew: replace what is there. A source that is gone was moved by a driver that died since."""
    try:
        data = run.storage.read_bytes(source)
    except StorageNotFoundError:
        return
    if anew:
        run.storage.write_bytes(target, data)
    else:
        run.storage.create_exclusive(target, data)


def _newest(words: Sequence[JudgedWord], keep: int) -> tuple[list[JudgedWord], list[JudgedWord]]:
    """Those to keep, and the previous words that are too many; those that were taken back go first."""
    dropped: list[JudgedWord] = []
    for concept in {word.concept for word in words}:
        mine = [word for word in words if word.concept == concept and word.state == "previous"]
        mine.sort(key=lambda word: (word.reason != TAKEN_BACK, word.since))
        dropped += mine[: max(len(mine) - keep, 0)]
    gone = set(dropped)
    return [word for word in words if word not in gone], dropped
