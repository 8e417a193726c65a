"""What the image installs is pinned, each file by its hash; what is shipped of others has its licence with it."""

import json
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "cluster" / "image.lock").read_text(encoding="utf-8")
LOCKED = {
    canonicalize_name(name): (version, re.findall(r"--hash=sha256:([0-9a-f]{64})\b", hashes))
    for name, version, hashes in re.findall(r"^([A-Za-z0-9._-]+)==(\S+)((?: \\\n +--hash=\S+)+)$", LOCK, re.MULTILINE)
}
BASE = "python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b"
PINNED = {
    canonicalize_name(name): version
    for name, version in re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
}


def test_every_package_of_the_image_has_a_version_and_hashes() -> None:
    entries = [line for line in LOCK.splitlines() if line and line[0] not in " #"]
    assert len(entries) == len(LOCKED) > 100
    assert all(hashes for _, hashes in LOCKED.values())
    assert "://" not in "".join(line for line in LOCK.splitlines() if not line.startswith("#"))


def test_the_lock_is_of_the_dependencies_and_pins_that_were_tested() -> None:
    """Catches a pin that was moved without `make lock`: the image would run what nobody tested."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *project["optional-dependencies"]["gcs"],
        *project["optional-dependencies"]["launcher"],
    ]
    for line in wanted:
        each = Requirement(line)
        assert each.specifier.contains(LOCKED[canonicalize_name(each.name)][0]), line
    assert {name: LOCKED[name][0] for name in LOCKED.keys() & PINNED.keys()} == {
        name: PINNED[name] for name in LOCKED.keys() & PINNED.keys()
    }, "run `make lock`"


def test_the_image_installs_the_lock_and_nothing_else() -> None:
    dockerfile = (ROOT / "cluster" / "Dockerfile").read_text(encoding="utf-8")
    installs = [line for line in dockerfile.splitlines() if "pip install" in line and not line.startswith("#")]
    assert len(installs) == 1
    assert "--require-hashes --no-deps -r /tmp/image.lock" in installs[0]
    assert "!cluster" in (ROOT / "cluster" / "Dockerfile.dockerignore").read_text().splitlines()


def test_the_bill_of_materials_names_the_lock_and_nothing_else() -> None:
    """Catches a lock that was made anew without `make sbom`."""
    bill = json.loads((ROOT / "cluster" / "image.cdx.json").read_text(encoding="utf-8"))
    named = [(canonicalize_name(each["name"]), each["version"]) for each in bill["components"]]
    assert sorted(named) == sorted((name, version) for name, (version, _) in LOCKED.items()), "run `make sbom`"
    assert [each["purl"] for each in bill["components"]] == [f"pkg:pypi/{name}@{version}" for name, version in named]
    assert bill["bomFormat"] == "CycloneDX"


def test_the_base_of_the_image_is_named_by_the_digest_that_was_looked_at() -> None:
    dockerfile = (ROOT / "cluster" / "Dockerfile").read_text(encoding="utf-8")
    assert re.findall(r"^FROM (.+)$", dockerfile, re.MULTILINE) == [BASE]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("CC-BY-4.0", "Creative Commons Attribution 4.0"),
        ("Apache-2.0", "TERMS AND CONDITIONS"),
        ("MIT", "Permission is hereby granted"),
    ],
)
def test_the_licences_of_the_drawings_are_shipped_with_them(name: str, said: str) -> None:
    folder = ROOT / "jobs" / "demo"
    assert said in (folder / "licences" / f"{name}.txt").read_text(encoding="utf-8")
    assert f"licences/{name}.txt" in (folder / "ATTRIBUTION.md").read_text(encoding="utf-8")
