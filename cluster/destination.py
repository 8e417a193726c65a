"""The default run folder: never inside the copy of the working directory in which a submitted job runs."""

import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath


def default_output(manifest: str, environment: Mapping[str, str] | None = None, folder: Path | None = None) -> str:
    """`$WORDMINT_OUTPUT/<stem>` if set; beside the manifest if that is a URL; `~/wordmint-runs/<stem>` inside a submitted
    job's copy of the working directory, which Ray deletes; else `runs/<stem>`.

    >>> default_output("toys.csv", {}, Path("checkout"))
    'runs/toys'
    >>> default_output("s3://bucket/toys.csv", {})
    's3://bucket/toys'
    >>> default_output("toys.csv", {"WORDMINT_OUTPUT": "s3://bucket/runs"})
    's3://bucket/runs/toys'
    """
    environment = os.environ if environment is None else environment
    # In an object store "#" and "?" are ordinary characters of a key; in a web address the path ends before the query.
    web = manifest.lower().startswith(("http://", "https://"))
    place = re.split("[?#]", manifest, maxsplit=1)[0] if web else manifest
    stem = PurePosixPath(place.rpartition("://")[2] if "://" in place else place.replace("\\", "/")).stem
    if root := environment.get("WORDMINT_OUTPUT"):
        return f"{root.rstrip('/')}/{stem}"
    if "://" in manifest:
        return f"{place.rsplit('/', 1)[0]}/{stem}"
    if is_job_copy(folder or Path.cwd()):
        return str(Path.home() / "wordmint-runs" / stem)
    return f"runs/{stem}"


def is_job_copy(folder: Path) -> bool:
    """Ray unpacks a job's working directory below `runtime_resources/working_dir_files` and removes it afterwards."""
    return "working_dir_files" in folder.parts and "runtime_resources" in folder.parts
