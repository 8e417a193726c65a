"""Every option of every job with a value that cannot be: refused before anything starts, and said which value it was."""

import argparse
import importlib
from pathlib import Path
from typing import Any

import pytest

from jobs.application.night.gate_words import begin_gate
from pipeline.store.run_folder import RunFolder
from pipeline.store.storage import Storage
from tests.job_process import ROOT, FinishedRun, few_pictures, job, write_manifest

UNKNOWN_STORE = ("nfs4://x/y", "nothing is known of nfs4:// here")
NO_FILE = ("no-such-file.txt", "no-such-file.txt")
NO_MODEL = ("no-such-model", "model 'no-such-model'")
NO_CLIP = ("ViT-B-32", "there is no CLIP named 'ViT-B-32'")
NO_PROTOCOL = ("no-such-protocol", "protocol 'no-such-protocol'")
NO_METRIC = ("no_such_module:f", "this machine has no module 'no_such_module'")
LOG = {"--log-format": ("no-such", "argument --log-format: invalid choice: 'no-such'")}
A_FOLDER = ("{folder}", "a folder; it takes the name of a file")
NO_FOLDER = ("{manifest}", "is a file, and a folder is needed here")
CLUSTER = {
    **LOG,
    "--storage-option": ("endpoint", "storage option 'endpoint' is not of the form key=value"),
    "--ray-address": (
        "http://127.0.0.1:8265",
        "--ray-address http://127.0.0.1:8265: this is the address of a dashboard",
    ),
}


def number(option: str, value: str) -> tuple[str, str]:
    return value, option


def choice(option: str) -> tuple[str, str]:
    return "no-such", f"argument {option}: invalid choice: 'no-such'"


