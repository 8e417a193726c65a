"""Reads the manifest: one row, one concept. A bad manifest is refused as a whole, with all problems in one message.

    read_manifest("s3://bucket/manifest.csv") -> Manifest(concepts=...)  or  ManifestError

manifest_rows.py turns CSV, JSONL and Parquet into rows; what a row must say stands here. manifest_problems.py has the limits.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from pipeline.inputs.listing import plain
from pipeline.inputs.manifest_problems import (
    MOST_BYTES,
    MOST_PROBLEMS,
    ManifestError,
    Problem,
    TooManyProblemsError,
    shortened,
)
from pipeline.inputs.manifest_rows import MAX_CELL, Row, read_rows
from pipeline.records import Concept, Failure, Kind
from pipeline.store.catalogue.carried import GAPS, common_type
from pipeline.store.model_spec import LONGEST_NAME
from pipeline.store.remote.object_stores import with_private
from pipeline.store.storage import Storage, StorageError, resolve_url, without_credentials
from pipeline.text_files import MOST_SENTENCE, is_one_line

__all__ = ["Manifest", "ManifestError", "Problem", "RowDefaults", "read_manifest"]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
NAME_RULE = "letters a-z and A-Z, digits, '.', '_' and '-', beginning with a letter or digit, at most 128 characters"
RESERVED = re.compile(r"con|prn|aux|nul|com[0-9]|lpt[0-9]", re.IGNORECASE)
MAX_NAME, MAX_WORDS, MAX_URL, MAX_VECTORS, MAX_LIST = 128, 200, 2048, 64, 1_000
COLUMNS = ("concept", "images", "initializer", "class", "kind", "placeholder", "vectors", "word_file", "captions")
REQUIRED = COLUMNS[:2]
READ_ELSEWHERE = ("subject",)  # carried along here, and read by protocols
OPTIONAL = COLUMNS[2:]
KINDS: dict[str, Kind] = {"object": "object", "style": "style", "negative": "negative"}


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest that was read.

    url: where from, without credentials. digest: sha256 of its bytes.
    failures: the rows set aside, where that was asked for. types: carried column -> one of `carried.TYPES` or "text", as
    the file has it; what CSV holds is text.
    """

    url: str
    digest: str
    concepts: tuple[Concept, ...]
    failures: tuple[Failure, ...] = ()
    types: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RowDefaults:
    """Values for rows that have none of their own. Raises ValueError.

    vectors: None: as many as the model's recipe has. initializer: of rows that name no class either.
    """

    vectors: int | None = None
    initializer: str | None = None

    def __post_init__(self) -> None:
        if self.vectors is not None and not 1 <= self.vectors <= MAX_VECTORS:
            raise ValueError(f"--vectors: vectors is {self.vectors}; it must be a whole number from 1 to {MAX_VECTORS}")
        text = self.initializer
        if text is not None and not (text.strip() and is_one_line(text) and len(text) <= MAX_WORDS):
            raise ValueError(
                f"--initializer: initializer is {text[:MAX_WORDS]!r}; it must be one line of at most {MAX_WORDS} characters"
            )


class _WrongError(Exception):
    """A cell that cannot be used: its column, its value, and what would be right."""

    def __init__(self, column: str, value: object, right: str) -> None:
        super().__init__(right)
        self.column, self.value, self.right = column, value, right


