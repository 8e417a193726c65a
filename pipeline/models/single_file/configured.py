"""The folder of a single file: the configurations and tokenizers that it lacks, in diffusers' layout and without weights."""

import hashlib
import json
import shutil
from pathlib import Path

from pipeline.models.mirrors import cache_folder, once
from pipeline.models.single_file.clip_vocabulary import merges, merges_file, vocabulary
from pipeline.models.single_file.contents import Kind

CONFIGS = Path(__file__).parent / "configs"


def configured(kind: Kind) -> Path:
    """The folder for a kind of file, made once on this machine. Raises OSError."""
    shipped = CONFIGS / kind.configs
    digest = hashlib.sha256(merges_file().read_bytes())
    for path in sorted(path for path in shipped.rglob("*") if path.is_file()):
        digest.update(path.relative_to(shipped).as_posix().encode() + path.read_bytes())

    def fill(folder: Path) -> None:
        shutil.copytree(shipped, folder, dirs_exist_ok=True)
        for tokenizer in folder.glob("tokenizer*"):
            if not (tokenizer / "vocab.json").exists():
                pairs = merges()
                (tokenizer / "vocab.json").write_text(json.dumps(vocabulary(pairs)), encoding="utf-8")
                (tokenizer / "merges.txt").write_text("\n".join(("#version: 0.2", *pairs, "")), encoding="utf-8")

    return once(cache_folder() / f"{kind.configs}-{digest.hexdigest()[:16]}", fill)
