"""Text files as users save them: one reader for all, and one rule for the characters allowed in a line."""

import codecs
import re
import unicodedata
from collections.abc import Iterable

MARKS = (  # how a file says its encoding; UTF-32 first, for its mark begins like that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
MOST_TEXT_BYTES = 1_000_000  # of a list of sentences
MOST_SENTENCE = 2_048  # characters: models read some hundred
# What a terminal obeys: control characters except line ends, line separators, and signs that reorder a line.
OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
REFUSED = ("Cc", "Zl", "Zp", "Cs")  # control characters, line and paragraph separators, unpaired surrogates


def decode_text(data: bytes, errors: str = "strict") -> str:
    """The text of a file in UTF-8, with or without a byte-order mark, or in UTF-16 or UTF-32 with one.

    errors: what is done with bytes that are not UTF-8, as for bytes.decode.
    Raises ValueError that says which line is wrong and what to save the file as.

    >>> decode_text("a photo".encode("utf-16"))
    'a photo'
    """
    encoding = next((name for mark, name in MARKS if data.startswith(mark)), "utf-8")
    start = data[:200]
    if encoding == "utf-8" and start.count(0) > len(start) // 4:
        at = data.index(0)
        raise ValueError(
            f"line {data[:at].count(10) + 1}: the byte 0x00 at position {at} shows that the file is UTF-16 without a "
            "byte-order mark, or no text; save it as UTF-8 (in Excel: CSV UTF-8)"
        )
    try:
        return data.decode(encoding, errors if encoding == "utf-8" else "strict").lstrip("\ufeff")
    except UnicodeDecodeError as error:
        line = data[: error.start].decode(encoding, "ignore").count("\n") + 1
        perhaps = " (it may be Latin-1 or Windows-1252)" if encoding == "utf-8" else ""
        byte = data[error.start]
        raise ValueError(
            f"line {line}: the byte 0x{byte:02X} is not {encoding.upper()}{perhaps}; save the file as UTF-8"
        ) from None


def lines_of(data: bytes) -> list[str]:
    """The lines of a text file that hold something, stripped.

    Raises ValueError as `decode_text` does, and for a control character in a line; tabs may stand in it.
    """
    lines = [line.strip() for line in re.split("\r\n|\r|\n", decode_text(data))]
    for number, line in enumerate(lines, 1):
        if not is_one_line(line.replace("\t", " ")):
            raise ValueError(f"line {number}: {line[:60]!a} holds a control character or a line separator; remove it")
    return [line for line in lines if line]


def sentences_of_file(data: bytes) -> list[str]:
    """The lines of a text file as sentences. Raises ValueError as `lines_of` does, and for a long file or line."""
    if len(data) > MOST_TEXT_BYTES:
        raise ValueError(f"has more than {MOST_TEXT_BYTES:,} bytes; at most so many are read")
    lines = lines_of(data)
    for line in lines:
        refuse_long(line)
    return lines


def refuse_long(sentence: str) -> None:
    """Raises ValueError for a sentence that no model reads: a tokenizer would work on all of it."""
    if len(sentence) > MOST_SENTENCE:
        raise ValueError(
            f"{sentence[:60]!a}... has {len(sentence):,} characters; at most {MOST_SENTENCE:,} are taken for a sentence"
        )


def visible(text: str, *, lines: bool = False) -> str:
    """The text with what a terminal would obey spelled out. lines: line ends stay, for a text that we laid out ourselves.

    >>> visible("owl\\n\\x1b[2J.png")
    'owl\\\\n\\\\x1b[2J.png'
    """
    shown = OBEYED.sub(lambda sign: sign[0].encode("unicode_escape").decode(), text)
    return shown if lines else shown.replace("\n", "\\n")


def paragraph(lines: Iterable[str]) -> str:
    """Lines of ours as one text. What stands behind a line end inside of one is indented, so that it passes for none of ours.

    >>> paragraph(["failed    1", "  owl: bad\\nreport    elsewhere"])
    'failed    1\\n  owl: bad\\n      report    elsewhere'
    """
    return "\n".join(visible(line, lines=True).replace("\n", "\n      ") for line in lines)


def is_one_line(text: str) -> bool:
    """Whether the text has no control character, line separator or unpaired surrogate. All spaces and joiners may stand in it."""
    return not any(unicodedata.category(sign) in REFUSED for sign in text)
