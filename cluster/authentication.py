"""Token authentication for a local Ray, so that it accepts only the processes of its own run.

Ray's control store, raylet, workers and job API always listen on the network, and anyone who reaches them can run code as the user.
So every run has a random token that its processes inherit; requests without it are refused.
"""

import os
import secrets
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from cluster.addresses import fits_sockets

# The names of the environment's variables.
MODE, TOKEN, FOLDER = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_TMPDIR"
LONGEST = "wordmint-4294967295"  # name of a folder, by a user's number


@contextmanager
def token_of_its_own(settings: Mapping[str, str]) -> Iterator[None]:
    """Within the context, a Ray that is started requires a new token; afterwards the environment is restored.

    The token is in the environment only, where other accounts cannot read it, and in no log or file.
    settings: other variables of Ray's, for those that the environment does not have.
    """
    own = {name: value for name, value in settings.items() if not os.environ.get(name)}
    own |= {MODE: "token", TOKEN: secrets.token_urlsafe(32)}
    before = {name: os.environ.get(name) for name in own}
    os.environ |= own
    _read_environment_again()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        _read_environment_again()


def folder_of_its_own() -> dict[str, str]:
    """The variable of Ray's with which it keeps its sockets and logs where no other account of the machine may enter. Ray's own
    default is a folder in which everybody may write.
    """
    parent = Path(tempfile.gettempdir())
    if os.environ.get(FOLDER) or not fits_sockets(str(parent / LONGEST)):
        return {}
    return {FOLDER: str(private_folder(parent))}


def private_folder(parent: Path) -> Path:
    """A folder of this account alone; a new one where somebody else has taken its name, or may enter it."""
    folder = parent / f"wordmint-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    there = folder.lstat()
    if stat.S_ISDIR(there.st_mode) and there.st_uid == os.getuid() and not there.st_mode & 0o077:
        return folder
    return Path(tempfile.mkdtemp(prefix="wordmint-", dir=parent))


def _read_environment_again() -> None:
    """Makes Ray read the mode and token again: it reads the mode on import, which may have happened earlier, and the token once."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    # Ray does the same when it turns tokens on.
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
