"""Makes local paths in the names of models and judges absolute, because workers run in other folders than the job, and checks
that all machines see them.

Other paths need no help: Storage and find_model make theirs absolute themselves.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cluster.session import Session
from jobs.application.requests import NotStartedError
from pipeline.models.find import MINI
from pipeline.scheduling.shared_paths import UnseenPathError, seen_everywhere
from pipeline.store.locations import local_path
from pipeline.store.storage import Storage


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


@contextmanager
def seen_by_all(
    session: Session, output: Storage, paths: Sequence[str], *, shared_filesystem: bool
) -> Iterator[tuple[str, ...]]:
    """Checks that the cluster's nodes see these paths and a local output, and yields what every worker must see.

    shared_filesystem: the user says that all nodes see the output. Raises NotStartedError.
    """
    if session.local:
        yield ()
        return
    if session.several_nodes and output.is_local and not shared_filesystem:
        raise NotStartedError(
            f"--output {output.url} is a local path, but this cluster has or will have several nodes and each would write its "
            "own: give an object store's URL, or --shared-filesystem if all nodes see this path"
        )
    with ExitStack() as stack:
        try:
            seen = stack.enter_context(seen_everywhere(output, paths))
        except UnseenPathError as error:
            raise NotStartedError(str(error)) from error
        yield seen