INVERT: dict[str, tuple[str, str]] = {
    "--output": UNKNOWN_STORE, "--model": NO_MODEL, "--clip": NO_CLIP, "--protocol": NO_PROTOCOL,
    "--metric": NO_METRIC,
    "--accept-failures": NO_FILE, "--column": ("SKU", "--column SKU: it takes OURS=THEIRS"), "--templates": NO_FILE,
    "--vectors": ("0", "--vectors: vectors is 0"), "--initializer": (" ", "--initializer: initializer is ' '"),
    "--start": ("no-such", "it takes words, statistics, nearest, pictures, or a file"),
    "--encoders": ("no-such", "--encoders: 'no-such' is no text encoder"),
    **{
        option: number(option, value)
        for option, value in {
            "--steps": "-1", "--learning-rate": "nan", "--warmup-steps": "-1", "--weight-decay": "1", "--batch-size": "0",
            "--seed": "-1", "--progressive": "1", "--per-image-words": "1.5", "--regularisation": "inf", "--min-snr": "nan",
            "--norm-limit": "-1", "--concentration": "nan",
            "--mask-background": "0.5", "--resolution": "100", "--workers": "-1", "--slots": "0",
            "--gpus-per-worker": "-1", "--cpus-per-worker": "0", "--max-failures": "-1", "--checkpoint-seconds": "inf",
            "--word-drop": "2", "--least-covered": "nan", "--night-drop": "0", "--keep-words": "-1",
            "--retired-days": "-1", "--repeats": "0", "--choose": "0", "--price-per-hour": "nan",
            "--stall-seconds": "nan", "--concept-seconds": "0", "--placing-seconds": "-5",
        }.items()
    },
    **{
        option: choice(option)
        for option in (
            "--schedule", "--crop", "--early-stop", "--masks", "--flow-times", "--timesteps", "--norm", "--optimiser",
            "--word-place", "--checkpoint-gradients", "--compile",
            "--dtype", "--text-encoder-dtype", "--first-stage-dtype",
        )
    },
    **CLUSTER,
}  # fmt: skip
# Job -> (its arguments but for the option, option -> (bad value, what is said)). {run}, {manifest} and {folder} are filled in.
JOBS: dict[str, tuple[tuple[str, ...], dict[str, tuple[str, str]]]] = {
    "invert_all": (("{manifest}", "--output", "{folder}/run"), INVERT),
    "import_words": (("{manifest}", "--output", "{folder}/run", "--words", "{run}/words"), INVERT | {"--words": UNKNOWN_STORE}),
    "evaluate": (("{run}",), {
        "--protocol": NO_PROTOCOL, "--clip": NO_CLIP, "--model": NO_MODEL, "--dino": ("timm:nothing", "'timm:nothing' must be"),
        "--vqa": ("no-such-folder", "no-such-folder/config.json does not exist"),
        "--until-ci": number("--until-ci", "nan"), "--history": UNKNOWN_STORE, "--night": ("a/b", "--night 'a/b'"),
        "--fail-on-drop": number("--fail-on-drop", "inf"), "--baseline": ("no-night", "the baseline 'no-night' is no night"),
        "--group-by": ("no-column", "there is no column 'no-column' to group by"), "--metric": NO_METRIC, **CLUSTER,
    }),
    "generate": (("{run}", "--prompt", "<owl>", "--output", "{folder}/pictures"), {
        "--prompt": ("a <nobody>", "this run has no word <nobody>"), "--prompts": NO_FILE, "--word": NO_FILE,
        "--negative": ("a <nobody>", "this run has no word <nobody>"),
        "--blend": ("<x>=<owl>:<nobody>:0.5", "there is no word <nobody>"),
        "--count": number("--count", "0"),
        "--best-of": number("--best-of", "0"),
        "--judge": ("mini", "--judge mini: it chooses among the pictures of --best-of, which is 1"),
        "--seed": number("--seed", "-1"),
        "--sampler": choice("--sampler"),
        "--steps": number("--steps", "0"), "--guidance": number("--guidance", "nan"), "--output": UNKNOWN_STORE,
        "--model": NO_MODEL, **CLUSTER,
    }),
    "compare": (("--manifest", "{manifest}", "--output", "{folder}/compare"), {
        "--output": UNKNOWN_STORE, "--manifest": NO_FILE, "--concepts": number("--concepts", "1"), "--model": NO_MODEL,
        "--clip": NO_CLIP, "--steps": number("steps", "-1"), "--variants": ("no-such", "--variants: there is no 'no-such'"),
        "--art": NO_FOLDER, "--curve-steps": number("--curve-steps", "0"), "--seeds": number("--seeds", "0"), **CLUSTER,
    }),
    "fit_starts": (("{run}", "--output", "{folder}/starts.safetensors"), {
        "--output": UNKNOWN_STORE, "--model": NO_MODEL, "--clip": ("ViT-B-32", "has features of the CLIP 'ViT-B-32'"),
        "--nouns": NO_FILE, "--measure": number("--measure", "-1"), **CLUSTER,
    }),
    "status": (("{run}",), {**LOG, "--storage-option": CLUSTER["--storage-option"]}),
    "nightly": (("{manifest}", "--output", "{folder}/run"), INVERT | {
        "--night": ("a/b", "--night 'a/b'"), "--history": UNKNOWN_STORE, "--baseline": ("no-night", "the baseline 'no-night'"),
        "--group-by": ("no-column", "there is no column 'no-column' to group by"),
        "--webhook": ("ftp://", "--webhook ftp://...: it takes a URL"),
        "--prometheus": ("no-such-folder/x", "--prometheus no-such-folder/x: there is no"),
    }),
    "promote": (("{gated}",), {
        "--promote": ("nobody", "--promote nobody: no candidate"), "--roll-back": ("nobody", "--roll-back nobody: no word"),
        "--keep-words": number("--keep-words", "-1"), **LOG, "--storage-option": CLUSTER["--storage-option"],
    }),
    "diff": (("{run}", "{run}"), {
        "--output": UNKNOWN_STORE, "--metric": NO_METRIC, **LOG, "--storage-option": CLUSTER["--storage-option"],
    }),
    "export_words": (("{run}", "--layout", "a1111", "--output", "{folder}/words"), {
        "--layout": choice("--layout"), "--output": UNKNOWN_STORE, "--concept": ("nobody", "this run has no word for nobody"),
        "--storage-option": CLUSTER["--storage-option"], **LOG,
    }),
    "bench.bench": ((), {
        "--output": A_FOLDER, "--steps": number("--steps", "-1"), "--part": choice("--part"),
    }),
    "bench.bench_report": ((), {"--concepts": number("--concepts", "0")}),
    "bench.bench_gpu": ((), {
        "--device": choice("--device"), "--dtype": choice("--dtype"), "--model": choice("--model"),
        "--slots": number("--slots", "0"), "--concepts": number("--concepts", "-1"),
        "--steps": number("--steps", "1.5"), "--minutes": number("--minutes", "nan"),
        "--output": ("{manifest}/x", "is a file, and a folder is needed here"),
    }),
    "bench.gpu.pack": (("{folder}/pack.tar.gz",), {}),
    "bench.full_size": (("sd-1.5",), {
        "--dtype": choice("--dtype"), "--device": choice("--device"), "--resolution": number("--resolution", "0"),
        "--batch-size": number("--batch-size", "0"), "--steps": number("--steps", "x"),
        "--folder": ("{folder}", "the folder has files in it; it would be removed with them"),
    }),
    "bench.word_kinds": ((), {
        "--concepts": number("--concepts", "1"), "--steps": number("--steps", "0"), "--pictures": number("--pictures", "0"),
        "--learning-rate": number("--learning-rate", "nan"),
    }),
    "bench.count_sizes": ((), {}),
    "bench.gate_rates": ((), {}),
    "bench.bench_starts": ((), {
        "--output": NO_FOLDER, "--art": NO_FOLDER, "--archives": number("--archives", "9"), "--concepts": number("--concepts", "1"),
        "--seeds": number("--seeds", "0"), "--dtype": choice("--dtype"), "--processes": number("--processes", "0"),
        "--starts": choice("--starts"),
    }),
    "mini.make_mini": ((), {
        "--work": NO_FOLDER, "--stage": choice("--stage"), "--device": choice("--device"), "--threads": number("--threads", "0"),
    }),
    "mini.mini_report": ((), {
        "--output": NO_FOLDER, "--art": NO_FOLDER, "--captions": number("--captions", "0"), "--concepts": number("--concepts", "0"),
    }),
    "mini.choose_recipe": ((), {
        "--output": NO_FOLDER, "--art": NO_FOLDER, "--concepts": number("--concepts", "17"), "--seeds": number("--seeds", "0"),
        "--recipes": choice("--recipes"),
    }),
    "demo.make_concepts": ((), {"--art": NO_FOLDER}),
    "demo.make_picture": ((), {}),
    "demo.applications": ((), {
        "--output": NO_FOLDER, "--steps": number("--steps", "0"), "--pictures": number("--pictures", "2"),
    }),
    "dreambench_plus_manifest": (("{folder}/plus",), {"--output": ("no-such-folder/x", "no-such-folder/x"), **LOG}),
    "dreambench_manifest": (("{folder}/bench",), {"--output": ("no-such-folder/x.csv", "no-such-folder/x.csv"), **LOG}),
}  # fmt: skip
# Every value is a good one: the names of columns. Of a process that a benchmark starts itself: --one.
ANY_VALUE = {"--caption-column", "--one"}
CASES = [(name, option) for name, (_, options) in JOBS.items() for option in options]


