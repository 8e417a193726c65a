"""A protocol's file, TOML, read and checked: every error at once, each with its place and what would be right.

# Only [edits] is required; everything else is as in quick unless it is said.
plain_images = 8            # pictures a prompt: of the plain prompt,
edit_images = 4             # of each edit prompt,
untrained_images = 4        # of each with the word as it was before training: the floors,
pair_images = 4             # and of each prompt with two words
sampler = "dpm++"           # dpm++, ddim or euler
steps = 20
guidance = 5.0
seeds = "concept"           # or "class": words of a class begin with the same noise, and share the pictures without a word

[plain]
object = "a photo of {}"    # {} is the word, {class} the manifest's coarse noun

[edits]                     # a list a kind, or a table of lists by difficulty
object = ["a photo of {} on the moon", "a {class} like {} made of glass"]

[pairs]                     # two words in one picture; {a} is an object, {b} an object or a style
object = ["a photo of {a} and {b}"]
style = ["{a} in the style of {b}"]
"""

import hashlib
import re
import tomllib
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, get_args

from pipeline.protocols.protocol import Protocol, ProtocolError
from pipeline.settings import Sampler
from pipeline.text_files import MOST_SENTENCE, MOST_TEXT_BYTES, decode_text, is_one_line

DIFFICULTIES = ("background", "style", "composition")
PLAIN = {"object": "a photo of {}", "style": "a painting in the style of {}"}
COUNTS = {"plain_images": 8, "edit_images": 4, "untrained_images": 4, "pair_images": 4, "steps": 20}
KEYS = {*COUNTS, "name", "version", "about", "sampler", "guidance", "seeds", "plain", "edits", "subjects", "pairs"}
MOST = 1000  # pictures a prompt, or steps
NESTED = re.compile(
    r"""[\w"'-](?:[ \t]*\.[ \t]*[\w"'-]+){32}"""
)  # the parser takes the square of the time for each part
NAME = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_-")


def read_protocol(data: bytes, place: str, *, shipped: bool = False) -> Protocol:
    """place: what the file is called in errors; its stem is the protocol's name unless it names itself.

    Raises ProtocolError with one line for each thing that is wrong.
    """
    if len(data) > MOST_TEXT_BYTES:
        raise ProtocolError(f"{place}: has {len(data):,} bytes; at most {MOST_TEXT_BYTES:,} are read")
    wrong: list[str] = []
    try:
        text = decode_text(data)
        if NESTED.search(text):
            raise ValueError("a key of more than 32 parts")
        content = tomllib.loads(text)
        fields = _protocol(content, PurePath(place).stem.lower().replace(".", "-"), wrong)
    except (ValueError, RecursionError) as error:  # nested too deeply, or a number of thousands of digits
        raise ProtocolError(f"{place}: not a TOML file: {error}") from error
    if wrong:
        raise ProtocolError("\n".join(f"{place}: {each}" for each in wrong))
    digest = "" if shipped else hashlib.sha256(data).hexdigest()
    return Protocol(**fields, digest=digest)


def _protocol(content: Mapping[str, Any], stem: str, wrong: list[str]) -> dict[str, Any]:
    known = ", ".join(sorted(KEYS))
    wrong += [f"{key!r} means nothing here; known are {known}" for key in sorted(content.keys() - KEYS)]
    name = content.get("name", stem)
    if not (isinstance(name, str) and name and len(name) <= 64 and NAME.issuperset(name)):
        wrong.append(f"name is {name!r}; it takes lower-case letters a-z, digits, '_' and '-'")
    counts = {key: _count(key, content.get(key, default), wrong) for key, default in COUNTS.items()}
    guidance = content.get("guidance", 5.0)
    if isinstance(guidance, bool) or not isinstance(guidance, int | float) or not 0 <= guidance <= 100:
        wrong.append(f"guidance is {guidance!r}; it takes a number from 0 to 100")
        guidance = 0.0
    sampler = content.get("sampler", "dpm++")
    if sampler not in get_args(Sampler):
        wrong.append(f"sampler is {sampler!r}; it takes one of {', '.join(get_args(Sampler))}")
    seeds = content.get("seeds", "concept")
    if seeds not in ("concept", "class"):
        wrong.append(f"seeds is {seeds!r}; it takes concept or class")
    edits, difficulty = _edits(content.get("edits"), wrong)
    plain = _table("plain", content.get("plain", PLAIN), wrong)
    for kind, template in plain.items():
        if kind not in PLAIN:
            wrong.append(f"[plain] {kind} means nothing; the kinds are {', '.join(PLAIN)}")
        _check_template(f"[plain] {kind}", template, wrong)
    subjects = _table("subjects", content.get("subjects", {}), wrong)
    for noun, wanted in subjects.items():
        if wanted not in edits:
            wrong.append(f"[subjects] {noun} is {wanted!r}; the lists of [edits] are {', '.join(sorted(edits))}")
    return {"name": name, "version": _count("version", content.get("version", 1), wrong), "plain": plain,
            "edits": edits, "sampler": sampler, "guidance": float(guidance), "subjects": subjects,
            "difficulty": difficulty, "seeds": seeds, "pairs": _pairs(content.get("pairs", {}), wrong), **counts}  # fmt: skip


