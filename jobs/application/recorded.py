"""Which models a run folder may name: only those that ship with wordmint are loaded because run.json names them.

A run folder may come from somebody else, and the name of a model or judge decides which files are opened.
"""

from pipeline.models.find import MINI


class UnnamedError(ValueError):
    """A run folder names a model or judge that does not ship with wordmint and that the command did not name."""


def allowed(recorded: object, given: str | None, option: str, url: str) -> str:
    """The name to load: the one `given` with `option`, else the one `recorded` in run.json if it ships with wordmint.

    url: of the run, without credentials. Raises UnnamedError.
    """
    if given:
        return given
    if recorded == MINI:
        return MINI
    raise UnnamedError(
        f"{url}/run.json names {str(recorded)[:200]!r} for {option}; what a run folder names is loaded only if it ships with "
        f"wordmint: if you trust it, say {option} {str(recorded)[:200]}"
    )
