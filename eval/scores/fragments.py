"""Fragments: files of new scores, before they are merged into `scores/` and `features/`.

A worker writes a fragment for each part of the pictures that it has scored, the scores' file last. Then the driver moves all
fragments into the parts of the tables. Fragments of an interrupted evaluation are used by the next one.

    _scoring/features@<part>@<part of samples>@<digest>.parquet, and scores@... likewise
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import pyarrow as pa

from eval.scores.confusion import FEATURES
from eval.scores.score_tables import CONDITIONS, PICTURE_FEATURES, SCORES
from pipeline.store.parts import conformed, part_path, read_table, write_table
from pipeline.store.run_folder import RunFolder

SCORING = "_scoring"
TABLES = {"picture_features": PICTURE_FEATURES, "features": FEATURES, "scores": SCORES}


def leave_fragment(
    run: RunFolder, part: int, name: str, scores: pa.Table, features: pa.Table, of_pictures: pa.Table | None = None
) -> None:
    """part: number of the part of `scores/`. name: unique to this work, and the same if it is repeated. of_pictures: rows of
    PICTURE_FEATURES, where they are kept.
    """
    if of_pictures is not None:
        write_table(run, _path("picture_features", part, name), of_pictures)
    write_table(run, _path("features", part, name), features)
    write_table(run, _path("scores", part, name), scores)


def fragments(run: RunFolder) -> dict[int, list[str]]:
    """Part of the scores -> names of its fragments."""
    by_part: dict[int, list[str]] = defaultdict(list)
    for file in sorted(run.storage.names(SCORING)):
        if file.startswith("scores@"):
            _, part, name = file.removesuffix(".parquet").split("@", 2)
            by_part[int(part)].append(name)
    return dict(by_part)


def take_in(
    run: RunFolder,
    part: int,
    names: Sequence[str],
    parts: Mapping[str, int],
    words: Mapping[str, str],
) -> None:
    """Brings one part of `scores/` and `features/` up to date, then removes its fragments.

    run: of the lease on these tables; where that is lost, the fragments stay for the next evaluation.
    words: concept -> fingerprint of its present word. Rows of its other words are dropped, rows of other concepts kept.
    """
    for table, schema in TABLES.items():
        path = part_path(table, part, parts["scores"])
        fresh = [read_table(run, _path(table, part, name)) for name in names]
        there = [conformed(some, schema) for some in (read_table(run, path), *fresh) if some is not None]
        merged = _merged(there, words)
        if merged is not None:
            write_table(run, path, merged)
    for table in reversed(TABLES):
        for name in names:
            run.storage.delete(_path(table, part, name))


def _merged(tables: Sequence[pa.Table], words: Mapping[str, str]) -> pa.Table | None:
    """All rows; where tables have rows of the same concept, conditions and metric, those of the last table."""
    kept: list[pa.Table] = []
    replaced: set[tuple[object, ...]] = set()
    for table in reversed(tables):
        rows = table.select(
            [each for each in ("concept", "fingerprint", "metric", *CONDITIONS) if each in table.schema.names]
        )
        keys = [tuple(row[name] for name in row if name != "fingerprint") for row in rows.to_pylist()]
        prints = zip(table["concept"].to_pylist(), table["fingerprint"].to_pylist(), strict=True)
        present = [words.get(name, fingerprint) == fingerprint for name, fingerprint in prints]
        still = [here and key not in replaced for here, key in zip(present, keys, strict=True)]
        kept.append(table.filter(pa.array(still, pa.bool_())))
        replaced |= set(keys)
    return pa.concat_tables(kept).sort_by("concept") if kept else None


def _path(table: str, part: int, name: str) -> str:
    return f"{SCORING}/{table}@{part:05d}@{name}.parquet"
