"""Where a run goes when nobody said: never into the copy of the working directory that a submitted job runs in."""

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit


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
    stem = PurePosixPath(urlsplit(manifest).path if "://" in manifest else manifest.replace("\\", "/")).stem
    if root := environment.get("WORDMINT_OUTPUT"):
        return f"{root.rstrip('/')}/{stem}"
    if "://" in manifest:
        return f"{manifest.rsplit('/', 1)[0]}/{stem}"
    if is_job_copy(folder or Path.cwd()):
        return str(Path.home() / "wordmint-runs" / stem)
    return f"runs/{stem}"


def is_job_copy(folder: Path) -> bool:
    """Ray unpacks a job's working directory below `runtime_resources/working_dir_files` and removes it afterwards."""
    return "working_dir_files" in folder.parts and "runtime_resources" in folder.parts
