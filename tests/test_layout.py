"""The rules of the layout, held by reading every file's syntax tree; and the reader itself, on planted violations."""

import ast
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "pipeline": {"pipeline"},
    "eval": {"pipeline", "eval"},
    "cluster": {"pipeline", "cluster"},
    "jobs": {"pipeline", "eval", "cluster", "jobs"},
}
# From the ground up. A room may import from the floors below it: neither from above, nor from another room of its own floor.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("pipeline.text_files",),
    ("pipeline.records", "pipeline.settings", "pipeline.randomness"),
    ("pipeline.protocols", "pipeline.logged_events"),
    ("pipeline.store",),
    ("pipeline.models", "pipeline.inputs"),
    ("pipeline.training", "pipeline.sampling"),
    ("pipeline.scheduling",),
    ("eval.judges",),
    ("eval.scores",),
    ("eval.nightly", "eval.comparison", "eval.pairs", "eval.starts"),
    ("eval.report",),
    ("cluster",),
    ("jobs.application",),
    ("jobs.api", "jobs.cli"),
    ("jobs.mini",),
    ("jobs", "jobs.demo"),
    ("jobs.bench",),
)
MOST_MODULES = 15  # in a folder
SUBJECTLESS = {"utils", "util", "common", "helpers", "helper", "misc"}
ARGUMENT_PARSERS = {"argparse", "click", "docopt", "fire", "getopt", "optparse", "typer"}
COMPUTE_ONLY = {"pipeline", "eval"}
LONGEST = 400


def violations(root: Path) -> list[str]:
    """One line for each broken rule: `path:line: what is wrong`."""
    return [
        f"{path.relative_to(root)}:{found}"
        for package in (*MAY_IMPORT, "tests")
        for path in sorted((root / package).rglob("*.py"))
        for found in _in_file(path, package, path.relative_to(root).with_suffix("").parts)
    ]


def _in_file(path: Path, package: str, parts: tuple[str, ...]) -> Iterator[str]:
    source = path.read_text(encoding="utf-8")
    for part in SUBJECTLESS.intersection(parts):
        yield f"1: a file is named by its subject, and {part!r} is none"
    if (lines := len(source.splitlines())) > LONGEST:
        yield f"{LONGEST}: {lines} lines; a file has one subject and at most {LONGEST} lines"
    if package not in MAY_IMPORT:
        return
    tree = ast.parse(source, filename=str(path))
    for line, module in _imports(tree, parts):
        top = module.split(".")[0]
        if top in {*MAY_IMPORT, "tests"} - MAY_IMPORT[package]:
            yield f"{line}: {package} must not import {module}"
        if package in COMPUTE_ONLY and top in ARGUMENT_PARSERS:
            yield f"{line}: {package} parses no arguments, but imports {module}"
        if package in COMPUTE_ONLY and module == "ray.init":
            yield f"{line}: {package} must not start Ray"
    if package in COMPUTE_ONLY:
        yield from _job_calls(tree, package)


