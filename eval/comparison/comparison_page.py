"""The page of a comparison: its drawings and tables, and the same tables as Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text cells. Names in them are untrusted."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        lines = [self.head, ("---",) * len(self.head), *self.rows]
        return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def page_of(title: str, drawings: Sequence[str], tables: Sequence[Table], note: str = "") -> str:
    """One self-contained HTML page. drawings: trusted SVG. note: a line below the tables."""
    folder = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = (folder / "comparison.css").read_text(encoding="utf-8")
    return environment.get_template("comparison.html.j2").render(
        title=title, drawings=[Markup(each) for each in drawings], tables=tables, note=note, style=Markup(style)
    )
