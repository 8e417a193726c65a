"""Makes local paths in the names of models and judges absolute, because workers run in other folders than the job.

Other paths need no help: Storage and find_model make theirs absolute themselves.
"""

from pathlib import Path

from pipeline.models.find import MINI
from pipeline.store.locations import local_path


def absolute_name(typed: str) -> str:
    """The name of a model, CLIP or other judge, with its path made absolute.

    >>> absolute_name("ViT-B-32-quickgelu:openai")
    'ViT-B-32-quickgelu:openai'
    >>> absolute_name("local-dir:/models/./clip")
    'local-dir:/models/clip'
    """
    for prefix in ("local-dir:", "transformers:", "vqa:"):
        if typed.startswith(prefix):
            return f"{prefix}{local_path(typed.removeprefix(prefix))}"
    if typed.startswith("timm:") and typed.count(":") >= 2:
        _, architecture, file = typed.split(":", 2)
        return f"timm:{architecture}:{local_path(file)}"
    return local_path(typed) if typed != MINI and Path(typed).expanduser().exists() else typed


def local_paths(*names: str) -> tuple[str, ...]:
    """The local paths in names of models and judges, as find_model and absolute_name return them.

    >>> local_paths("mini", "/models/sd", "timm:vit:/models/dino.safetensors", "s3://bucket/model", "runwayml/sd")
    ('/models/sd', '/models/dino.safetensors')
    """
    last = (name.removeprefix("local-dir:").rsplit(":", 1)[-1] for name in names if "://" not in name)
    return tuple(path for path in last if path.startswith("/"))