def module(name: str) -> Any:
    return importlib.import_module(f"jobs.{name}")


def with_value(actions: argparse.ArgumentParser) -> set[str]:
    return {
        option
        for action in actions._actions
        if action.option_strings and action.nargs != 0
        for option in action.option_strings
    }


def test_every_option_of_every_job_has_a_bad_value() -> None:
    """Catches a new option that nobody has thought of a bad value for."""
    scripts = {
        ".".join(path.relative_to(ROOT / "jobs").with_suffix("").parts)
        for path in (ROOT / "jobs").rglob("*.py")
        if "argparse.ArgumentParser" in path.read_text(encoding="utf-8")
    }
    assert scripts == set(JOBS)
    for name, (_, options) in JOBS.items():
        assert with_value(module(name).parser()) - ANY_VALUE == set(options), name


@pytest.fixture
def filled(finished_run: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "prompts_and_classes.txt").write_text("subject_name,class\ncat,cat\n", encoding="utf-8")
    (tmp_path / "bench" / "cat").mkdir()
    (tmp_path / "bench" / "cat" / "1.jpg").write_bytes(b"x")
    for name, content in (("images/animal/1.jpg", b"x"), ("captions/animal/1.txt", b"cat\na cat asleep\n")):
        (tmp_path / "plus" / name).parent.mkdir(parents=True)
        (tmp_path / "plus" / name).write_bytes(content)
    few_pictures(tmp_path, "long", edit="a " + "very " * 100 + "{}")
    pairs = few_pictures(tmp_path, "pairs")
    pairs.write_text(
        f'{pairs.read_text(encoding="utf-8")}[pairs]\nobject = ["a {"very " * 100}{{a}} and {{b}}"]\n', encoding="utf-8"
    )
    gated = RunFolder(Storage(str(tmp_path / "gated")))
    gated.write_json("run.json", {})
    begin_gate(gated)
    return {
        "finished": finished_run.arguments[0],
        "run": str(finished_run.folder),
        "gated": str(tmp_path / "gated"),
        "manifest": str(write_manifest(tmp_path, ["owl"])),
        "folder": str(tmp_path),
    }


