"""Checks a tokenizer.json before the tokenizers library reads it.

Its normalizer and pre-tokenizer are small programs that run on every text: steps that double a text make gigabytes of a word, and
some regular expressions take a time that grows exponentially with its length.
"""

import re
from collections.abc import Iterator
from typing import Any

MOST_STEPS, MOST_BYTE_STEPS, MOST_AROUND = 16, 1, 2_000
MOST_PUT_BEFORE, MOST_CHARACTER_MAP, MOST_AFFIX = 16, 500_000, 64  # characters
PROBE = "A photo of <owl>, a caf\u00e9 \u732b \U0001f600 \uff11\u00bd."
QUANTIFIER = re.compile(r"([*+?]|\{\d*,?\d*\})[?+]?")


class TokenizerError(ValueError):
    """The file has a step that no published tokenizer needs. The message names it."""


def refuse_costly_steps(stated: dict[str, Any]) -> None:
    """stated: the content of a tokenizer.json. Raises TokenizerError."""
    for part in ("normalizer", "pre_tokenizer"):
        steps = list(_steps(stated.get(part)))
        kinds = [step.get("type") for step in steps]
        if len(steps) > MOST_STEPS or kinds.count("ByteLevel") > MOST_BYTE_STEPS or kinds.count("Precompiled") > 1:
            raise TokenizerError(f"its {part} has {len(steps)} steps, such as {', '.join(map(str, kinds))[:200]}")
        for step in steps:
            _refuse_step(step)
    if (around := sum(1 for _ in _inside(stated.get("post_processor")))) > MOST_AROUND:
        raise TokenizerError(f"its post_processor has {around:,} entries; at most {MOST_AROUND:,} are taken")
    model = stated.get("model")
    for name in ("continuing_subword_prefix", "end_of_word_suffix", "unk_token"):
        if isinstance(model, dict) and len(str(model.get(name))) > MOST_AFFIX:
            raise TokenizerError(f"its model's {name} has over {MOST_AFFIX} characters")


def refuse_panics(content: str) -> None:
    """content: of a tokenizer.json with steps that cost little. Raises TokenizerError for one on which the library panics, which no
    `except Exception` catches; what it refuses in an orderly way is told where the tokenizer is loaded.
    """
    from tokenizers import Tokenizer  # it takes a moment, and few tokenizers are looked at

    try:
        Tokenizer.from_str(content).encode(PROBE)
    except Exception:  # noqa: BLE001 - the library has no class of its own
        return
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # pyo3's, which cannot be imported
            raise
        raise TokenizerError(f"the tokenizers library breaks on it ({str(error)[:200]})") from None


def _steps(step: object, depth: int = 0) -> Iterator[dict[str, Any]]:
    if not isinstance(step, dict):
        return
    for inner in step.get("normalizers") or step.get("pretokenizers") or ():
        if depth >= MOST_STEPS:
            raise TokenizerError(f"its steps are nested more than {MOST_STEPS} deep")
        yield from _steps(inner, depth + 1)
    if step.get("type") != "Sequence":
        yield step


def _refuse_step(step: dict[str, Any]) -> None:
    told = step.get("pattern")
    pattern: dict[str, Any] = told if isinstance(told, dict) else {"String": told or ""}
    fixed, regex = pattern.get("String"), pattern.get("Regex")
    if step.get("type") == "Replace" and len(str(step.get("content"))) > max(1, len(str(fixed or ""))):
        raise TokenizerError(f"it replaces {str(fixed or regex)[:60]!r} by something longer, which makes texts grow")
    if len(str(step.get("prepend") or "")) > MOST_PUT_BEFORE:
        raise TokenizerError(f"it puts over {MOST_PUT_BEFORE} characters before a text")
    if len(str(step.get("precompiled_charsmap") or "")) > MOST_CHARACTER_MAP:
        raise TokenizerError(f"its map of characters has over {MOST_CHARACTER_MAP:,} signs")
    if regex is not None and repeats_a_choice(str(regex)):
        raise TokenizerError(f"its pattern {str(regex)[:200]!r} repeats a group in which something varies")


def repeats_a_choice(pattern: str) -> bool:
    """Whether a group with a quantifier or an alternative in it is repeated: then a text may be divided in exponentially many ways.

    >>> repeats_a_choice(r"(a+)+b"), repeats_a_choice(r"(?i:'s|'t)|\\s+(?!\\S)|[^(+]+")
    (True, False)
    """
    varies, closed, place = [False], False, 0
    while place < len(pattern):
        sign, quantifier = pattern[place], QUANTIFIER.match(pattern, place)
        if sign == "(":
            varies.append(False)
            place += 2 if pattern[place + 1 : place + 2] == "?" else 0  # the sign behind it is no quantifier
        elif sign == ")":
            closed = varies.pop() if len(varies) > 1 else False
            varies[-1] |= closed
            place += 1
            continue
        elif quantifier:
            if closed and quantifier[1] != "?":
                return True
            varies[-1], place = True, quantifier.end() - 1
        elif sign == "|":
            varies[-1] = True
        elif sign == "\\":
            place += 1
        elif sign == "[":
            place = _end_of_class(pattern, place)
        closed = False
        place += 1
    return False


def _end_of_class(pattern: str, place: int) -> int:
    """Where the bracket at `place` is closed. Classes may stand in classes."""
    depth = 0
    while place < len(pattern):
        if pattern[place] == "\\":
            place += 1
        elif pattern[place] == "[":
            depth += 1
        elif pattern[place] == "]":
            depth -= 1
            if depth == 0:
                return place
        place += 1
    return place


def _inside(value: object) -> Iterator[object]:
    """All entries, however deep."""
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield each
        yield from _inside(each)
