"""Packs what bench_gpu.py imports besides torch, for a machine that has torch and no network.

  python -m jobs.bench.gpu.pack runs/bench-gpu-pack.tar.gz
  python -m jobs.bench.gpu.pack runs/bench-gpu-pack-without-jobs.tar.gz --without-jobs

The packages are those of this environment, so nothing is downloaded. Unpack it beside the repository on a machine of the same
Python and system, and put its folder on PYTHONPATH. --without-jobs leaves out what only whole jobs need, Ray above all: the
archive is a third as large, and the jobs are then listed as not measured. Whole jobs also need the torchvision that belongs to
the machine's torch.
"""

import argparse
import re
import tarfile
from collections.abc import Iterator, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from jobs.cli.arguments import file_to_write

THERE = re.compile(r"torch|torchvision|triton|nvidia-.*|cuda-.*|setuptools|pip")
REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:\[([^\]]*)\])?")
WITHOUT_JOBS = ("diffusers", "transformers", "accelerate", "safetensors", "fsspec", "numpy", "pillow", "pillow-heif")


def packages_for(*, jobs: bool) -> dict[str, Distribution]:
    """Name -> package."""
    packages: dict[str, Distribution] = {}
    for name in ("wordmint",) if jobs else WITHOUT_JOBS:
        needed(name, frozenset(), packages)
    packages.pop("wordmint", None)
    return packages


def needed(name: str, extras: frozenset[str], seen: dict[str, Distribution]) -> None:
    """Adds the package and all that it requires on this machine to `seen`."""
    try:
        package = distribution(name)
    except PackageNotFoundError:
        return  # for another system, or an extra that is not installed
    if extras <= frozenset() and package.name in seen:
        return
    seen[package.name] = package
    for requirement in package.requires or ():
        wanted, _, condition = requirement.partition(";")
        if "extra ==" in condition and not any(f'"{extra}"' in condition for extra in extras):
            continue
        match = REQUIREMENT.match(wanted.strip())
        if match and not THERE.fullmatch(match[1].lower()):
            needed(match[1], frozenset(filter(None, (match[2] or "").split(","))), seen)


def files_of(package: Distribution) -> Iterator[tuple[Path, str]]:
    """(path of a file, its path relative to the folder of packages)."""
    for each in package.files or ():
        path = Path(str(each.locate()))
        if not str(each).startswith("..") and "__pycache__" not in each.parts and path.is_file():
            yield path, str(each)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pack.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=file_to_write, help="the archive")
    parser.add_argument("--without-jobs", action="store_true", help="what measuring steps needs, and not whole jobs")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser().parse_args(argv)
    output, packages = arguments.output, packages_for(jobs=not arguments.without_jobs)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(output, "w:gz", compresslevel=6) as archive:
        for package in packages.values():
            for path, name in files_of(package):
                archive.add(path, name)
    print(f"{output}: {len(packages)} packages, {output.stat().st_size / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
