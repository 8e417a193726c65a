"""What the documents say is so: their commands parse, what they name exists, their examples run."""

import argparse
import ast
import importlib.util
import itertools
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore
import botocore.session
import click
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("pipeline", "eval", "cluster", "jobs")
MARKDOWN = sorted(
    {*ROOT.glob("*.md"), *(path for folder in (*PACKAGES, "docs", "tests") for path in (ROOT / folder).rglob("*.md"))}
)
YAML = sorted((ROOT / "cluster").rglob("*.yaml"))
SCRIPTS = [ROOT / "Makefile", ROOT / "cluster/Dockerfile", *sorted((ROOT / "cluster").glob("*.s[hb]*"))]
JOBS = sorted(path for path in (ROOT / "jobs").rglob("*.py") if 'if __name__ == "__main__"' in path.read_text("utf-8"))
SEPARATORS = {"&&", "||", "|", ";", "&", "(", ")", "<", ">", ">>"}

Block = tuple[str, str]  # language, text


def blocks(path: Path) -> list[Block]:
    """The fenced blocks of a Markdown file."""
    return blocks_of(path.read_text(encoding="utf-8"))


def blocks_of(text: str) -> list[Block]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(str(language), str(block)) for language, block in found]


def sections(path: Path) -> list[tuple[str, str]]:
    """(heading, text) of a Markdown file's sections, without its subsections' text."""
    parts = re.split(r"^#+ (.+)\n(?=\n|```)", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def spans(path: Path) -> list[str]:
    """What stands between single backticks, outside the fenced blocks."""
    return spans_of(path.read_text(encoding="utf-8"))


def spans_of(text: str) -> list[str]:
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return [re.sub(r"\s+", " ", span) for span in re.findall(r"`([^`]+)`", prose)]


def strings(value: Any) -> Iterator[str]:
    """Every string inside a YAML document."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings(item)


def lines(path: Path) -> list[str]:
    """Every line of a file that may hold a command: code, comments with their mark taken off, what a YAML file runs."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        indented = re.findall(r"^    (\S.*)$", text, re.MULTILINE)
        code = [*(block for language, block in blocks(path) if language in {"bash", "sh"}), *indented, *spans(path)]
    elif path.suffix == ".py":
        # A line with [brackets] explains the usage; test_a_flag_that_a_docstring_names_exists reads it.
        code = [line for line in (ast.get_docstring(ast.parse(text)) or "").splitlines() if "[" not in line]
        code = ["\n".join(re.sub(r"^.*?(?=python (-m|jobs/))", "", line) for line in code)]
    else:
        code = [re.sub(r"^#+ ?", "", text, flags=re.MULTILINE)]
        if path.suffix == ".yaml":
            code += [piece for document in yaml.safe_load_all(text) for piece in strings(document)]
    joined = (re.sub(r"\\\n\s*", " ", piece) for piece in code)
    return [line.strip().rstrip(",.:").removeprefix("entrypoint: ") for piece in joined for line in piece.splitlines()]


def commands(path: Path) -> list[list[str]]:
    """The simple commands of a file that run `make`, `ray`, Python or `aws`, as lists of words."""
    found = []
    for line in lines(path):
        if not re.search(r"(^|[\s/;])(make|ray|python|aws) ", line):
            continue
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError:  # prose with an apostrophe
            continue
        command: list[str] = []
        for word in [*words, ";"]:
            if word in SEPARATORS:
                if len(command) > 1 and re.fullmatch(r"(\S*/)?(make|ray|python|aws)", command[0]):
                    found.append(command)
                command = []
            elif command or word not in {"srun", "sudo", "exec"}:
                command.append(word)
    return found


class ParsedError(Exception):
    """Carries a job's parser and what it made of the arguments out of the job, which goes no further."""

    def __init__(self, parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> None:
        super().__init__()
        self.parser, self.parsed = parser, parsed


def parse(script: str, arguments: list[str]) -> ParsedError:
    """What the job's own parser makes of the arguments; SystemExit where it refuses them.

    An abbreviated flag, which argparse takes, is refused: it breaks when the job gets a second flag of that beginning.
    """
    job = importlib.import_module(script.removesuffix(".py").replace("/", "."))
    parse_args = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> argparse.Namespace:
        raise ParsedError(parser, parse_args(parser, args, namespace))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        patch.setattr(sys, "argv", [script, *arguments])
        with pytest.raises(ParsedError) as caught:
            job.main()
    flags = {word.split("=")[0] for word in arguments if word.startswith("--")}
    assert flags <= caught.value.parser._option_string_actions.keys(), f"{script} has no {flags}"
    return caught.value


def check(command: list[str]) -> None:
    """Raises where the program that the command names would refuse its arguments. A shell's $variable is taken as 1."""
    program, *arguments = (re.sub(r"\$\{?\w+\}?", "1", word) for word in command if word != "$@")
    match program.rsplit("/", 1)[-1]:
        case "make":
            assert arguments[0] in makefile_targets(), f"the Makefile has no target {arguments[0]!r}"
        case "aws":
            check_aws(*arguments)
        case "ray":
            check_ray(ray_cli(), arguments)
        case "python" if arguments[0] == "-m":
            assert importlib.util.find_spec(arguments[1].split(".")[0]), f"there is no module {arguments[1]}"
        case "python" if arguments[0] != "-c":
            script = arguments[0][arguments[0].index("jobs/") :]
            parsed = parse(script, arguments[1:]).parsed
            if clip := getattr(parsed, "clip", None):
                check_clip(clip)


def check_clip(name: str) -> None:
    import open_clip  # seconds

    assert name == "mini" or tuple(name.split(":")) in open_clip.list_pretrained(), f"open_clip has no {name!r}"


def check_aws(service: str, operation: str = "", *arguments: str) -> None:
    """The AWS command line is made from the same models as botocore: an operation's members are its flags."""
    if (service, operation) in {("s3", "sync"), ("ecr", "get-login-password")}:  # its own additions
        return
    model = botocore.session.get_session().get_service_model({"s3api": "s3"}.get(service, service))
    operations = {botocore.xform_name(name, "-"): name for name in model.operation_names}
    shape = model.operation_model(operations[operation]).input_shape
    flags = {f"--{botocore.xform_name(name, '-')}": name for name in shape.members}
    given = {word for word in arguments if word.startswith("--")} - {"--region", "--query", "--output"}
    assert given <= flags.keys(), f"aws {service} {operation} has no {given - flags.keys()}"
    assert set(shape.required_members) <= {flags[flag] for flag in given}, (
        f"aws {service} {operation} lacks an argument"
    )


def check_ray(command: click.Command, arguments: list[str]) -> None:
    """Ray's own parsers read the command, and ours the job's line behind `--`."""
    while isinstance(command, click.Group):
        name, *arguments = arguments
        found = command.get_command(click.Context(command), name)
        assert found is not None, f"Ray has no command {name!r}"
        command = found
    own, entrypoint = arguments, []
    if "--" in arguments:
        own, entrypoint = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
    if not own and not entrypoint:  # a sentence that names the command
        return
    context = command.make_context(command.name, [*own, "--", *entrypoint] if entrypoint else own)
    if command.name == "symmetric_run":  # it takes any option, and hands what it does not know on to `ray start`
        handed_on = context.params["ray_args_and_entrypoint"]
        check_ray(ray_cli(), ["start", *handed_on[: len(handed_on) - len(entrypoint)]])
    if entrypoint:
        check(entrypoint)


def ray_cli() -> click.Group:
    from ray.scripts.scripts import cli  # seconds

    return cli


def makefile_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


DOCUMENTS = [*MARKDOWN, *YAML, *SCRIPTS, *JOBS, *sorted((ROOT / "cluster").glob("*.py"))]
SHARED = "".join(path.read_text("utf-8") for path in sorted((ROOT / "jobs" / "cli").glob("*arguments.py")))
OPTIONS_OF = {path.name: set(re.findall(r"\"(--[a-z][a-z-]+)\"", path.read_text("utf-8") + SHARED)) for path in JOBS}
COMMANDS = [(path.relative_to(ROOT), command) for path in DOCUMENTS for command in commands(path)]


@pytest.mark.parametrize(
    ("path", "command"), COMMANDS, ids=lambda value: shlex.join(value) if isinstance(value, list) else str(value)
)
def test_a_documented_command_parses(path: Path, command: list[str]) -> None:
    """Catches a flag that was renamed in a job, and lives on in a text that people paste from."""
    check(command)


def test_commands_are_found_in_every_kind_of_file() -> None:
    """Catches a reader that finds nothing, and so nothing wrong."""
    found = {(str(path), command[0].rsplit("/", 1)[-1]) for path, command in COMMANDS}
    for path in ("README.md", "cluster/README.md"):
        assert {(path, "make"), (path, "ray"), (path, "python")} <= found, path
    assert ("cluster/README.md", "aws") in found
    assert {("CONTRIBUTING.md", "make"), ("pipeline/mini/MODEL_CARD.md", "python")} <= found
    assert {("cluster/aws.yaml", "ray"), ("cluster/gcp.yaml", "ray"), ("cluster/slurm.sbatch", "ray")} <= found
    assert {(f"cluster/kuberay/{kind}.yaml", "python") for kind in ("run", "nightly")} <= found
    assert {("jobs/generate.py", "python"), ("cluster/drain.sh", "ray")} <= found


def test_photographs_of_a_reader_are_learned_by_a_model_for_photographs() -> None:
    """Catches a file of Kubernetes, Slurm or cron that learns a catalogue with the shipped model of 64-pixel drawings, unsaid."""
    files = [ROOT / "README.md", ROOT / "cluster" / "README.md", *YAML, *SCRIPTS]
    written = [line for path in files for line in re.sub(r"\\\n[#\s]*", " ", path.read_text("utf-8")).splitlines()]
    runs = [
        line for line in written if re.search(r"(nightly\.py|invert_all\.py|nightly\.sbatch) \S*manifest\.csv ", line)
    ]
    assert len(runs) >= 7
    assert not [line for line in runs if "demo" not in line and "--model" not in line]


@pytest.mark.parametrize(
    "line",
    [
        "make demos",
        "ray jobs list",
        "ray up cluster/aws.yaml --no-confirm",
        "ray job submit --working-dirs . -- python jobs/evaluate.py runs/demo",
        "ray job submit --working-dir . -- python jobs/evaluate.py runs/demo --clipp mini",
        "ray symmetric-run --address head:6379 --num-gpu=2 -- python jobs/evaluate.py runs/demo",
        "ray symmetric-run --min-nodes 2 -- python jobs/evaluate.py runs/demo",
        "python jobs/invert_al.py manifest.csv",
        "python jobs/invert_all.py",
        "python jobs/invert_all.py manifest.csv --step 3000",
        "python jobs/invert_all.py manifest.csv --steps many",
        "python jobs/invert_all.py manifest.csv --log-format yaml",
        "python jobs/evaluate.py runs/demo --clip ViT-B-32/openais",
        "python -m clusters.validate",
        "aws iam create-role --role-name wordmint-head",
        "aws iam create-roles --role-name wordmint-head",
        "aws ecr create-repository --name wordmint",
    ],
)
def test_a_command_with_a_mistake_is_refused(line: str) -> None:
    """Catches a check that accepts whatever it is given; argparse takes `--step` for `--steps` unless it is told not to."""
    with pytest.raises((AssertionError, SystemExit, click.ClickException, ModuleNotFoundError, KeyError)):
        check(line.split())


@pytest.mark.parametrize("job", JOBS, ids=lambda path: path.name)
def test_a_flag_that_a_docstring_names_exists(job: Path) -> None:
    """Whole commands, of this job or another, are parsed above; here are usage lines and sentences."""
    text = ast.get_docstring(ast.parse(job.read_text(encoding="utf-8"))) or ""
    said = "\n".join(line for line in text.splitlines() if "[" in line or "python jobs/" not in line)
    assert set(re.findall(r"(?<!\S)\[?(--[a-z][a-z-]+)", said)) <= OPTIONS_OF[job.name]


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_document_names_exists(path: Path) -> None:
    """Catches a flag in a sentence, a path or a link that outlived what it names."""
    options = set().union(*(flags for flags in OPTIONS_OF.values()))
    for span in spans(path):
        if re.fullmatch(r"--[a-z-]+( .*)?", span):
            assert span.split()[0] in options, f"no job has {span}"
        if re.fullmatch(r"(jobs|eval|pipeline|cluster|tests|\.ci)/[\w./-]+", span):
            assert (ROOT / span).exists(), span
        if (
            path.name == "README.md"
            and path.parent != ROOT
            and re.fullmatch(r"[\w.]+\.(py|tsv|css|js|j2|csv)|\w+/", span)
        ):
            assert (path.parent / span).exists() or (ROOT / span).exists(), f"{path.parent} has no {span}"
    for link in re.findall(r"\]\((?!https?://)([^)#]+)\)", path.read_text(encoding="utf-8")):
        assert (path.parent / link).exists(), link


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_blocks_of_a_document_are_what_they_say(path: Path) -> None:
    for language, text in blocks(path):
        match language:
            case "bash" | "sh":
                subprocess.run(["bash", "-n"], input=text, text=True, check=True)
            case "json":
                json.loads(text)
            case "python":
                ast.parse(text)


def test_an_example_prints_what_stands_below_it() -> None:
    """Catches a table of costs that was edited, and not computed again."""
    computed = 0
    for path in MARKDOWN:
        for (language, code), (below, text) in itertools.pairwise(blocks(path)):
            if (language, below) == ("python", "text"):
                ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
                assert ran.stdout == text, path
                computed += 1
    assert computed >= 1
