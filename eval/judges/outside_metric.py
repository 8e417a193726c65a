"""Metrics of a user's own, named on the command line: --metric module:function, or an entry point of `wordmint.metrics`.

A metric is a function of one word's pictures that returns a number; or a class that is made once in each worker, without arguments,
and then called so. Attributes of it say the rest, all of them optional:

    name              of the column; the function's own name by default
    higher_is_better  True by default; decides which word is the worst one
    floor             the value to compare with, the same for all words
    meaning           one sentence
    version           text; raise it when something has changed that is not in the module's own file

Only a command line or a caller names a metric, never a run folder, which may come from somebody else.
"""

import functools
import hashlib
import importlib
import inspect
import math
import numbers
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

GROUP = "wordmint.metrics"
SPELLED = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")

Pictures = tuple[npt.NDArray[np.uint8], ...]


@dataclass(frozen=True, slots=True)
class WordPictures:
    """What a metric is given: one word's pictures, each uint8 (height, width, 3), RGB.

    training: the word was learned from these. prompt: the plain one. plain: drawn of it with the word. untrained: drawn of it
    before training. edits: edit prompt -> its pictures. texts: edit prompt -> its text without the word.
    """

    concept: str
    training: Pictures
    prompt: str
    plain: Pictures
    untrained: Pictures
    edits: Mapping[str, Pictures]
    texts: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class OutsideMetric:
    """A metric that was found and is sound. It is text only, so that any worker can read it.

    spelled: module:function. digest: of the module's file and `version`; scores of another one are computed again.
    floor: nan for none.
    """

    spelled: str
    name: str
    digest: str
    higher_is_better: bool = True
    floor: float = math.nan
    meaning: str = ""


class MetricError(ValueError):
    """A metric from outside that cannot be used, or that failed on one word. The message is one sentence."""


def find_metric(given: str) -> OutsideMetric:
    """given: module:function, or the name of an entry point. Raises MetricError."""
    spelled, function = _imported(given)
    name = getattr(function, "name", None) or getattr(function, "__name__", "")
    if not (isinstance(name, str) and NAME.fullmatch(name)):
        raise MetricError(f"--metric {given}: its name {name!r} must be small letters, digits and _, 40 at most")
    floor = getattr(function, "floor", None)
    if floor is not None and not _is_number(floor):
        raise MetricError(f"--metric {given}: its floor is {floor!r}; it takes a number")
    higher = getattr(function, "higher_is_better", True)
    if not isinstance(higher, bool):
        raise MetricError(f"--metric {given}: its higher_is_better is {higher!r}; it takes True or False")
    meaning, digest = str(getattr(function, "meaning", "")), _digest(spelled, function)
    return OutsideMetric(spelled, name, digest, higher, math.nan if floor is None else float(floor), meaning)


def find_metrics(given: Sequence[str]) -> tuple[OutsideMetric, ...]:
    """Raises MetricError, also for two metrics of one name."""
    by_name: dict[str, OutsideMetric] = {}
    for each in given:
        metric = find_metric(each)
        if by_name.setdefault(metric.name, metric) != metric:
            raise MetricError(f"--metric {each}: {by_name[metric.name].spelled} is called {metric.name} too")
    return tuple(by_name.values())


def refuse_others(wanted: Sequence[OutsideMetric]) -> None:
    """Whether this machine has the same metrics as the one that started the job. Raises MetricError."""
    for metric in wanted:
        if find_metric(metric.spelled).digest != metric.digest:
            raise MetricError(
                f"--metric {metric.spelled}: it is not the same file here as where the job was started; "
                "install one version on all machines"
            )


def value_of(metric: OutsideMetric, pictures: WordPictures) -> float:
    """nan where the metric says that a word has no value. Raises MetricError."""
    said = f"{metric.spelled} has no value for {pictures.concept}"
    try:
        value = _ready(metric.spelled)(pictures)
    except (Exception, SystemExit) as error:  # anything may be raised by a module that is not ours
        raise MetricError(f"{said}: {_said(error)}") from error
    if not _is_number(value) and not (isinstance(value, float | np.floating) and math.isnan(value)):
        raise MetricError(f"{said}: it returned {_cut(repr(value))}, and it takes a number")
    return float(value)


@functools.lru_cache(maxsize=16)
def _ready(spelled: str) -> Callable[[WordPictures], Any]:
    """A class is made once a process, because it may load a model."""
    _, function = _imported(spelled)
    ready: Callable[[WordPictures], Any] = cast("Any", function()) if inspect.isclass(function) else function
    return ready


def _imported(given: str) -> tuple[str, Any]:
    """(module:function, the function or class)."""
    spelled = given if ":" in given else _entry_point(given)
    if not SPELLED.fullmatch(spelled):
        raise MetricError(f"--metric {given}: it takes module:function, or the name of an entry point of {GROUP}")
    module, name = spelled.split(":")
    try:
        function = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        raise MetricError(
            f"--metric {given}: this machine has no module {error.name!r}; install it on all machines of the cluster, or "
            "put its folder into PYTHONPATH before Ray is started"
        ) from error
    except (Exception, SystemExit) as error:
        raise MetricError(f"--metric {given}: importing {module} failed: {_said(error)}") from error
    if not callable(function):
        raise MetricError(f"--metric {given}: {module} has no function or class {name!r}")
    return spelled, function


def _entry_point(name: str) -> str:
    installed = {each.name: each.value for each in entry_points(group=GROUP)}
    if name not in installed:
        has = f"installed are {', '.join(sorted(installed))}" if installed else "no installed package has any"
        raise MetricError(
            f"--metric {name}: there is no entry point {name!r} of {GROUP}, {has}; it also takes module:function"
        )
    return installed[name]


def _digest(spelled: str, function: object) -> str:
    file = getattr(importlib.import_module(spelled.split(":")[0]), "__file__", None)
    content = Path(file).read_bytes() if file else b""
    version = str(getattr(function, "version", ""))
    return hashlib.sha256(b"\0".join([spelled.encode(), version.encode(), content])).hexdigest()[:16]


def _is_number(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, numbers.Real) and math.isfinite(value)


def _said(error: BaseException) -> str:
    return _cut(" ".join(f"{type(error).__name__}: {error}".split()))


def _cut(text: str, longest: int = 300) -> str:
    return text if len(text) <= longest else f"{text[:longest]}..."