def _imports(tree: ast.Module, parts: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """Every imported name with its line, relative ones resolved; imports inside functions count too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = parts[: len(parts) - node.level] if node.level else ()
            module = ".".join((*base, node.module)) if node.module else ".".join(base)
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in {
            "import_module",
            "importlib.import_module",
            "__import__",
        }:
            yield from (
                (node.lineno, name.value)
                for name in node.args[:1]
                if isinstance(name, ast.Constant) and isinstance(name.value, str)
            )


def _job_calls(tree: ast.Module, package: str) -> Iterator[str]:
    """Calls that print or start Ray. To hand `print` on as a value is allowed."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called in {"print", "sys.stdout.write"} and not any(keyword.arg == "file" for keyword in node.keywords):
            yield f"{node.lineno}: {package} must not print; return what is to be said, or log it"
        if called == "ray.init":
            yield f"{node.lineno}: {package} must not start Ray"


def modules(root: Path) -> dict[str, Path]:
    """Name -> file of every module but the packages' own."""
    files = (path for package in MAY_IMPORT for path in sorted((root / package).rglob("*.py")))
    return {".".join(path.relative_to(root).with_suffix("").parts): path for path in files if path.stem != "__init__"}


def floor_of(module: str) -> tuple[int, str] | None:
    """Its floor, counted from the ground, and its room; None for one that is on no floor."""
    found = [
        (floor, room)
        for floor, rooms in enumerate(FLOORS)
        for room in rooms
        if module == room or module.startswith(f"{room}.")
    ]
    return max(found, key=lambda each: len(each[1]), default=None)


def misplaced(root: Path) -> list[str]:
    """One line for each import that does not go down, each module without a room, full folder, doubled name and circle."""
    known = modules(root)
    found = [
        f"{name}: it is in no room; FLOORS lists them"
        for name in known
        if name.startswith(("pipeline.", "eval.")) and floor_of(name) is None
    ]
    for name, path in known.items():
        here = floor_of(name)
        for line, imported in _imports(ast.parse(path.read_text(encoding="utf-8")), tuple(name.split("."))):
            there = floor_of(imported)
            if here and there and here[1] != there[1] and there[0] >= here[0]:
                found.append(f"{name}:{line}: {imported} is not below it")
    folders = Counter(path.parent for path in known.values())
    found += [f"{folder}: {count} modules" for folder, count in folders.items() if count > MOST_MODULES]
    stems = Counter(path.stem for path in known.values())
    found += [f"{name}: another module has the same name" for name, path in known.items() if stems[path.stem] > 1]
    try:
        TopologicalSorter(
            {name: set(_imported_at_start(path, name, known)) - {name} for name, path in known.items()}
        ).prepare()
    except CycleError as error:
        found.append(f"a circle: {' -> '.join(error.args[1])}")
    return found


def _imported_at_start(path: Path, name: str, known: dict[str, Path]) -> Iterator[str]:
    """The modules that this one names at its beginning, for a type checker too; not those of its functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = ast.Module([node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom | ast.If)], [])
    for _, imported in _imports(top, tuple(name.split("."))):
        while imported and imported not in known:
            imported = imported.rpartition(".")[0]
        if imported:
            yield imported


def test_the_repository_keeps_its_layout() -> None:
    assert not violations(ROOT)


def test_imports_go_down_the_floors_and_names_lead_to_one_module() -> None:
    assert not misplaced(ROOT)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (
            {"pipeline/store/parts.py": "from pipeline.models.find import Model\n"},
            "pipeline.models.find.Model is not below it",
        ),
        (
            {"pipeline/training/slot.py": "def late():\n    from pipeline.sampling import sampler\n"},
            "pipeline.training.slot:2: pipeline.sampling.sampler is not below it",
        ),
        ({"pipeline/losses.py": ""}, "pipeline.losses: it is in no room"),
        ({"eval/scores/metrics.py": "", "eval/report/metrics.py": ""}, "another module has the same name"),
        ({f"jobs/job_{number}.py": "" for number in range(MOST_MODULES + 1)}, "16 modules"),
        (
            {
                "pipeline/store/one.py": "import pipeline.store.other\n",
                "pipeline/store/other.py": "from pipeline.store import one\n",
            },
            "a circle: ",
        ),
    ],
)
def test_a_misplaced_module_is_found(tmp_path: Path, files: dict[str, str], said: str) -> None:
    for name, source in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(source, encoding="utf-8")
    assert any(said in line for line in misplaced(tmp_path))


def test_every_package_is_read() -> None:
    assert {
        path.relative_to(ROOT).parts[0] for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py")
    } == set(MAY_IMPORT)


def planted(root: Path, path: str, source: str) -> list[str]:
    file = root / path
    file.parent.mkdir(parents=True)
    file.write_text(source, encoding="utf-8")
    return violations(root)


@pytest.mark.parametrize(
    ("path", "source", "said"),
    [
        (
            "pipeline/manifest.py",
            "import eval.scores\n",
            "pipeline/manifest.py:1: pipeline must not import eval.scores",
        ),
        ("pipeline/manifest.py", "from eval import scores\n", "must not import eval.scores"),
        (
            "pipeline/manifest.py",
            "def late():\n    from jobs.bench import main\n",
            ":2: pipeline must not import jobs.bench.main",
        ),
        ("pipeline/mini/art.py", "from ...eval import scores\n", "must not import eval.scores"),
        (
            "pipeline/manifest.py",
            "import importlib\nimportlib.import_module('cluster.validate')\n",
            "must not import cluster.validate",
        ),
        ("eval/scores.py", "from cluster import validate\n", "eval must not import cluster.validate"),
        ("eval/scores.py", "from tests.fakes import clip\n", "eval must not import tests.fakes.clip"),
        ("cluster/validate.py", "import eval\n", "cluster must not import eval"),
        ("cluster/validate.py", "import jobs.invert_all\n", "cluster must not import jobs.invert_all"),
        ("pipeline/utils.py", "", "'utils' is none"),
        ("jobs/common/paths.py", "", "'common' is none"),
        ("tests/helpers.py", "", "'helpers' is none"),
        ("jobs/long.py", "x = 1\n" * (LONGEST + 1), "401 lines"),
        ("pipeline/manifest.py", "import argparse\n", "parses no arguments"),
        ("eval/scores.py", "from typer import run\n", "parses no arguments"),
        ("pipeline/manifest.py", "print('loading')\n", "must not print"),
        ("pipeline/manifest.py", "import sys\nsys.stdout.write('loading')\n", "must not print"),
        ("eval/scores.py", "import ray\n\n\ndef score():\n    ray.init()\n", ":5: eval must not start Ray"),
        ("pipeline/actor.py", "from ray import init\n", "must not start Ray"),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, path: str, source: str, said: str) -> None:
    found = planted(tmp_path, path, source)
    assert len(found) == 1
    assert said in found[0]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        (
            "jobs/evaluate.py",
            "import argparse\n\nimport ray\n\nfrom eval import scores\nfrom pipeline import records\nray.init()\nprint(1)\n",
        ),
        ("eval/scores.py", "from pipeline.records import Score\n\nfrom . import report\n"),
        ("pipeline/mini/art.py", "from ..records import Kind\n"),
        ("pipeline/loop.py", "def train(say=print):\n    say('step 1')\n"),
        ("pipeline/loop.py", "import sys\nprint('odd', file=sys.stderr)\n"),
        ("pipeline/evaluation.py", "import evaluate_things\nimport jobs_board\n"),
        ("tests/test_jobs.py", "from jobs import invert_all\n"),
        ("jobs/long.py", "x = 1\n" * LONGEST),
    ],
)
def test_what_is_allowed_passes(tmp_path: Path, path: str, source: str) -> None:
    assert planted(tmp_path, path, source) == []
