"""What a run's manifest means for its run folder: which words are asked for, which retire, and which return."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from jobs.application.night.respelling import respell
from jobs.application.phases import phase
from jobs.application.requests import Listener
from pipeline.inputs.manifest import Manifest
from pipeline.models.families import Family
from pipeline.scheduling.planning import Plan
from pipeline.store.catalogue.listed import ManifestList, forget_others, has_lists, listed, read_lists, write_list
from pipeline.store.catalogue.retired import bring_back, forget_old, retire, retired_names, retired_words
from pipeline.store.locations import all_without_credentials
from pipeline.store.run_folder import RunFolder
from pipeline.store.storage import StorageError

NAMED = 5  # in a line of the log


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What stands in the run folder beside tonight's rows.

    others: words that only other manifests of this folder list; they stay. gone: words that no manifest lists any more.
    retired: concepts whose words are kept, and can return. returned: those of `retired` that tonight's rows ask for again.
    """

    others: frozenset[str] = frozenset()
    gone: frozenset[str] = frozenset()
    retired: frozenset[str] = frozenset()
    returned: frozenset[str] = frozenset()


def look_at(run: RunFolder, manifest: Manifest, planned: Plan, *, only_this_manifest: bool = False) -> Catalogue:
    """Reads only. only_this_manifest: what other manifests list is gone as well."""
    return _catalogue(run, manifest, planned, [] if only_this_manifest else _others(run, manifest))


def _catalogue(run: RunFolder, manifest: Manifest, planned: Plan, others: Sequence[ManifestList]) -> Catalogue:
    words = frozenset(name for name, _ in run.committed())
    mine = frozenset(names_of(manifest))
    theirs = listed(others) - mine
    retired = frozenset(word.concept for word in retired_words(run))
    back = {(word.concept, word.short) for word in retired_words(run)}
    returned = frozenset(name for name, fingerprint in planned.done.items() if (name, fingerprint[:16]) in back)
    return Catalogue(words & theirs, words - mine - theirs, retired - mine - theirs, returned)


def follow_manifest(
    run: RunFolder,
    manifest: Manifest,
    planned: Plan,
    parts: Mapping[str, int],
    today: date,
    events: Listener,
    *,
    only_this_manifest: bool = False,
    retired_days: int,
    family: Family,
) -> Catalogue:
    """Writes the manifest's list, retires what is gone, brings back what returned, gives words their new placeholders, and says
    so. family: of the model.
    """
    others = [] if only_this_manifest else _others(run, manifest)
    catalogue = _catalogue(run, manifest, planned, others)
    if only_this_manifest:
        forget_others(run, manifest.url)
    for one in others:
        if one.manifest:
            write_list(run, one)  # of a folder of an older version there was none yet
    write_list(run, ManifestList(manifest.url, names_of(manifest), manifest.types))
    with phase(events, "bringing words back"):
        bring_back(run, {name: planned.done[name] for name in catalogue.returned})
    names = listed(read_lists(run))
    with phase(events, "retiring words") as counts:
        retire(run, names, parts, today, counts.of("kept the files of", "words that retire"))
        removed = forget_old(run, today, retired_days)
    with phase(events, "writing new placeholders") as counts:
        concepts = {concept.name: concept for concept in manifest.concepts}
        respelled = respell(run, concepts, planned, parts, family, counts.of("wrote", "words with new placeholders"))
    _say(catalogue, removed, retired_days, events)
    if respelled:
        some = [f"{name}: {before} -> {now}" for name, (before, now) in respelled.items()]
        count = "1 word has" if len(some) == 1 else f"{len(some)} words have"
        said = f"respelled {count} another placeholder{_named(some)}, and the same vectors"
        events.say("respelled", said, concepts=sorted(respelled))
    return Catalogue(catalogue.others, catalogue.gone, retired_names(run, names), catalogue.returned)


def names_of(manifest: Manifest) -> tuple[str, ...]:
    """A bad row's too: a slip in a row that has a word is no reason to retire the word."""
    return (*(each.name for each in manifest.concepts), *(each.concept for each in manifest.failures))


def columns_digest(manifest: Manifest, others: Collection[str]) -> str:
    """Of all that tables and reports show and that is in no fingerprint."""
    rows = [[each.name, each.noun, dict(each.carried)] for each in manifest.concepts]
    content = all_without_credentials([rows, dict(manifest.types), sorted(others)])
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _others(run: RunFolder, manifest: Manifest) -> list[ManifestList]:
    """The other manifests' lists. A folder of an older version lists what it holds under the manifest of its last run."""
    if has_lists(run):
        return list(read_lists(run, but=manifest.url))
    try:
        before = str(run.read_json("run.json")["manifest"])
    except (StorageError, KeyError):
        before = "unknown"
    words = tuple(sorted({name for name, _ in run.committed()}))
    return [ManifestList(before, words)] if words and before != manifest.url else []


def _say(catalogue: Catalogue, removed: Collection[str], days: int, events: Listener) -> None:
    if catalogue.gone:
        said = f"retired   {words(len(catalogue.gone))} no longer in the manifest{_named(catalogue.gone)}; "
        kept = (
            f"kept for {days} days, and back at once if the row returns" if days > 0 else "removed (--retired-days 0)"
        )
        events.say("retired", said + kept, concepts=sorted(catalogue.gone))
    if catalogue.returned:
        said = f"returned  {words(len(catalogue.returned))} in the manifest again{_named(catalogue.returned)}"
        said += ", and done without training"
        events.say("returned", said, concepts=sorted(catalogue.returned))
    if removed:
        said = f"removed   {len(removed)} retired {'word' if len(removed) == 1 else 'words'} after {days} days{_named(removed)}"
        events.say("removed", said, concepts=sorted(removed))
    if catalogue.others:
        said = (
            f"others    {words(len(catalogue.others))} only in other manifests of this run folder{_named(catalogue.others)}; "
            "they stay (--only-this-manifest retires them)"
        )
        events.say("others", said, concepts=sorted(catalogue.others))


def words(count: int) -> str:
    """
    >>> words(1)
    '1 word is'
    """
    return "1 word is" if count == 1 else f"{count} words are"


def _named(names: Collection[str]) -> str:
    some = sorted(names)[:NAMED]
    return f" ({', '.join(some)}{', ...' if len(names) > NAMED else ''})"