def read_manifest(
    url: str,
    storage_options: Mapping[str, Any] | None = None,
    skip_invalid: bool = False,
    defaults: RowDefaults | None = None,
    columns: Mapping[str, str] | None = None,
) -> Manifest:
    """Reads and checks the whole manifest.

    columns: our name of a column -> what this file calls it, where that is another.
    skip_invalid: rows that cannot be used become `failures` instead.
    Raises ManifestError with every problem in it; also with skip_invalid where the file as a whole cannot be read.
    """
    options = storage_options or {}
    shown = without_credentials(url, options)
    if unknown := (columns or {}).keys() - {*COLUMNS, *READ_ELSEWHERE}:
        right = f"means nothing; the columns are {', '.join((*COLUMNS, *READ_ELSEWHERE))}"
        raise ManifestError(shown, (Problem(0, f"--column {min(unknown)}", "", right),))
    try:
        file = Storage(url, with_private(options))
        data = file.read_bytes(at_most=MOST_BYTES)
        folder = resolve_url("..", file.join(""))
    except (StorageError, ValueError) as error:
        raise ManifestError(shown, (Problem(0, "", "", str(error)),)) from None
    rows, problems = read_rows(url, data, shown, COLUMNS, REQUIRED, columns)
    concepts: list[Concept] = []
    taken: dict[str, Concept] = {}  # names, and words as tokenizers see them, in lower case
    for row in rows:
        concept, wrong = _concept(row, folder, defaults or RowDefaults())
        if concept is not None:
            wrong = _clashes(concept, taken)
        if concept is None or wrong:
            problems += wrong
            if len(problems) > MOST_PROBLEMS:
                raise TooManyProblemsError(shown, sorted(problems, key=lambda problem: problem.line))
            continue
        taken[f"concept {concept.name.lower()}"] = concept
        taken |= {f"word {word}": concept for word in _words(concept)}
        concepts.append(concept)
    problems.sort(key=lambda problem: problem.line)
    if problems and not skip_invalid:
        raise ManifestError(shown, tuple(problems), good=len(concepts))
    failures = _failures(problems, _free_names(rows, taken))
    return Manifest(shown, hashlib.sha256(data).hexdigest(), tuple(concepts), failures, _types(rows))


def _free_names(rows: list[Row], taken: Mapping[str, Concept]) -> dict[int, str]:
    """line -> the row's name, where no good row has it: a failure must not go by a good concept's name."""
    names = {row.line: str(row.cells.get("concept") or "").strip() for row in rows}
    return {line: name for line, name in names.items() if _is_name(name) and f"concept {name.lower()}" not in taken}


def _failures(problems: list[Problem], names: Mapping[int, str]) -> tuple[Failure, ...]:
    """One failure a line, named after the concept where its name can be used and after the line where not."""
    by_line: dict[int, list[str]] = {}
    for problem in problems:
        by_line.setdefault(problem.line, []).append(str(problem))
    return tuple(
        Failure(names.get(line, f"line {line}"), "manifest", "; ".join(said)) for line, said in by_line.items()
    )


def _concept(row: Row, folder: str, defaults: RowDefaults) -> tuple[Concept | None, list[Problem]]:
    """The row as a concept, or all that is wrong with it."""
    problems: list[Problem] = []

    def checked(column: str, check: Any, *more: Any) -> Any:
        try:
            value = row.cells.get(column)
            return check(column, None if column in OPTIONAL and _is_gap(value) else value, *more)
        except _WrongError as wrong:
            problems.append(Problem(row.line, wrong.column, shortened(wrong.value), wrong.right))
            return None

    name = checked("concept", _name)
    images = checked("images", _images, folder)
    noun, initializer = checked("class", _phrase), checked("initializer", _phrase)
    kind, vectors = checked("kind", _kind), checked("vectors", _vectors, defaults.vectors or 1)
    placeholder, word_file = checked("placeholder", _placeholder, name), checked("word_file", _file, folder)
    captions = checked("captions", _captions)
    carried = {column: checked(column, _carried) for column in row.cells if column not in COLUMNS}
    if problems:
        return None, problems
    # A negative word has a class that is drawn against it, and nothing of which it is to be learned.
    words = initializer or (None if kind == "negative" else noun) or defaults.initializer
    concept = Concept(
        name=name, images=images, placeholder=placeholder, initializer=words, noun=noun, kind=kind, vectors=vectors,
        line=row.line, carried=carried, word_file=word_file, captions=captions,
    )  # fmt: skip
    return concept, []


