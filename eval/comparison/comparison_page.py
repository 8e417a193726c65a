"""The page of a comparison: its drawings, and its tables as they stand in the Markdown beside it."""

import re
from collections.abc import Sequence
from html import escape

STYLE = (
    "body{margin:2rem auto;max-width:76rem;padding:0 1rem;font:15px system-ui,sans-serif}"
    "svg{max-width:100%;height:auto;font:13px system-ui,sans-serif}.axis{stroke:#888}.bar{stroke:#9db4d6;stroke-width:1.5}"
    ".mark{fill:#1f3b63}.base{fill:#c0392b}.tick{fill:#666}.frontier{fill:none;stroke:#c0392b;stroke-dasharray:5 4}"
    ".label{paint-order:stroke;stroke:#fff;stroke-width:4;stroke-linejoin:round}"
    "figure{margin:0 auto;max-width:60rem}.wide{overflow-x:auto}table{border-collapse:collapse;margin:1.5rem 0;"
    "font-size:14px;font-variant-numeric:tabular-nums}th,td{padding:.3rem .6rem;text-align:left;border-bottom:1px solid #ddd}"
)
CELL_END = re.compile(r"(?<!\\)\|")


def page_of(title: str, drawings: Sequence[str], tables: Sequence[str]) -> str:
    """One self-contained HTML page. drawings: SVG. tables: Markdown of tables and plain lines; names in them are untrusted."""
    shown = "".join(f"<figure>{each}</figure>" for each in drawings)
    said = "".join(_html(block) for each in tables for block in each.strip().split("\n\n"))
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{STYLE}</style><h1>{escape(title)}</h1>{shown}{said}</html>\n"
    )


def _html(block: str) -> str:
    if not block.startswith("|"):
        return f"<p>{escape(block)}</p>"
    head, _, *rows = ([cell.strip() for cell in CELL_END.split(line)[1:-1]] for line in block.splitlines())
    return f'<div class="wide"><table>{_row("th", head)}{"".join(_row("td", row) for row in rows)}</table></div>'


def _row(tag: str, cells: Sequence[str]) -> str:
    texts = (escape(cell.replace("\\|", "|")) for cell in cells)
    return f"<tr>{''.join(f'<{tag}>{text}</{tag}>' for text in texts)}</tr>"
