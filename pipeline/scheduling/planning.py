"""What is left to do, from the manifest, the run folder's markers and its tables, before anything is scheduled.

A concept without a marker or a recorded failure is to be done; its images are not read here. Any other is done if its
fingerprint equals its marker's, or would with the placeholder that its word has. An image whose identity in its store (its ETag)
is the one noted beside the word keeps the digest noted there. Only changed images, and those of stores without identities, are
read again.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from pipeline.inputs.image_sets import ImageSetError, digest_of, find_sources
from pipeline.inputs.sidecars import extras_of
from pipeline.models.find import Model
from pipeline.records import Concept, Failure, Source
from pipeline.settings import InversionSettings
from pipeline.store.damaged import DamagedFileError, say_damaged
from pipeline.store.fingerprint import content_of, fingerprint
from pipeline.store.parts import part_path, read_layout, read_rows
from pipeline.store.run_folder import ATTEMPTS, RunFolder, shard_of, short
from pipeline.store.run_tables import EMBEDDINGS
from pipeline.store.storage import StorageError, StorageNotFoundError, without_credentials

READERS = 32  # threads: listing and reading images is waiting, mostly
SOURCES = pa.schema([EMBEDDINGS.field(name) for name in ("concept", "fingerprint", "placeholder", "sources")])
# Another placeholder changes no vector. These stand in prompts as they are, and no tokenizer has them already; of others, such as
# <pad>, the worker that learns the word anew is the judge.
PLAIN = re.compile(
    r"<(?!(?:pad|unk|s|bos|eos|mask|sep|cls|(?:unused|extra_id|start_of|end_of|image)\w*)>)[a-z0-9][\w.-]*>",
    re.IGNORECASE,
)

Known = Mapping[str, Source]  # URL without credentials -> the file as it was when its concept was learned


@dataclass(frozen=True, slots=True)
class Plan:
    """left: concepts to do now. done: concept -> fingerprint of its word. respelled: those of `done` whose word has another
    placeholder still -> fingerprint of that word.
    failed: concepts that failed before with the same inputs, or whose images cannot be listed any more.
    files: of those of `left` that were tried before, name -> files with digests.
    """

    left: tuple[Concept, ...]
    done: dict[str, str]
    failed: tuple[Failure, ...]
    files: dict[str, tuple[Source, ...]] = field(default_factory=dict)
    respelled: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Looked:
    """files: with digests. before: of the published word, where it differs by its placeholder alone; else ""."""

    fingerprint: str
    files: tuple[Source, ...]
    before: str = ""


def plan(
    concepts: Sequence[Concept],
    run: RunFolder,
    model: Model,
    precision: str,
    settings: InversionSettings,
    storage_options: dict[str, Any],
    *,
    retry_failed: bool = False,
    retired: Collection[tuple[str, str]] = (),
    step: Callable[[int, int], None] = lambda *_: None,
) -> Plan:
    """precision: the model's dtype as it enters fingerprints. retired: (concept, short fingerprint) of retired words, which
    are done as soon as a row asks for them. step: called with the number of concepts whose pictures were looked at, and of all.
    """
    words, failed_before = run.committed(), run.failed()
    committed = words.union(retired)
    touched = {name for name, _ in committed | failed_before}
    left: set[str] = {concept.name for concept in concepts} - touched
    done: dict[str, str] = {}
    failed: list[Failure] = []
    files: dict[str, tuple[Source, ...]] = {}
    respelled: dict[str, str] = {}
    unpublished = _unpublished(run, committed)

    def look(concept: Concept, known: Known | None, word: tuple[str, str]) -> _Looked | Failure:
        if known is None:
            known = _known_from(run, unpublished.get(concept.name))
        try:
            sources = find_sources(concept, storage_options, extras_of(settings)).files
            read = tuple(replace(source, digest=_digest(source, known, storage_options)) for source in sources)
        except (ImageSetError, StorageError) as error:
            return Failure(concept.name, "images", str(error))
        digests = [content_of(source) for source in read]
        now = fingerprint(concept, digests, model.digest, precision, settings)
        spelled, published = word
        if spelled != concept.placeholder and PLAIN.fullmatch(spelled) and PLAIN.fullmatch(concept.placeholder):
            before = replace(concept, placeholder=spelled)
            if fingerprint(before, digests, model.digest, precision, settings) == published:
                return _Looked(now, read, published)
        return _Looked(now, read)

    with ThreadPoolExecutor(READERS) as readers:
        again, looked_at = [concept for concept in concepts if concept.name in touched], 0
        for some, known, published in _by_part(again, run):
            of = [(known.get(concept.name), published.get(concept.name, ("", ""))) for concept in some]
            seen = readers.map(look, some, *zip(*of, strict=True))
            for concept, looked in zip(some, seen, strict=True):
                looked_at += 1
                step(looked_at, len(again))
                if isinstance(looked, Failure):
                    failed.append(looked)
                    continue
                digest = looked.fingerprint
                if (key := (concept.name, short(digest))) in committed:
                    done[concept.name] = digest
                elif (concept.name, short(looked.before)) in words:
                    done[concept.name], respelled[concept.name] = digest, looked.before
                elif key in failed_before and not retry_failed and (before := _failure(run, concept.name, digest)):
                    failed.append(replace(before, fingerprint=digest))
                else:
                    left.add(concept.name)
                    files[concept.name] = looked.files
    return Plan(tuple(concept for concept in concepts if concept.name in left), done, tuple(failed), files, respelled)


def _failure(run: RunFolder, concept: str, fingerprint: str) -> Failure | None:
    """None if the record is damaged or gone; then the concept is tried again."""
    try:
        return run.failure(concept, fingerprint)
    except DamagedFileError as error:
        say_damaged(f"the failure of {concept}", str(error))
    except StorageNotFoundError:
        pass
    return None


def _digest(source: Source, known: Known, storage_options: dict[str, Any]) -> str:
    before = known.get(without_credentials(source.url))
    if before is not None and source.identity is not None and source.identity == before.identity:
        return before.digest
    return digest_of(source, storage_options)


def _by_part(
    concepts: Sequence[Concept], run: RunFolder
) -> Iterator[tuple[list[Concept], dict[str, Known], dict[str, tuple[str, str]]]]:
    """The concepts, grouped by part of `embeddings/`, each with what that part lists: sources, and (placeholder, fingerprint)."""
    if not concepts:
        return
    parts = read_layout(run)["embeddings"]
    groups: dict[int, list[Concept]] = defaultdict(list)
    for concept in concepts:
        groups[shard_of(concept.name, parts)].append(concept)
    for number, some in groups.items():
        table = read_rows(run, part_path("embeddings", number, parts), SOURCES)
        rows = [] if table is None else table.select(["concept", "placeholder", "fingerprint"]).to_pylist()
        yield some, _known(table), {row["concept"]: (row["placeholder"] or "", row["fingerprint"]) for row in rows}


def _unpublished(run: RunFolder, committed: set[tuple[str, str]]) -> dict[str, str]:
    """Concept -> path of its row, for words that were committed but not published before the driver died."""
    attempts = {}
    for file in run.storage.names(ATTEMPTS):
        name, *rest = file.split("@")
        if len(rest) == 3 and rest[2] == "embedding.parquet" and (name, rest[0]) in committed:
            attempts[name] = f"{ATTEMPTS}/{file}"
    return attempts


def _known_from(run: RunFolder, path: str | None) -> Known:
    if path is None:
        return {}
    table = read_rows(run, path, SOURCES)  # None: published meanwhile, by another driver; the images are read again
    return next(iter(_known(table).values()), {})


def _known(table: Any) -> dict[str, Known]:
    if table is None:
        return {}
    rows = zip(table["concept"].to_pylist(), table["sources"].to_pylist(), strict=True)
    return {name: _by_url(sources or ()) for name, sources in rows}


def _by_url(sources: Sequence[Mapping[str, Any]]) -> Known:
    """Keyed by the stored URL, without credentials. Files whose URLs differ in a credential alone are read again."""
    by_url: dict[str, Source] = {}
    for source in sources:
        url = without_credentials(source["url"])
        by_url[url] = Source(url) if url in by_url else Source(**{**source, "url": url})
    return by_url
