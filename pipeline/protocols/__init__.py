"""Protocols: which pictures of a word are drawn and scored, and how. Every score names its protocol and version.

The shipped ones are the .toml files in this folder, in the format for users' own. A published one is never edited; a change
is a new version.
"""

from pathlib import Path

from pipeline.protocols.protocol import Protocol, ProtocolError
from pipeline.protocols.reading import read_protocol
from pipeline.text_files import MOST_TEXT_BYTES

__all__ = ["PROTOCOLS", "QUICK", "Protocol", "ProtocolError", "find_protocol"]

PROTOCOLS = {
    path.stem: read_protocol(path.read_bytes(), path.name, shipped=True)
    for path in sorted(Path(__file__).parent.glob("*.toml"))
}
QUICK = PROTOCOLS["quick"]


def find_protocol(name: str) -> Protocol:
    """A shipped protocol by its name, or a user's own by the path of its file (.toml). Raises ProtocolError."""
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    path = Path(name)
    if not path.is_file():
        raise ProtocolError(
            f"protocol {name!r}: there is no such file, and it is none of {', '.join(sorted(PROTOCOLS))}"
        )
    with path.open("rb") as file:
        return read_protocol(file.read(MOST_TEXT_BYTES + 1), str(path))
