"""What a run folder says it was made by, and what of that is loaded on its word: nothing but what ships with this.

A run folder may be a stranger's, and whoever names a model or a judge names files that are opened.
"""

from pipeline.models.find import MINI


class UnnamedError(ValueError):
    """A run folder names a model or a judge that the person who gave the command has not named."""


def allowed(recorded: object, given: str | None, option: str, url: str) -> str:
    """The name to load by: what was `given` with `option`, else what run.json has `recorded` if that is shipped.

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