def started(**_: object) -> None:
    raise AssertionError("Ray was asked")


@pytest.mark.parametrize(("name", "option"), CASES)
def test_a_bad_value_is_refused_and_named_before_anything_is_started(
    name: str,
    option: str,
    filled: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Catches a job that waits for ever, a night spent before a mistyped name is told, and a traceback."""
    monkeypatch.setattr("ray.init", started)
    arguments, options = JOBS[name]
    value, said = (each.format(**filled) for each in options[option])
    given = [each.format(**filled) for each in arguments]
    if option in given and module(name).parser()._option_string_actions[option].nargs is None:
        at = given.index(option)
        del given[at : at + 2]
    try:
        code = module(name).main([*given, f"{option}={value}"])
    except SystemExit as ended:  # by argparse
        code = ended.code
    told = capsys.readouterr()
    assert code == 2, told.out + told.err
    assert said in told.err
    assert value.strip() in told.err or value == " "
    assert "Traceback" not in told.err
    assert "goes on from here" not in told.err
    assert not list(Path(filled["folder"]).glob("*/words/*"))


@pytest.mark.parametrize(
    ("script", "arguments", "environment", "said"),
    [
        ("invert_all.py", ("{manifest}", "--output", "{folder}/run", "--clip", "ViT-B-32"), {}, "--clip ViT-B-32: there is no"),
        ("invert_all.py", ("{manifest}", "--output", "{folder}/run"), {"RAY_ADDRESS": "http://127.0.0.1:8265"}, "RAY_ADDRESS http"),
        ("invert_all.py", ("{manifest}", "--output", "{folder}/run", "--protocol", "{folder}/long.toml"), {}, "does not fit into"),
        ("evaluate.py", ("{run}", "--protocol", "{folder}/long.toml"), {}, "long.toml: the protocol long-v1"),
        ("evaluate.py", ("{run}", "--protocol", "{folder}/pairs.toml"), {}, "with a word does not fit into the model"),
        ("invert_all.py", ("{finished}", "--skip-invalid", "--protocol", "{folder}/long.toml"), {}, "the protocol long-v1"),
        ("invert_all.py", ("{manifest}", "--output", "{folder}/run", "--vectors", "60"), {}, "a word of 60 vectors, as owl has,"),
        ("generate.py", ("{run}", "--prompt", "<owl>" + " owl" * 100), {}, "tokens; the model takes"),
        ("evaluate.py", ("{run}", "--night", "later", "--protocol", "paper"), {"TMPDIR": "/tmp/" + "x" * 90}, "TMPDIR is /tmp/xxx"),
        ("compare.py", ("--manifest", "{manifest}", "--output", "{folder}/c"), {"RAY_ADDRESS": "head"}, "RAY_ADDRESS head: this"),
    ],
)  # fmt: skip
@pytest.mark.long
def test_a_job_that_cannot_start_ends_with_one_sentence_and_exit_code_2(
    script: str, arguments: tuple[str, ...], environment: dict[str, str], said: str, filled: dict[str, str]
) -> None:
    """Catches a traceback after the words were learned, and "the same command goes on" where it does not."""
    ended = job(*(each.format(**filled) for each in arguments), script=script, environment=environment)
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "goes on" not in ended.stderr
