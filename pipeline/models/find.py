"""Finds a model and digests its weights without loading it, so that a finished run is recognised quickly."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.models.configuration import QUANTISED, TEXTS, ConfigurationError, read_configuration, refuse_parts
from pipeline.models.families import FAMILIES
from pipeline.models.mirrors import mirrored, mirrored_file
from pipeline.models.single_file.configured import configured
from pipeline.models.single_file.contents import ENDINGS, GGUF, SAFE, SingleFileError, read_contents, refuse_pickle
from pipeline.models.weights.scales import refuse_unstated_scales
from pipeline.models.weights.weight_files import VARIANTS, weight_files
from pipeline.store.locations import local_path
from pipeline.store.storage import Storage, StorageError, without_credentials

MINI = "mini"
# Whoever sees its pictures has to know what it is.
MINI_SAID = "the shipped model draws 64-pixel drawings; for photographs, name a real model with --model"
MINI_FOLDER = Path(__file__).parents[1] / "mini" / "model"
HUB = "hf://"  # may be before a hub id, as fsspec writes it
# owner/name, a commit, and a single file.
HUB_ID = re.compile(rf"([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w.-]+))?(?:/(.+(?:{'|'.join(map(re.escape, ENDINGS))})))?")
# All folders that something is loaded from.
CONFIGURED = sorted(
    {"scheduler", "tokenizer", "tokenizer_2", *(part for each in FAMILIES.values() for part in each.weights)}
)


class ModelError(Exception):
    """A model cannot be used. The message says what was looked for, where, and what to do."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model on local disk. name: as the user gave it, a path made absolute.

    folder: in diffusers' layout. digest: sha256 of the names and bytes of the weights that are loaded. config_digest: sha256 of its
    scheduler's and its tokenizers' files, "" if nobody asked. file: that holds all of its weights; then the folder has none.
    """

    name: str
    folder: Path
    family: str
    digest: str
    config_digest: str = ""
    file: Path | None = None

    @property
    def revision(self) -> str | None:
        """The commit of the hub's repository that it is; None for a model that is no hub's."""
        if self.file is None:
            return self.folder.name if self.folder.parent.name == "snapshots" else None
        return next((each.name for each in self.file.parents if each.parent.name == "snapshots"), None)


def find_model(name: str, options: Mapping[str, Any] | None = None) -> Model:
    """A model named "mini", by path, by URL (copied once a node, mirrors.py), or by hub id, owner/name or
    owner/name@commit (once into the hub's own cache). A path or URL may be of a single file (single_file/), and so may a hub id:
    owner/name/FILE.safetensors.

    options: for the store that the URL is in.
    Raises ModelError when there is no such model, it is of a family we do not know, or it has only pickled weights.
    """
    folder = MINI_FOLDER if name == MINI else Path(name).expanduser()
    is_hubs = name.startswith(HUB) or not ("://" in name or folder.exists())
    if is_hubs:
        folder = _download(name)
    elif "://" in name:
        folder = _mirrored(name, options or {})
    elif name != MINI:
        name = local_path(name)
    if folder.is_file():
        return _single_file(name, folder)
    index = folder / "model_index.json"
    if not index.is_file():
        single = ", or a single file of the hub, owner/name/FILE.safetensors" if is_hubs else ""
        raise ModelError(
            f"model {name!r}: {folder} has no model_index.json; a model is a folder in diffusers' layout{single}"
        )
    try:
        family = read_configuration(index).get("_class_name")
    except ConfigurationError as error:
        raise ModelError(f"model {name!r}: {error}") from error
    try:
        refuse_parts(folder, CONFIGURED)
    except ConfigurationError as error:
        raise ModelError(f"model {name!r} in {folder} does not load: {error}") from error
    if not isinstance(family, str) or family not in FAMILIES:
        what = f"is a {str(family)[:100]}" if family else "names no class in model_index.json"
        raise ModelError(f"model {name!r} {what}; this version knows {', '.join(sorted(FAMILIES))}")
    parts = FAMILIES[family].weights
    for part in parts:
        if not (folder / part).is_dir():
            raise ModelError(f"model {name!r}: {folder} has no folder {part}/")
        try:
            loaded = weight_files(folder / part)[1]
            if not read_configuration(folder / part / "config.json").get(QUANTISED):
                refuse_unstated_scales(loaded)
        except ValueError as error:
            raise ModelError(f"model {name!r}: {error}") from error
        if not loaded and (ggufs := sorted(path.name for path in (folder / part).glob(f"*{GGUF}"))):
            raise ModelError(
                f"model {name!r}: {folder / part} has {ggufs[0]} alone, whose weights are quantised and are not read; take "
                f"the part's {SAFE} files in float16 or bfloat16"
            )
        if not loaded:
            raise ModelError(
                f"model {name!r}: {folder / part} has no .safetensors file; pickled weights can run code and are not "
                "loaded: convert them with diffusers' save_pretrained(..., safe_serialization=True)"
            )
    return Model(name, folder, family, _digest(folder, parts), _config_digest(folder))


def _single_file(name: str, path: Path) -> Model:
    try:
        contents = read_contents(path)
        folder = configured(contents.kind)
        return Model(name, folder, contents.kind.pipeline, contents.digest(), _config_digest(folder), path)
    except (SingleFileError, OSError) as error:
        raise ModelError(f"model {name!r}: {error}") from error


def _digest(folder: Path, parts: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for path in sorted(file for part in parts for file in weight_files(folder / part)[1]):
        digest.update(str(path.relative_to(folder)).encode())
        with path.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


def _config_digest(folder: Path) -> str:
    """Of configurations only what they say: another version of the libraries writes them in another order, with its own number."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("scheduler/scheduler_config.json")) + sorted(folder.glob("tokenizer*/*")):
        if path.suffix not in TEXTS or not path.is_file():
            continue
        content = path.read_bytes()
        if path.name.endswith("_config.json"):
            said = {name: value for name, value in read_configuration(path).items() if not name.startswith("_")}
            content = json.dumps({**said, "name_or_path": None}, sort_keys=True).encode()
        digest.update(f"{path.relative_to(folder).as_posix()}\0".encode() + hashlib.sha256(content).digest())
    return digest.hexdigest()


# A repository often holds the same weights several times over: as one file, in other precisions, for other libraries.
PARTS = sorted({part for each in FAMILIES.values() for part in each.weights})
WANTED, UNWANTED = (*(f"*{kind}" for kind in TEXTS), *(f"{part}/*.safetensors" for part in PARTS)), (VARIANTS,)


def _mirrored(url: str, options: Mapping[str, Any]) -> Path:
    try:
        if Storage(url, options).is_web:
            raise ModelError(
                f"model {without_credentials(url, options)!r}: a web server does not list its files; copy the model to a store or "
                "a disk, or name one of the Hugging Face hub as owner/name or owner/name/FILE.safetensors"
            )
        if url.endswith(ENDINGS):
            refuse_pickle(url)
            return mirrored_file(url, options)
        return mirrored(url, options, WANTED, UNWANTED)
    except (StorageError, ValueError) as error:
        raise ModelError(f"model {without_credentials(url, options)!r}: {error}") from error


def _download(name: str) -> Path:
    """The snapshot in the hub's own cache, or the one file. Parts come without the variants of their weights, unless they have
    nothing else.
    """
    from huggingface_hub import hf_hub_download, snapshot_download

    if (named := HUB_ID.fullmatch(name.removeprefix(HUB))) is None:
        raise ModelError(
            f"model {name!r}: there is no such folder, and it is not a hub id (owner/name[@commit][/FILE{SAFE}]), a URL or '{MINI}'"
        )
    repository, revision, file = named.groups()
    try:
        if file:
            refuse_pickle(name)
            return Path(hf_hub_download(repository, file, revision=revision))
        folder = Path(
            snapshot_download(
                repository, revision=revision, allow_patterns=list(WANTED), ignore_patterns=list(UNWANTED)
            )
        )
        if bare := [part for part in PARTS if (folder / part).is_dir() and not weight_files(folder / part)[1]]:
            variants = [f"{part}/{VARIANTS}" for part in bare]
            snapshot_download(repository, revision=revision, allow_patterns=variants)
    except SingleFileError as error:
        raise ModelError(f"model {name!r}: {error}") from error
    except (OSError, ValueError) as error:  # the hub's own errors are both, depending on what went wrong
        said = " ".join(str(error).split())
        raise ModelError(f"model {name!r}: not a folder here, and the hub did not give it: {said}") from error
    return folder
