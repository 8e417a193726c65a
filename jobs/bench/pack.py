"""Packs what bench_gpu.py imports besides torch and torchvision: python -m jobs.bench.pack runs/bench-gpu-pack.tar.gz

The packages are those of this environment, so nothing is downloaded. Unpack it beside the repository on a machine of the same
Python and system that has torch and torchvision only, and put its folder on PYTHONPATH.
"""

import re
import sys
import tarfile
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

THERE = re.compile(r"torch|torchvision|triton|nvidia-.*|cuda-.*|setuptools|pip")
REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:\[([^\]]*)\])?")


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


def main(output: str) -> None:
    packages: dict[str, Distribution] = {}
    needed("wordmint", frozenset(), packages)
    packages.pop("wordmint")
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(output, "w:gz", compresslevel=6) as archive:
        for package in packages.values():
            for path, name in files_of(package):
                archive.add(path, name)
    size = Path(output).stat().st_size / 2**20
    print(f"{output}: {len(packages)} packages, {size:.0f} MiB")


if __name__ == "__main__":
    main(*sys.argv[1:])