def _edits(given: object, wrong: list[str]) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """(list -> its prompts, prompt -> its difficulty)."""
    if not isinstance(given, dict) or not given:
        wrong.append('[edits] is missing; it takes a list of prompts a kind, as in object = ["a photo of {} at night"]')
        return {}, {}
    edits: dict[str, tuple[str, ...]] = {}
    difficulty: dict[str, str] = {}
    for name, listed in given.items():
        classes = listed if isinstance(listed, dict) else {"": listed}
        unknown = sorted(classes.keys() - {"", *DIFFICULTIES})
        wrong += [f"[edits.{name}] {each} means nothing; the classes are {', '.join(DIFFICULTIES)}" for each in unknown]
        templates: list[str] = []
        for each, some in classes.items():
            place = f"[edits.{name}] {each}" if each else f"[edits] {name}"
            if not isinstance(some, list) or not some:
                wrong.append(f"{place} takes a list of prompts, and at least one")
                continue
            for number, template in enumerate(some, 1):
                if _check_template(f"{place}, prompt {number}", template, wrong):
                    templates.append(template)
                    difficulty |= {template: each} if each else {}
        if len(set(templates)) < len(templates):
            again = next(template for template in templates if templates.count(template) > 1)
            wrong.append(f"[edits] {name} holds {again!r} twice")
        edits[name] = tuple(templates)
    return edits, difficulty


def _pairs(given: object, wrong: list[str]) -> dict[str, tuple[str, ...]]:
    """Kind of the second word -> prompts."""
    pairs: dict[str, tuple[str, ...]] = {}
    for kind, listed in _table("pairs", given, wrong).items():
        if kind not in PLAIN:
            wrong.append(f"[pairs] {kind} means nothing; the kinds of the second word are {', '.join(PLAIN)}")
        if not isinstance(listed, list) or not listed:
            wrong.append(f"[pairs] {kind} takes a list of prompts, and at least one")
            continue
        for number, template in enumerate(listed, 1):
            once = isinstance(template, str) and all(template.count(word) == 1 for word in ("{a}", "{b}"))
            rest = template.replace("{a}", "").replace("{b}", "") if once else ""
            if not once or "{" in rest or "}" in rest or not is_one_line(template):
                wrong.append(
                    f"[pairs] {kind}, prompt {number} is {template!r}; it takes one line with {{a}} and {{b}} in it once each"
                )
        # Only texts can be compared for duplicates.
        if len({str(template) for template in listed}) < len(listed):
            wrong.append(f"[pairs] {kind} holds a prompt twice")
        pairs[kind] = tuple(listed)
    return pairs


def _check_template(place: str, template: object, wrong: list[str]) -> bool:
    if not isinstance(template, str) or template.count("{}") != 1:
        wrong.append(f"{place} is {template!r}; it takes a text with {{}} in it once, where the word stands")
        return False
    if not is_one_line(template):
        wrong.append(f"{place} is {template!r}; it takes one line without control characters")
        return False
    if len(template) > MOST_SENTENCE:
        wrong.append(f"{place} has {len(template):,} characters; at most {MOST_SENTENCE:,} are taken")
        return False
    rest = template.replace("{}", "").replace("{class}", "")
    if "{" in rest or "}" in rest:
        wrong.append(f"{place} is {template!r}; in braces there may be nothing, for the word, or 'class'")
        return False
    if place.startswith("[edits") and not rest.strip(" .,"):
        wrong.append(f"{place} is {template!r}; besides the word it says nothing that a picture could follow")
        return False
    return True


def _table(name: str, given: object, wrong: list[str]) -> dict[str, Any]:
    if not isinstance(given, dict):
        wrong.append(f"{name} takes a table, [{name}]")
        return {}
    return given


def _count(name: str, given: object, wrong: list[str]) -> int:
    least = 0 if name == "untrained_images" else 1
    if isinstance(given, bool) or not isinstance(given, int) or not least <= given <= MOST:
        wrong.append(f"{name} is {given!r}; it takes a whole number from {least} to {MOST}")
        return least
    return given
