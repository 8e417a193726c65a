"""The tables of bench_gpu.py for docs/measured.md."""

from typing import Any

USUAL = ("images_per_second", "share_of_bare", "peak_gib")
FASTER = ("images_per_second_blocks", "share_of_bare_blocks", "images_per_second_graph", "share_of_bare_graph")
MODELS = ("sd-1.5", "mini", "sdxl")


def markdown(report: dict[str, Any]) -> str:
    """report: what is in the JSON file, as far as it was measured."""
    lines = [
        f"`make bench-gpu` on {report['device']}, {report['date']}, {report['machine']}:", "",
        "| model | slots | images/s | share of a bare U-Net | peak GiB | compiled: images/s, share | graphs: images/s, share |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    measured = {name: report[name] for name in MODELS if name in report}
    for name, figures in measured.items():
        for count, each in figures["slots"].items():
            blocks, share, graph, its_share = map(each.get, FASTER)
            how = f"{count}, checkpointed" if "checkpointed" in each else count
            lines.append(_row(name, how, *map(each.get, USUAL), _both(blocks, share), _both(graph, its_share)))
        if plain := figures["plain"]:
            rate = plain["images_per_second"]
            lines.append(_row(f"{name}, plain loop", 1, rate, None, plain["peak_gib"], None, None))
    lines += ["", "| | a word learned twice alone: the same bits | beside three others: cosine |", "|---|---|---|"]
    for name, figures in measured.items():
        if "cosine_beside_others" in figures:
            lines.append(_row(name, figures["bit_identical_alone"], figures["cosine_beside_others"]))
    lines += [
        "",
        "| job | concepts | seconds | concepts an hour | GPU busy, first worker to last word | first word after, seconds |",
        "|---|---|---|---|---|---|",
    ]
    for name, figures in measured.items():
        if job := figures["job"]:
            done = job.get("cut_short_after")
            concepts = job["concepts"] if done is None else f"{done} of {job['concepts']}, cut short"
            first = job["seconds_until"].get("first_word")
            lines.append(_row(name, concepts, job["seconds"], job["concepts_per_hour"], job["gpu_busy"], first))
    phases = {name: figures["job"].get("seconds_of_a_workers_start") for name, figures in measured.items()}
    for name, some in phases.items():
        if some:
            said = ", ".join(f"{phase} {seconds:g}" for phase, seconds in some.items())
            lines += ["", f"{name}, seconds of a worker's start: {said}."]
    lines += ["", *(f"Not measured: {each}." for each in report["skipped"])]
    return "\n".join(lines).rstrip() + "\n"


def _row(*cells: object) -> str:
    return "| " + " | ".join("" if cell is None else str(cell) for cell in cells) + " |"


def _both(rate: float | None, share: float | None) -> str | None:
    return None if rate is None else f"{rate}, {share}"
