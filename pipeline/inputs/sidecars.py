"""Files beside a picture: its caption, and a mask that shows where the concept is.

cat.jpg   cat.txt   cat.mask.png (or cat-masklabel.png)
"""

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.records import Concept, ImageSet, Role, Source
from pipeline.settings import InversionSettings, Masks
from pipeline.store.storage import Storage
from pipeline.text_files import MOST_SENTENCE, decode_text, is_one_line, refuse_long

CAPTION = ".txt"
MOST_CAPTION_BYTES = 4 * MOST_SENTENCE + 1_000  # as UTF-8 or UTF-16, with some line ends
MASKS = (".mask.png", "-masklabel.png")


@dataclass(frozen=True, slots=True)
class Extras:
    """What is wanted of a picture besides its pixels."""

    captions: bool = False
    masks: Masks = "off"

    @property
    def endings(self) -> dict[str, Role]:
        """Endings of the files to look for -> what such a file is."""
        captions: dict[str, Role] = {CAPTION: "caption"} if self.captions else {}
        masks: dict[str, Role] = dict.fromkeys(MASKS, "mask") if self.masks == "sidecar" else {}
        return captions | masks


def extras_of(settings: InversionSettings) -> Extras:
    return Extras(settings.captions, settings.masks)


def with_sidecars(
    pictures: Mapping[str, str | None], extras: Extras, options: Mapping[str, Any]
) -> tuple[list[Source], int]:
    """The pictures (URL -> identity) by URL, each followed by what lies beside it; and how many pictures that are.

    What is a mask by its name is no picture. The case of letters may differ, as in 2.jpg and 2.TXT. On a web server, which lists
    nothing, nothing lies beside anything.
    """
    masks = MASKS if extras.masks == "sidecar" else ()
    kept = [url for url in sorted(pictures) if not url.lower().endswith(masks)]
    stems = {posixpath.splitext(url)[0] for url in kept}
    listed: dict[str, dict[str, str | None]] = {}
    spellings: dict[tuple[str, str], list[str]] = {}  # folder, a name in lower case -> the names that are so spelled
    sources: list[Source] = []
    for url in kept:
        sources.append(Source(url, pictures[url]))
        if not extras.endings or Storage(url, options).is_web:
            continue
        folder, name = posixpath.split(url)
        if folder not in listed:
            listed[folder] = Storage(folder, options).identities()
            for each in listed[folder]:
                spellings.setdefault((folder, each.lower()), []).append(each)
        stem = posixpath.splitext(name)[0]
        for ending, role in extras.endings.items():
            # The nearest spelling; never one whose stem is another picture's: a.txt is not A.png's where there is an a.png.
            near = sorted(
                (each != stem + ending, not each.startswith(stem), each)
                for each in spellings.get((folder, f"{stem}{ending}".lower()), ())
                if each.startswith(stem) or f"{folder}/{each[: len(stem)]}" not in stems
            )
            if near:
                each = near[0][-1]
                sources.append(Source(f"{folder}/{each}", listed[folder][each], role=role, picture=url))
    return sources, len(kept)


def sidecar_of(picture: str, sources: Sequence[Source], role: Role) -> Source | None:
    """The caption or the mask of a picture, the first where it has several."""
    return next((each for each in sources if (each.role, each.picture) == (role, picture)), None)


def captions_of(concept: Concept, images: ImageSet) -> tuple[str | None, ...]:
    """Each picture's caption, the manifest's before that of a file; () where there is none at all.

    Raises ValueError for a caption of a picture that is not there.
    """
    names = [posixpath.basename(url) for url in images.urls]
    rejected = {posixpath.basename(each.url) for each in images.rejected}
    if unknown := sorted(concept.captions.keys() - set(names) - rejected):
        raise ValueError(f"the column captions names {unknown[0]!r}, which is not one of {', '.join(names[:5])}")
    from_files = images.captions or (None,) * len(names)
    captions = tuple(concept.captions.get(name) or caption for name, caption in zip(names, from_files, strict=True))
    return captions if any(captions) else ()


def caption_of(data: bytes) -> str:
    """Raises ValueError for one that says nothing, is no text, or is longer than a sentence."""
    if len(data) > MOST_CAPTION_BYTES:
        raise ValueError(f"has {len(data):,} bytes; at most {MOST_CAPTION_BYTES:,} are read")
    text = " ".join(decode_text(data).split())
    if not text or not is_one_line(text):
        raise ValueError("is empty or holds control characters")
    refuse_long(text)
    return text
