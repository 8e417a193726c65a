"""Token authentication for a local Ray, so that it accepts only the processes of its own run.

Ray's control store, raylet, workers and job API always listen on the network, and anyone who reaches them can run code as the user.
So every run has a random token that its processes inherit; requests without it are refused.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

MODE, TOKEN = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"  # the names of the environment's variables


@contextmanager
def token_of_its_own() -> Iterator[None]:
    """Within the context, a Ray that is started requires a new token; afterwards the environment is restored.

    The token is in the environment only, where other accounts cannot read it, and in no log or file.
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
    """Makes Ray read the mode and token again: it reads the mode on import, which may have happened earlier, and the token once."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    # Ray does the same when it turns tokens on.
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
