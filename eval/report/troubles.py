"""What went wrong during a run, for the report, by kind of event: how often, which concepts, what was done about it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.records import Event

MOST_EXAMPLES, LONGEST_OUTPUT = 5, 2_000
TITLES = {
    "worker_lost": "Workers lost",
    "worker_not_started": "Workers that did not start",
    "call_broken_off": "Concepts interrupted",
    "checkpoint_not_written": "Checkpoints not written",
    "picture_rejected": "Pictures left out",
    "diverged": "Words that diverged",
    "out_of_memory": "Out of memory",
    "not_compiled": "Model not compiled",
    "file_damaged": "Files damaged",
    "store_unavailable": "Store that did not answer",
}


@dataclass(frozen=True, slots=True)
class Trouble:
    """The events of one kind.

    concepts: how many were affected. actions: what was done about it -> how often, the most frequent first.
    examples: the latest events. more: the number of others.
    """

    title: str
    count: int
    concepts: int
    actions: tuple[tuple[str, int], ...]
    examples: tuple[Event, ...]
    more: int


def troubles_of(events: Sequence[Event]) -> list[Trouble]:
    """By kind, the most frequent first. Phases of a worker's start are left out.

    events: by time.
    """
    by_kind: dict[str, list[Event]] = {}
    for event in events:
        if event.kind != "phase":
            by_kind.setdefault(event.kind, []).append(event)
    troubles = []
    for kind, some in sorted(by_kind.items(), key=lambda item: (-len(item[1]), item[0])):
        actions = Counter(event.action for event in some if event.action)
        troubles.append(
            Trouble(
                title=TITLES.get(kind, kind.replace("_", " ").capitalize()),
                count=len(some),
                concepts=len({event.concept for event in some if event.concept}),
                actions=tuple(actions.most_common(MOST_EXAMPLES)),
                examples=tuple(some[-MOST_EXAMPLES:]),
                more=max(0, len(some) - MOST_EXAMPLES),
            )
        )
    return troubles