def _types(rows: list[Row]) -> dict[str, str]:
    """Of the carried columns, gaps left out."""
    seen: dict[str, set[str]] = {}
    for row in rows:
        for column, value in row.cells.items():
            if column not in COLUMNS and value is not None and not _is_gap(value):
                seen.setdefault(column, set()).add(_type_of(value))
    return {column: common_type(types) for column, types in seen.items()}


def _type_of(value: object) -> str:
    """One of `carried.TYPES`, or "text"."""
    match value:
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float() | Decimal():
            return "number"
        case datetime():
            return "time with zone" if value.tzinfo else "time"
        case date():
            return "date"
    return "text"


def _is_gap(value: object) -> bool:
    return isinstance(value, str) and value.strip().lower() in GAPS


def _is_name(text: str) -> bool:
    return NAME.fullmatch(text) is not None and len(text) <= MAX_NAME


def _text(column: str, value: object, most: int = MAX_CELL) -> str:
    """A cell as text, "" when it is empty."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():  # a column of whole numbers with gaps, written by pandas
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise _WrongError(column, value, "must be text")
    text = value.strip()
    if bad := next((sign for sign in text if "\ud800" <= sign <= "\udfff"), None):
        byte = f"the byte 0x{ord(bad) - 0xDC00:02X} is" if "\udc80" <= bad <= "\udcff" else "it is"
        raise _WrongError(column, value, f"{byte} not UTF-8 (it may be Latin-1 or Windows-1252); save as UTF-8")
    if "\0" in text:
        raise _WrongError(column, value, "holds a NUL character; remove it, or save the file as UTF-8")
    if len(text) > most:
        raise _WrongError(column, value, f"has {len(text):,} characters, at most {most:,} are taken")
    return text


def _printable(column: str, value: object, most: int) -> str:
    text = _text(column, value, most)
    if not is_one_line(text):
        raise _WrongError(column, value, "must be one line without control characters")
    return text


def _name(column: str, value: object) -> str:
    text = _text(column, value)
    if not text:
        raise _WrongError(column, "", f"is missing; every row needs a name: {NAME_RULE}")
    if not _is_name(text):
        raise _WrongError(column, text, f"must be {NAME_RULE}, for it names the outputs")
    if RESERVED.fullmatch(text.split(".")[0]):
        raise _WrongError(column, text, "cannot name a file on Windows, whatever its ending; choose another")
    return text


def _images(column: str, value: object, folder: str) -> tuple[str, ...]:
    if isinstance(value, list):
        listed: object = value
    else:
        text = _text(column, value)
        listed = [text]
        if text.startswith(("[", "{")):
            try:
                listed = json.loads(text)
            except (ValueError, RecursionError):
                raise _WrongError(
                    column,
                    text,
                    'is no JSON list such as ["a.png", "b.png"]; a path that begins with a bracket is written "./[..."',
                ) from None
    if not isinstance(listed, list):
        raise _WrongError(column, value, "must be a folder, a glob, or a list of files")
    if len(listed) > MAX_LIST:
        raise _WrongError(
            column, value, f"lists {len(listed):,} files, at most {MAX_LIST:,} are taken: a word needs 3 to 5"
        )
    references = [_path(column, reference) for reference in listed]
    if not references or not all(references):
        raise _WrongError(column, value, "is missing or holds an empty name; give a folder, a glob, or a list of files")
    return tuple(_entry(column, reference, folder) for reference in references)


def _path(column: str, value: object) -> str:
    """A file or folder name; any characters and spaces are allowed."""
    text = _text(column, value, MAX_URL)
    return value if isinstance(value, str) and text else text


def _entry(column: str, reference: str, folder: str) -> str:
    """What the person wrote may be a pattern; the manifest's own folder is a plain name in it."""
    absolute = "://" in reference or reference.startswith(("/", "~"))
    return _resolved(column, reference, folder if absolute else plain(folder))


