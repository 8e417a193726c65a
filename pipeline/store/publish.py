"""Makes the run folder's tables from its commit markers. parts.py says how a table is split into files.

A part's rows are a function of the commit markers of its concepts, and its file name is fixed. So its rows are the
same whichever driver writes it, and however often: two drivers cannot double a row, and a driver that dies between two parts
leaves nothing to clean up.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType

import pyarrow as pa

from pipeline.records import Concept, Failure
from pipeline.store.damaged import DamagedFileError, say_damaged
from pipeline.store.lease import FileChangedError, lease
from pipeline.store.parts import is_whole, part_path, read_rows, write_table
from pipeline.store.run_folder import ATTEMPTS, RunFolder, shard_of, short
from pipeline.store.run_tables import EMBEDDINGS, SAMPLES, failure_rows, with_columns_of
from pipeline.store.storage import StorageNotFoundError

SOURCES = {"embeddings": ("embedding.parquet", EMBEDDINGS), "samples": ("samples.parquet", SAMPLES)}
IDENTITY = ("concept", "fingerprint")  # of a word, in every table
WRITERS = 8  # threads: a store is waited for, mostly; each holds a part of samples


def publish(
    run: RunFolder,
    expected: Mapping[str, str],
    parts: Mapping[str, int],
    concepts: Mapping[str, Concept] = MappingProxyType({}),
    *,
    gated: bool = False,
    step: Callable[[int, int], None] = lambda *_: None,
) -> tuple[str, ...]:
    """Brings `embeddings/` and `samples/` up to date with the committed ones of `expected` (concept -> fingerprint).

    concepts: name -> its row of the manifest; columns that change no word, such as carried ones, are brought up to date too.
    gated: words that a worker left behind become candidates. step: called with the number of words published, and of all.

    Returns the committed concepts whose rows are lost. Their markers are withdrawn, and the next run learns them again.
    Drivers of one run publish one after the other, under a lease, because each one reads a part, adds to it and replaces it.
    """
    with lease(run.storage, "publish") as storage:
        return _publish(RunFolder(storage), run, expected, parts, concepts, gated, step)


def _publish(
    run: RunFolder,
    unleased: RunFolder,
    expected: Mapping[str, str],
    parts: Mapping[str, int],
    concepts: Mapping[str, Concept],
    gated: bool,
    step: Callable[[int, int], None],
) -> tuple[str, ...]:
    """run: the folder as the lease's holder writes it. unleased: the same, to read markers and attempts, which nobody replaces."""
    markers = run.committed()
    done = {name: fingerprint for name, fingerprint in expected.items() if (name, short(fingerprint)) in markers}
    # Rows and files of a word that has been learned anew are replaced. Were its old marker left standing, a return to
    # the old inputs would find nothing to do, and the new word in their place.
    for name, fingerprint in markers:
        if name in done and fingerprint != short(done[name]):
            run.withdraw(name, fingerprint)
    by_part: dict[tuple[str, int], dict[str, str]] = defaultdict(dict)
    for table in SOURCES:
        for name, fingerprint in done.items():
            by_part[table, shard_of(name, parts[table])][name] = fingerprint

    waiting = {tuple(file.split("@")[::3]) for file in run.storage.names(ATTEMPTS)}  # (concept, kind of file)
    there = {f"{table}/{name}" for table in SOURCES for name in run.storage.names(table)}

    def publish_part(part: tuple[str, int]) -> set[str]:
        (table, number), members = part, by_part[part]
        path, source = part_path(table, number, parts[table]), SOURCES[table][0]
        untouched = path in there and not any((name, source) in waiting for name in members)
        if table == "samples" and untouched and is_whole(run, path):
            return set()  # adding a hundred words must not read the pictures of ten thousand
        while True:
            try:
                return _publish_part(run, unleased, table, path, members, concepts)
            except FileChangedError:
                continue  # a former holder's write, held up until now, came in between: its rows are kept

    lost: set[str] = set()
    rows = 0
    with ThreadPoolExecutor(WRITERS) as writers:
        for part, gone in zip(sorted(by_part), writers.map(publish_part, sorted(by_part)), strict=True):
            lost |= gone
            rows += len(by_part[part])
            step(rows // len(SOURCES), len(done))  # a word has a row in each table
    published = {name: fingerprint for name, fingerprint in done.items() if name not in lost}
    lost |= _clear_attempts(run, published, gated)
    for name in lost:
        run.withdraw(name, done.pop(name))
    for name in set(run.checkpointed()).intersection(done):
        run.forget_checkpoint(name)  # from a worker that died right after its commit
    run.storage.sweep()
    return tuple(sorted(lost))


def _publish_part(
    run: RunFolder,
    unleased: RunFolder,
    table: str,
    path: str,
    members: Mapping[str, str],
    concepts: Mapping[str, Concept],
) -> set[str]:
    """members: concept -> fingerprint, of this part. Returns the concepts without rows."""
    gone: set[str] = set()
    while True:
        old = read_rows(run, path, SOURCES[table][1])
        rows = [] if old is None else [old]
        present = {key for table_ in rows for key in zip(*(table_[name].to_pylist() for name in IDENTITY), strict=True)}
        missing = {name: fingerprint for name, fingerprint in members.items() if (name, fingerprint) not in present}
        lost = gone.intersection(missing)
        fresh = {
            name: _attempt_rows(unleased, table, name, fingerprint)
            for name, fingerprint in missing.items()
            if name not in lost
        }
        if gone_now := {name for name, row in fresh.items() if row is None}:
            # Another driver may have published them and removed their attempts since we read the part: look again.
            gone |= gone_now
            continue
        mine = {name: concepts[name] for name in members if name in concepts and name not in fresh}
        live = [with_columns_of(mine, some) for some in rows] if table == "embeddings" else rows
        if fresh or any(new is not before for new, before in zip(live, rows, strict=True)):
            kept = [
                some.filter(pa.array([name not in fresh for name in some["concept"].to_pylist()], pa.bool_()))
                for some in live
            ]
            write_table(run, path, pa.concat_tables([*kept, *fresh.values()]).sort_by("concept"))
        return lost


def _attempt_rows(run: RunFolder, table: str, name: str, fingerprint: str) -> pa.Table | None:
    """None if the attempt or its marker no longer exists, or the attempt has no rows of this word."""
    source, schema = SOURCES[table]
    try:
        attempt = run.marker(name, fingerprint).attempt
    except StorageNotFoundError:
        return None
    except DamagedFileError as error:
        say_damaged(f"the marker of {name}", str(error))
        return None
    rows = read_rows(run, run.attempt_path(name, fingerprint, attempt, source), schema)
    if rows is None:
        return None
    of = set(zip(*(rows[key].to_pylist() for key in IDENTITY), strict=True))
    # A word without pictures is one all the same; one without vectors, or with another's rows, is not.
    return rows if of == {(name, fingerprint)} or (not of and table == "samples") else None


def publish_failures(run: RunFolder, failures: Iterable[Failure]) -> None:
    """failures: of every concept of the manifest that has no word."""
    table = failure_rows(sorted(failures, key=lambda failure: failure.concept))
    write_table(run, part_path("failures", 0, 1), table)


def _clear_attempts(run: RunFolder, done: Mapping[str, str], gated: bool) -> set[str]:
    """Removes the attempts of published concepts. First it moves public files that a worker left behind when it died right
    after its commit. Attempts of other concepts stay: they may be running under another driver.

    Returns the concepts whose winning attempt is unknown.
    """
    torn: set[str] = set()
    done_files = {(name, short(fingerprint)) for name, fingerprint in done.items()}

    def clear(file: str) -> None:
        if file.count("@") != 3:
            return  # somebody else's
        name, fingerprint, attempt, kind = file.split("@")
        if (name, fingerprint) not in done_files:
            return
        word_path = run.candidate_path(name) if gated else run.word_path(name)
        public = {"word.safetensors": word_path, "grid.png": run.grid_path(name)}.get(kind)
        try:
            if public and attempt == run.marker(name, done[name]).attempt:
                run.storage.write_bytes(public, run.storage.read_bytes(f"{ATTEMPTS}/{file}"))
        except StorageNotFoundError:
            return  # its worker, or another driver, was faster
        except DamagedFileError as error:
            say_damaged(f"the marker of {name}", str(error))
            torn.add(name)
        run.storage.delete(f"{ATTEMPTS}/{file}")

    with ThreadPoolExecutor(WRITERS) as writers:
        list(writers.map(clear, run.storage.names(ATTEMPTS)))
    return torn
