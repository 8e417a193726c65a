"""Words whose rows are gone from every manifest: out of the tables, kept for a while, and back at once with their rows.

    _retired/<concept>@<short fingerprint>@<day>@<file>

The files are those of an attempt, so that a word that returns is published like one that was just learned. A retired word's
marker is written before anything is taken out of the tables, and its commit is withdrawn last: a process killed in between
leaves a word that is still committed and not listed, which the next run retires to the end.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import date, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.store.catalogue.accepted import forget_judged, newest_files
from pipeline.store.damaged import DamagedFileError, say_damaged
from pipeline.store.lease import lease
from pipeline.store.parts import part_path, read_table, write_table
from pipeline.store.publish import SOURCES
from pipeline.store.run_folder import ATTEMPTS, Marker, RunFolder, shard_of
from pipeline.store.storage import StorageNotFoundError

RETIRED, MARKER = "_retired", "marker.json"
DAYS = 30
SCORED = (
    "scores",
    "features",
    "picture_features",
)  # tables with as many parts as `scores`; a word that returns is scored again


@dataclass(frozen=True, slots=True)
class RetiredWord:
    """short: the beginning of its fingerprint. day: on which it retired, as in 20260131."""

    concept: str
    short: str
    day: str

    def path(self, file: str) -> str:
        return f"{RETIRED}/{self.concept}@{self.short}@{self.day}@{file}"


def retired_words(run: RunFolder) -> tuple[RetiredWord, ...]:
    """All that are kept, by one listing; of a concept that is listed again there may be a word of other inputs."""
    split = (name.split("@") for name in run.storage.names(RETIRED))
    return tuple(RetiredWord(*parts[:3]) for parts in split if len(parts) == 4 and parts[3] == MARKER)


def retired_names(run: RunFolder, listed: Collection[str]) -> frozenset[str]:
    """The concepts that are retired now."""
    return frozenset(word.concept for word in retired_words(run)) - frozenset(listed)


def retire(
    run: RunFolder,
    listed: Collection[str],
    parts: Mapping[str, int],
    today: date,
    step: Callable[[int, int], None] = lambda *_: None,
) -> tuple[str, ...]:
    """Takes the committed words that no manifest lists out of the tables. Returns their concepts.

    step: called with the number of words whose files are kept, and of all that retire.
    """
    if all(name in listed for name, _ in run.committed()):
        return ()
    # Drivers and evaluations that bring the same tables up to date wait for each other.
    with lease(run.storage, "publish", "scores") as storage:
        unleased, run = run, RunFolder(storage)
        going = [RetiredWord(*key, today.strftime("%Y%m%d")) for key in sorted(run.committed()) if key[0] not in listed]
        gone = {word.concept for word in going}
        for table in SOURCES:
            for path, names in _by_part(table, gone, parts[table]):
                _keep_rows(run, table, path, [word for word in going if word.concept in names])
        attempts, files = run.storage.names(ATTEMPTS), newest_files(run, [(word.concept, word.short) for word in going])
        for number, word in enumerate(going, 1):
            mine = [file for file in attempts if file.startswith(f"{word.concept}@{word.short}@")]
            _keep_files(run, word, files[word.concept], mine)
            step(number, len(going))
        for table in (*SOURCES, *SCORED):
            for path, names in _by_part(table, gone, parts["scores" if table in SCORED else table]):
                _take_out(run, path, names)
        for word in going:
            for file in (run.word_path(word.concept), run.grid_path(word.concept)):
                run.storage.delete(file)
            run.forget_checkpoint(word.concept)
        forget_judged(unleased, gone)
        for word in going:
            run.withdraw(word.concept, word.short)
    return tuple(sorted(gone))


def bring_back(run: RunFolder, done: Mapping[str, str]) -> tuple[str, ...]:
    """The retired words of `done` (concept -> fingerprint) are committed again, to be published next. Returns their concepts."""
    files = _files(run)
    returning = [
        word for word in retired_words(run) if word.concept in done and done[word.concept].startswith(word.short)
    ]
    for word in returning:
        try:
            marker = run.marker_at(word.path(MARKER))
        except DamagedFileError as error:
            say_damaged(word.path(MARKER), str(error))
            marker = Marker(word.concept, done[word.concept], word.day, 0, 0.0)  # all else that it says is in the table
        for file in files[word]:
            if file != MARKER:
                target = f"{ATTEMPTS}/{word.concept}@{word.short}@{word.day}@{file}"
                run.storage.write_bytes(target, run.storage.read_bytes(word.path(file)))
        run.withdraw(word.concept, word.short)  # left by a process that was killed while it retired the word
        run.commit(replace(marker, fingerprint=done[word.concept], attempt=word.day))
        _remove(run, word, files[word])
    return tuple(sorted({word.concept for word in returning}))


def forget_old(run: RunFolder, today: date, days: int) -> tuple[str, ...]:
    """Removes the words that retired `days` ago and earlier. Returns their concepts."""
    last = (today - timedelta(days=days)).strftime("%Y%m%d")
    old = {word: files for word, files in _files(run).items() if word.day <= last}
    for word, files in old.items():
        _remove(run, word, files)
    return tuple(sorted({word.concept for word in old}))


def _files(run: RunFolder) -> dict[RetiredWord, list[str]]:
    """What is kept of each word; also of one whose retiring was broken off."""
    files: dict[RetiredWord, list[str]] = {}
    for name in run.storage.names(RETIRED):
        parts = name.split("@")
        if len(parts) == 4:
            files.setdefault(RetiredWord(*parts[:3]), []).append(parts[3])
    return files


def _remove(run: RunFolder, word: RetiredWord, files: Iterable[str]) -> None:
    """The marker first: what has none is no retired word."""
    for file in sorted(files, key=lambda file: file != MARKER):
        run.storage.delete(word.path(file))


def _by_part(table: str, names: Iterable[str], parts: int) -> list[tuple[str, set[str]]]:
    names_in: dict[int, set[str]] = {}
    for name in names:
        names_in.setdefault(shard_of(name, parts), set()).add(name)
    return [(part_path(table, number, parts), some) for number, some in sorted(names_in.items())]


def _keep_rows(run: RunFolder, table: str, path: str, words: Iterable[RetiredWord]) -> None:
    """words: of one part of the table."""
    rows = read_table(run, path)
    if rows is None:
        return
    for word in words:
        mine = pc.and_(pc.equal(rows["concept"], word.concept), pc.starts_with(rows["fingerprint"], word.short))
        if len(kept := rows.filter(mine)):
            write_table(run, word.path(SOURCES[table][0]), kept)


def _keep_files(run: RunFolder, word: RetiredWord, file: str, attempts: Iterable[str]) -> None:
    """file: the word's. attempts: files of its attempts, which a driver left that died before it published them."""
    sources = {"word.safetensors": file, "grid.png": run.grid_path(word.concept)}
    try:
        marker = run.marker(word.concept, word.short)
        left = (each for each in attempts if each.split("@")[2] == marker.attempt)
        sources |= {each.split("@")[3]: f"{ATTEMPTS}/{each}" for each in left}
    except DamagedFileError as error:
        say_damaged(f"the marker of {word.concept}", str(error))
        marker = Marker(word.concept, word.short, word.day, 0, 0.0)
    for name, source in sources.items():
        try:
            run.storage.write_bytes(word.path(name), run.storage.read_bytes(source))
        except StorageNotFoundError:
            continue  # an earlier try got further than this, and kept it
    run.write_json(word.path(MARKER), asdict(marker))
    for each in attempts:
        run.storage.delete(f"{ATTEMPTS}/{each}")


def _take_out(run: RunFolder, path: str, names: Collection[str]) -> None:
    rows = read_table(run, path)
    if rows is None:
        return
    kept = rows.filter(pa.array([name not in names for name in rows["concept"].to_pylist()], pa.bool_()))
    if len(kept) < len(rows):
        write_table(run, path, kept)
