"""Local paths as they are typed, made absolute once: workers stand in other folders than the job.

URLs and paths of files and folders become a Storage, and models go through find_model; both do it themselves.
"""

from pathlib import Path

from pipeline.models.find import MINI
from pipeline.store.locations import local_path
from pipeline.store.storage import Storage


def judge_name(typed: str) -> str:
    """The name of a CLIP or of another judge, with the path in it made absolute.

    >>> judge_name("ViT-B-32-quickgelu:openai")
    'ViT-B-32-quickgelu:openai'
    >>> judge_name("local-dir:/models/./clip")
    'local-dir:/models/clip'
    """
    if typed.startswith("local-dir:"):
        return f"local-dir:{local_path(typed.removeprefix('local-dir:'))}"
    if typed.startswith("timm:") and typed.count(":") >= 2:
        _, architecture, file = typed.split(":", 2)
        return f"timm:{architecture}:{local_path(file)}"
    return local_path(typed) if typed != MINI and Path(typed).expanduser().is_dir() else typed


def shared_paths(run: Storage, *names: str) -> tuple[str, ...]:
    """Those local paths that workers have to see: among the names of models and judges, where the run itself is not in a
    store.
    """
    files = (name.removeprefix("local-dir:").rsplit(":", 1)[-1] for name in names if "://" not in name)
    return tuple(file for file in files if file.startswith("/")) if run.is_local else ()
