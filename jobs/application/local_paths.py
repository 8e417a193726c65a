"""Local paths as they are typed, made absolute once: workers stand in other folders than the job.

URLs and paths of files and folders become a Storage, and models go through find_model; both do it themselves.
"""

from pathlib import Path

from pipeline.models.find import MINI
from pipeline.store.locations import local_path


def absolute_name(typed: str) -> str:
    """The name of a model, a CLIP or another judge, with the path in it made absolute.

    >>> absolute_name("ViT-B-32-quickgelu:openai")
    'ViT-B-32-quickgelu:openai'
    >>> absolute_name("local-dir:/models/./clip")
    'local-dir:/models/clip'
    """
    for prefix in ("local-dir:", "transformers:"):
        if typed.startswith(prefix):
            return f"{prefix}{local_path(typed.removeprefix(prefix))}"
    if typed.startswith("timm:") and typed.count(":") >= 2:
        _, architecture, file = typed.split(":", 2)
        return f"timm:{architecture}:{local_path(file)}"
    return local_path(typed) if typed != MINI and Path(typed).expanduser().is_dir() else typed


def local_paths(*names: str) -> tuple[str, ...]:
    """Of names of models and judges, as find_model and absolute_name give them: the local paths in them.

    >>> local_paths("mini", "/models/sd", "timm:vit:/models/dino.safetensors", "s3://bucket/model", "runwayml/sd")
    ('/models/sd', '/models/dino.safetensors')
    """
    last = (name.removeprefix("local-dir:").rsplit(":", 1)[-1] for name in names if "://" not in name)
    return tuple(path for path in last if path.startswith("/"))
