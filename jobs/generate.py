"""Draw pictures of any sentence with learned words in it.

  python jobs/generate.py runs/demo --prompt "a photo of <owl> on the beach"
  python jobs/generate.py runs/demo --prompt "a photo of <owl> and <drum>" --count 8 --guidance 7 --output owls
  python jobs/generate.py runs/demo --prompt "a photo of <owl>" --negative "<blurred>"
  python jobs/generate.py runs/demo --blend "<mix>=<owl>:<drum>:0.5" --prompt "a photo of <mix>"

Exit codes: 0 the pictures are drawn; 2 nothing was started: no such run, no known word in a prompt, or bad settings.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from jobs.api import NotStartedError, PictureRequest, generate
from jobs.application.local_paths import absolute_name
from jobs.cli.arguments import add_storage_and_cluster
from jobs.cli.log import open_log
from pipeline.sampling.blending import Blend, read_blend
from pipeline.settings import Sampler
from pipeline.store.storage import Storage, parse_storage_options
from pipeline.text_files import MOST_TEXT_BYTES, sentences_of_file

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
    parser.add_argument(
        "--blend",
        action="append",
        default=[],
        metavar="NEW=A:B:SHARE",
        help="a word NEW for the prompts, between the words A (share 0) and B (share 1) by spherical interpolation; the same NEW "
        "in the same prompt is drawn from the same noise at every share (may be repeated)",
    )
    parser.add_argument(
        "--negative", default="", metavar="TEXT", help="negative prompt of all pictures, such as a negative word"
    )
    parser.add_argument("--count", type=int, default=4, metavar="N", help="pictures per prompt (default: %(default)s)")
    parser.add_argument(
        "--best-of",
        type=int,
        default=1,
        metavar="N",
        help="draw N for each picture, and keep those that follow the prompt and look like its words' own pictures "
        "(default: %(default)s)",
    )
    parser.add_argument("--judge", metavar="NAME", help="CLIP that chooses them (default: the shipped one)")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="seed of the first picture's noise (default: %(default)s)"
    )
    parser.add_argument("--sampler", default="dpm++", choices=get_args(Sampler), help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20, metavar="N", help="denoising steps (default: %(default)s)")
    parser.add_argument(
        "--guidance", type=float, default=5.0, metavar="X", help="guidance scale (default: %(default)s)"
    )
    parser.add_argument("--output", metavar="URL", help="folder for the pictures (default: RUN/generated)")
    parser.add_argument(
        "--model",
        type=absolute_name,
        metavar="ID|PATH",
        help="model that the words were learned on (default: the run's own, if it is the shipped one)",
    )
    add_storage_and_cluster(parser)
    return parser


def request_of(arguments: argparse.Namespace) -> PictureRequest:
    """Raises NotStartedError."""
    try:
        return PictureRequest(
            run=arguments.run,
            prompts=tuple(
                dict.fromkeys((*arguments.prompt, *(_lines(arguments.prompts) if arguments.prompts else ())))
            ),
            word_files=tuple(arguments.word),
            blends=tuple(map(_blend, arguments.blend)),
            negative=" ".join(arguments.negative.split()),
            count=arguments.count,
            best_of=arguments.best_of,
            judge=arguments.judge,
            seed=arguments.seed,
            sampler=arguments.sampler,
            steps=arguments.steps,
            guidance=arguments.guidance,
            output=arguments.output,
            model=arguments.model,
            storage_options=parse_storage_options(arguments.storage_option),
            ray_address=arguments.ray_address,
        )
    except (OSError, ValueError) as error:
        raise NotStartedError(str(error)) from error


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    log = open_log(arguments)
    try:
        generate(request_of(arguments), log)
    except NotStartedError as error:
        log.complain("not started", f"nothing was started.\n{error}")
        return NOT_STARTED
    return DRAWN


def _blend(text: str) -> Blend:
    try:
        return read_blend(text)
    except ValueError as error:
        raise ValueError(f"--blend {error}") from None


def _lines(path: Path) -> list[str]:
    try:
        return sentences_of_file(Storage(str(path)).read_bytes(at_most=MOST_TEXT_BYTES))
    except ValueError as error:
        raise ValueError(f"--prompts {path}: {error}") from None


if __name__ == "__main__":
    sys.exit(main())
