"""A local Ray answers nobody but its own run.

Its control store, raylet, workers and job API listen on the network whatever they are told, and who reaches one runs code as
the user. So every run has a random token that its own processes inherit, and nobody else is answered.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

MODE, TOKEN = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"  # the names of the environment's variables


@contextmanager
def token_of_its_own() -> Iterator[None]:
    """Within, a Ray that is started asks for a new token; what the environment says of other clusters comes back after it.

    The token is in the environment only: other accounts cannot read it there, and it is in no log and no file.
    """
    before = {name: os.environ.get(name) for name in (MODE, TOKEN)}
    os.environ |= {MODE: "token", TOKEN: secrets.token_urlsafe(32)}
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


def _read_environment_again() -> None:
    """Ray reads its mode when it is first imported, which may have been before, and the token once a process."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    # As Ray itself does where it turns tokens on.
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