def _captions(column: str, value: object) -> dict[str, str]:
    """From an object or a list of pairs, as text in CSV. Parquet has null where a row has none."""
    captions = value
    if not isinstance(value, dict | list):
        text = _text(column, value)
        try:
            captions = json.loads(text, parse_constant=lambda _: None) if text else {}
        except (ValueError, RecursionError):
            captions = None
    if isinstance(captions, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in captions):
        captions = {str(name): said for name, said in captions}  # a map, as pandas writes it into JSON
    if not isinstance(captions, dict):
        raise _WrongError(column, value, 'is no JSON object such as {"1.jpg": "my {} asleep"}, file names to sentences')
    if len(captions) > MAX_LIST:
        raise _WrongError(column, value, f"has {len(captions):,} sentences, at most {MAX_LIST:,} are taken")
    return {name: _printable(column, said, MOST_SENTENCE) for name, said in captions.items() if said is not None}


def _file(column: str, value: object, folder: str) -> str | None:
    reference = _path(column, value)
    return _resolved(column, reference, folder) if reference else None


def _resolved(column: str, reference: str, folder: str) -> str:
    try:
        return Storage(resolve_url(reference, folder)).url
    except ValueError as error:
        raise _WrongError(column, reference, str(error)) from None


def _phrase(column: str, value: object) -> str | None:
    return _printable(column, value, MAX_WORDS) or None


def _kind(column: str, value: object) -> Kind:
    text = _text(column, value) or "object"
    if text not in KINDS:
        raise _WrongError(column, text, "must be 'object', 'style' or 'negative'")
    return KINDS[text]


def _vectors(column: str, value: object, default: int) -> int:
    if value is None:
        return default
    # pandas writes a whole number as 2.0 where its column has gaps, and 2,0 in some languages.
    number = re.fullmatch(r"([0-9]{1,3})([.,]0*)?", str(value).strip())
    if isinstance(value, bool) or number is None or not 1 <= int(number[1]) <= MAX_VECTORS:
        raise _WrongError(column, value, f"must be a whole number from 1 to {MAX_VECTORS}")
    return int(number[1])


def _placeholder(column: str, value: object, name: str | None) -> str:
    text = _text(column, value) or f"<{name}>"
    if len(text) > LONGEST_NAME or not text.isprintable() or any(sign.isspace() for sign in text):
        raise _WrongError(column, text, f"must be printable, without spaces, at most {LONGEST_NAME} characters")
    if unicodedata.normalize("NFC", text) != text:
        raise _WrongError(column, text, "must be written in composed characters (Unicode NFC): tokenizers compose them")
    return text


def _carried(column: str, value: object) -> str:
    match value:
        case None | str():
            return _text(column, value)
        case date() | time():  # a datetime is a date
            return _text(column, value.isoformat())
        case Decimal():
            return _text(column, str(value))
    return _text(column, json.dumps(value, default=str, ensure_ascii=False))


def _words(concept: Concept) -> list[str]:
    """All tokens that the placeholder takes in a tokenizer, in lower case: tok, tok_1, tok_2 where it has 3 vectors."""
    word = concept.placeholder.lower()
    return [word, *(f"{word}_{index}" for index in range(1, concept.vectors))]


def _clashes(concept: Concept, taken: Mapping[str, Concept]) -> list[Problem]:
    """Clashes of the concept's name or placeholder with those of rows above it."""
    if first := taken.get(f"concept {concept.name.lower()}"):
        same = "is already" if first.name == concept.name else f"differs only in case from {first.name!r}"
        right = f"{same} in line {first.line}; give one of the two another name"
        return [Problem(concept.line, "concept", shortened(concept.name), right)]
    if other := next((taken[f"word {word}"] for word in _words(concept) if f"word {word}" in taken), None):
        right = (
            f"clashes with {shortened(other.placeholder)} in line {other.line}: tokenizers write words in lower case, "
            "and a word's further vectors are called word_1, word_2, ...; choose another"
        )
        return [Problem(concept.line, "placeholder", shortened(concept.placeholder), right)]
    return []
