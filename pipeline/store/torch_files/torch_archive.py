"""Files of torch.save, read without unpickling: an archive, and before torch 1.6 one pickle after another.

The tensors are built from the file's own bytes, after what is said of them was compared with what is there.
"""

import io
import sys
import zipfile
from collections.abc import Callable
from typing import Any

import torch

from pipeline.store.torch_files.pickled_text import MOST_BYTES, PickledTextError, StoredTensor, read_pickled

OLD = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # a number by which files before torch 1.6 begin
VERSION = 1001  # of what follows it
BEGINNINGS = (b"PK\x03\x04", OLD)
MOST_ENTRIES = 10_000  # of an archive; each tensor of a file of torch.save is one
MOST_NUMBERS = 1 << 62
ENTRY = b"PK\x01\x02"  # before each entry of an archive's list


class TorchFileError(ValueError):
    """The bytes are no file of torch.save, or it holds more than plain tensors. The message is a sentence without its end."""


class TorchFile:
    """What the file holds: `content`, with a StoredTensor for each tensor."""

    def __init__(self, data: bytes) -> None:
        """data: begins as one of BEGINNINGS. Raises TorchFileError."""
        try:
            content, self._bytes_of = _old(data) if data.startswith(OLD) else _archive(data)
        except PickledTextError as error:
            raise TorchFileError(f"it is not read as plain tensors: {error}") from error
        self.content = content
        self._read: dict[str, bytearray] = {}

    def tensor(self, stored: StoredTensor) -> torch.Tensor:
        """On the CPU. Tensors over the same numbers share them. Raises TorchFileError where the numbers are not as it says."""
        numbers, kind = stored.numbers, getattr(torch, stored.numbers.kind)
        if numbers.key not in self._read:
            data = self._bytes_of(numbers.key)
            if len(data) != numbers.count * kind.itemsize:
                raise TorchFileError(
                    f"it claims {numbers.count:,} numbers of a tensor, and holds {len(data):,} bytes of them"
                )
            self._read[numbers.key] = bytearray(data)  # a copy, as torch wants memory that can be written
        last, every = stored.offset, 1
        for side, step in zip(stored.size, stored.stride, strict=True):
            last, every = last + (side - 1) * step, every * side
        if not every or last >= numbers.count or every > MOST_NUMBERS:
            raise TorchFileError(f"it has a tensor of shape {stored.size} which is empty or goes beyond its numbers")
        flat = torch.frombuffer(self._read[numbers.key], dtype=kind)
        shaped = flat.as_strided(stored.size, stored.stride, stored.offset)
        return (
            torch._neg_view(shaped) if stored.negative else shaped
        )  # a view: the shape can be far larger than the numbers


def _archive(data: bytes) -> tuple[Any, Callable[[str], bytes]]:
    if data.count(ENTRY) > MOST_ENTRIES:
        raise TorchFileError(f"it is an archive of more than {MOST_ENTRIES:,} files, which no word is")
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except Exception as error:  # a broken archive can raise anything
        raise TorchFileError(f"it is an archive that cannot be opened: {str(error)[:100]!a}") from error
    entries = archive.infolist()
    pickles = [entry.filename for entry in entries if entry.filename.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise TorchFileError("it is a ZIP archive, not a word file: unpack it")
    if sum(entry.file_size for entry in entries) > len(data):
        raise TorchFileError("it would unpack to more than its own size, which no file of torch.save does")
    folder = pickles[0].removesuffix("data.pkl")
    if archive.getinfo(pickles[0]).file_size > MOST_BYTES:
        raise TorchFileError(f"its pickle has more than {MOST_BYTES:,} bytes, larger than that of any word")

    def read(name: str) -> bytes:
        try:
            entry = archive.getinfo(folder + name)
            content = archive.read(entry) if entry.compress_type == zipfile.ZIP_STORED else None
        except Exception as error:  # a broken archive can raise anything
            raise TorchFileError(f"its part {name[:60]!a} is missing or broken") from error
        if content is None:
            raise TorchFileError(f"its part {name[:60]!a} is compressed, and torch.save compresses nothing")
        return content

    if folder + "byteorder" in archive.namelist() and read("byteorder").decode("latin-1") != sys.byteorder:
        raise TorchFileError("it was saved on a machine with another order of bytes: save it anew as safetensors")
    return read_pickled(io.BytesIO(read("data.pkl"))).value, lambda key: read(f"data/{key}")


def _old(data: bytes) -> tuple[Any, Callable[[str], bytes]]:
    stream = io.BytesIO(data)
    stream.seek(len(OLD))
    version, machine = read_pickled(stream).value, read_pickled(stream).value
    little = machine.get("little_endian") if isinstance(machine, dict) else None
    if type(version) is not int or version != VERSION or little is not (sys.byteorder == "little"):
        raise TorchFileError("it is an unknown kind of old torch file, or from a machine with another order of bytes")
    content, keys = read_pickled(stream), read_pickled(stream).value
    stored: dict[str, bytes] = {}
    for key in keys if isinstance(keys, list) else ():
        numbers = content.numbers.get(key) if isinstance(key, str) else None
        if numbers is None or key in stored or int.from_bytes(stream.read(8), "little") != numbers.count:
            raise TorchFileError("its numbers are not those that its tensors are said to be made of")
        size = numbers.count * getattr(torch, numbers.kind).itemsize
        stored[key] = stream.read(size)
        if len(stored[key]) != size:
            raise TorchFileError("it is cut short")
    if stored.keys() != content.numbers.keys():
        raise TorchFileError("it has not all numbers that its tensors are said to be made of")
    return content.value, stored.__getitem__
