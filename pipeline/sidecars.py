"""Files that lie beside a picture and say something of it: its sentence, and what of it is the concept.

cat.jpg   cat.txt   cat.mask.png (or cat-masklabel.png)
"""

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.records import Source
from pipeline.settings import InversionSettings, Masks
from pipeline.storage import Storage

CAPTION = ".txt"
MASKS = (".mask.png", "-masklabel.png")


@dataclass(frozen=True, slots=True)
class Extras:
    """What besides its pixels is wanted of a picture."""

    captions: bool = False
    masks: Masks = "off"

    @property
    def endings(self) -> tuple[str, ...]:
        """Of the files to look for."""
        return (CAPTION,) * self.captions + MASKS * (self.masks == "sidecar")


def extras_of(settings: InversionSettings) -> Extras:
    return Extras(settings.captions, settings.masks)


def with_sidecars(
    pictures: Mapping[str, str | None], extras: Extras, options: Mapping[str, Any]
) -> tuple[list[Source], int]:
    """The pictures (URL -> identity) by URL, each followed by what lies beside it; and how many pictures that are.

    What is a mask by its name is no picture. On a web server, which lists nothing, nothing lies beside anything.
    """
    masks = MASKS if extras.masks == "sidecar" else ()
    kept = [url for url in sorted(pictures) if not url.lower().endswith(masks)]
    listed: dict[str, dict[str, str | None]] = {}
    found: list[Source] = []
    for url in kept:
        found.append(Source(url, pictures[url]))
        if not extras.endings or Storage(url, options).is_web:
            continue
        folder, name = posixpath.split(url)
        if folder not in listed:
            listed[folder] = Storage(folder, options).identities()
        stem = posixpath.splitext(name)[0]
        names = [f"{stem}{ending}" for ending in extras.endings]
        found += [
            Source(f"{folder}/{each}", listed[folder][each], beside=url) for each in names if each in listed[folder]
        ]
    return found, len(kept)


def beside(picture: str, sources: Sequence[Source], endings: tuple[str, ...]) -> Source | None:
    """What lies beside a picture with one of the endings."""
    return next((each for each in sources if each.beside == picture and each.url.endswith(endings)), None)


def caption_of(data: bytes) -> str:
    """Raises ValueError for one that says nothing or is no text."""
    try:
        text = " ".join(data.decode("utf-8-sig").split())
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8") from None
    if not text or not text.isprintable():
        raise ValueError("is empty or holds control characters")
    return text
