"""What `ray job submit --working-dir FOLDER` would upload, by Ray's own rules: python -m cluster.upload [FOLDER]

Lists every file with its size, the largest last. Files in .gitignore and .rayignore are not uploaded; the repository's .rayignore
names keys, tokens and environment files. Anyone who can read the cluster's storage can read what was uploaded.
"""

import sys
from pathlib import Path

from ray._private.runtime_env.packaging import _dir_travel


def uploaded(folder: Path) -> dict[str, int]:
    """Path below the folder -> bytes of each file, by path."""
    sizes: dict[str, int] = {}

    def note(path: Path) -> None:
        if path.is_file():
            sizes[str(path.relative_to(folder))] = path.stat().st_size

    _dir_travel(folder, [], note, include_gitignore=True)
    return {path: sizes[path] for path in sorted(sizes)}


def main(folder: Path) -> None:
    files = uploaded(folder.absolute())
    for path, size in sorted(files.items(), key=lambda each: each[1]):
        print(f"{size:>12,}  {path}")
    print(f"{sum(files.values()):>12,}  bytes in {len(files)} files")


if __name__ == "__main__":
    main(Path(sys.argv[1] if sys.argv[1:] else "."))
