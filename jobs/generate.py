"""Use learned words in any sentence.

  python jobs/generate.py runs/demo --prompt "a photo of <owl> on the beach"
  python jobs/generate.py runs/demo --prompt "a photo of <owl> and <drum>" --count 8 --guidance 7 --output owls

Exit codes: 0 drawn; 2 nothing was started: no such run, no known word in a prompt, or bad settings.
"""

import argparse
import difflib
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, get_args

import numpy as np

from cluster.session import ray_session
from jobs.application.recorded import allowed
from jobs.cli.arguments import add_storage_and_cluster
from pipeline.models.families import family_of
from pipeline.randomness import derive_seed
from pipeline.records import Sample
from pipeline.settings import ModelSettings, Sampler
from pipeline.store.parts import read_layout, read_parts
from pipeline.store.run_folder import RunFolder
from pipeline.store.run_tables import EMBEDDINGS
from pipeline.store.storage import Storage, StorageError, parse_storage_options, without_credentials

DRAWN, NOT_STARTED = 0, 2


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="generate.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN", help="a run folder, as given to invert_all.py's --output")
    parser.add_argument(
        "--prompt",
        action="append",
        default=[],
        metavar="TEXT",
        help="a sentence with learned words in it (may be repeated)",
    )
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="a text file with one sentence a line")
    parser.add_argument(
        "--word",
        action="append",
        default=[],
        metavar="FILE",
        help="a word file of another run, a path or any fsspec URL (may be repeated)",
    )
    parser.add_argument("--count", type=int, default=4, metavar="N", help="pictures a prompt (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="of the first picture's noise (default: %(default)s)"
    )
    parser.add_argument("--sampler", default="dpm++", choices=get_args(Sampler), help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20, metavar="N", help="denoising steps (default: %(default)s)")
    parser.add_argument(
        "--guidance", type=float, default=5.0, metavar="X", help="guidance scale (default: %(default)s)"
    )
    parser.add_argument("--output", metavar="URL", help="folder for the pictures (default: RUN/generated)")
    parser.add_argument(
        "--model",
        metavar="ID|PATH",
        help="that the words were learned on (default: the run's own, if that is the shipped one)",
    )
    add_storage_and_cluster(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    try:
        options = parse_storage_options(arguments.storage_option)
        run = RunFolder(Storage(arguments.run, options))
        configuration = run.read_json("run.json")
        shown = without_credentials(arguments.run, options).rstrip("/")
        model = allowed(configuration["model"], arguments.model, "--model", shown)
        family_of(configuration.get("model_family", "")).refuse_unsuited(arguments.sampler)
        prompts = arguments.prompt + (_lines(arguments.prompts) if arguments.prompts else [])
        words = _words(run)
        words |= _words_of_files(arguments.word, options, words, configuration)
        _refuse_unknown_words(prompts, list(words))
        if arguments.count < 1 or arguments.steps < 1:
            raise ValueError("--count and --steps must be at least 1")
    except (StorageError, OSError, ValueError) as error:
        print(f"wordmint: nothing was started.\n{error}", file=sys.stderr)
        return NOT_STARTED
    output = Storage(arguments.output or f"{arguments.run.rstrip('/')}/generated", options)
    draw(arguments, configuration, model, prompts, words, output)
    return DRAWN


def draw(
    arguments: argparse.Namespace,
    configuration: dict[str, Any],
    model: str,
    prompts: list[str],
    words: dict[str, dict[str, np.ndarray]],
    output: Storage,
) -> None:
    # torch and diffusers take seconds to import; a mistyped prompt should be told at once.
    from pipeline.sampling.generation import generate
    from pipeline.sampling.grid import draw_grid, encode_png
    from pipeline.sampling.sampler import SamplerSettings

    settings = SamplerSettings(arguments.sampler, arguments.steps, arguments.guidance)
    asked = [(prompt, index) for prompt in prompts for index in range(arguments.count)]
    seeds = [derive_seed(arguments.seed, "", prompt, index) for prompt, index in asked]
    samples = []
    with ray_session(arguments.ray_address) as session:
        gpus = 1.0 if session.gpus else 0.0
        drawings = generate(
            [prompt for prompt, _ in asked],
            seeds,
            words,
            model,
            settings,
            ModelSettings(**configuration["model_settings"]),
            gpus,
            output.options,
            configuration["model_digest"],
        )
        for (prompt, index), drawing in zip(asked, drawings, strict=True):
            png = encode_png(drawing.pixels)
            output.write_bytes(f"{prompts.index(prompt):03d}-{_slug(prompt)}-{index:02d}.png", png)
            samples.append(Sample("", "edit", prompt, "", index, drawing.seed, png))
    output.write_bytes("contact-sheet.png", draw_grid(", ".join(sorted(words))[:200], samples))
    drawn = [{"prompt": sample.prompt, "index": sample.index, "seed": sample.seed} for sample in samples]
    described = {"model": configuration["model"], "sampler": arguments.sampler, "steps": arguments.steps,
                 "guidance": arguments.guidance, "pictures": drawn}  # fmt: skip
    output.write_bytes("generated.json", (json.dumps(described, indent=2, ensure_ascii=False) + "\n").encode())
    print(f"{len(samples)} pictures and contact-sheet.png in {output.url}")


def _words(run: RunFolder) -> dict[str, dict[str, np.ndarray]]:
    """Placeholder -> text encoder -> float32 (V, D)."""
    words: dict[str, dict[str, np.ndarray]] = {}
    for row in read_parts(run, "embeddings", read_layout(run)["embeddings"], EMBEDDINGS).to_pylist():
        words.setdefault(row["placeholder"], {})[row["text_encoder"]] = np.array(row["vectors"], np.float32)
    return words


def _words_of_files(
    urls: list[str],
    options: dict[str, Any],
    known: dict[str, dict[str, np.ndarray]],
    configuration: dict[str, Any],
) -> dict[str, dict[str, np.ndarray]]:
    """A file that does not name its word is called by its own name, as in AUTOMATIC1111."""
    from pipeline.store.word_files import decode_word, suited

    keys = family_of(configuration.get("model_family", "")).encoders
    widths = {name: value.shape[1] for vectors in known.values() for name, value in vectors.items()}
    words = {}
    for url in urls:
        name, vectors = decode_word(Storage(url, options).read_bytes())
        words[name or PurePosixPath(url).stem] = suited(vectors, widths or None, keys)
    return words


def _refuse_unknown_words(prompts: list[str], known: list[str]) -> None:
    from pipeline.sampling.generation import words_in

    if not prompts:
        raise ValueError("there is nothing to draw: give --prompt or --prompts")
    for prompt in prompts:
        unknown = [word for word in re.findall(r"<[^<>\s]+>", prompt) if not words_in(word, known)]
        if unknown:
            near = difflib.get_close_matches(unknown[0], known, 3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"the run knows {', '.join(sorted(known)[:10])}"
            raise ValueError(f"prompt {prompt!r}: this run has no word {unknown[0]}; {hint}")


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _slug(prompt: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60]


if __name__ == "__main__":
    sys.exit(main())
