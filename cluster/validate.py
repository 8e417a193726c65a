"""Checks every cluster file offline with the rules of the program that reads it: python -m cluster.validate [FILE ...]

launcher files   Ray's own validation; each node_config against EC2's or Compute Engine's request schema
Kubernetes       KubeRay's schemas for its kinds, the core schemas for the others; unknown fields are refused
rights           the rules of iam_policies.py, and the region, types and subnets of aws.yaml
Dockerfile       hadolint, and that its base is named by digest
scripts          bash, and the names of sbatch's options
grafana.json, alerts.yaml   a PromQL parser
and for all of them rules that no schema has: the head runs no tasks, spot comes before on-demand, nothing runs as root, no file
holds a secret.

Prints a line for each problem, and exits 1 if there is one.
"""

import json
import re
import subprocess
import sys
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from cluster import grafana, iam_policies, launcher, manifests, scripts

HERE = Path(__file__).parent
FILES = (
    *sorted(HERE.glob("*.yaml")),
    *sorted((HERE / "kuberay").glob("*.yaml")),
    *sorted((HERE / "iam").iterdir()),
    *(HERE / name for name in ("Dockerfile", "drain.sh", "slurm.sbatch", "slurm-nightly.sbatch", "grafana.json")),
)


class _OnceLoader(yaml.SafeLoader):
    """YAML in which a duplicate key is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for twice in {key for key in keys if keys.count(key) > 1}:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def problems(path: Path) -> list[str]:
    """The problems of one file, a sentence each with the place in the file; [] if there are none."""
    if path.name.startswith("Dockerfile"):
        return _dockerfile(path)
    if path.suffix in {".sh", ".sbatch"}:
        return scripts.problems(path)
    if path.suffix == ".json":
        content = json.loads(path.read_text(encoding="utf-8"))
        return iam_policies.problems(content) if "Statement" in content else grafana.problems(content)
    try:
        documents = list(yaml.load_all(path.read_text(encoding="utf-8"), _OnceLoader))
    except yaml.YAMLError as error:
        return [str(error)]
    if any(isinstance(document, dict) and "provider" in document for document in documents):
        return [problem for document in documents for problem in launcher.problems(document)]
    if any(isinstance(document, dict) and "groups" in document for document in documents):
        return [problem for document in documents for problem in grafana.alert_problems(document)]
    if any(isinstance(document, dict) and "includedPermissions" in document for document in documents):
        return [problem for document in documents for problem in iam_policies.problems(document)]
    return [problem for document in documents for problem in manifests.problems(document)]


def _dockerfile(path: Path) -> list[str]:
    hadolint = Path(sys.executable).with_name("hadolint")
    ran = subprocess.run([str(hadolint), "--no-color", "-"], input=path.read_bytes(), capture_output=True, check=False)
    if ran.returncode and not ran.stdout:
        raise RuntimeError(f"hadolint could not read {path}: {ran.stderr.decode()}")
    bases = re.findall(r"^FROM +(?:--\S+ +)*(\S+)", path.read_text(encoding="utf-8"), re.MULTILINE | re.IGNORECASE)
    movable = [
        f"FROM {base}: name it by its digest too" for base in bases if not re.search(r"@sha256:[0-9a-f]{64}$", base)
    ]
    return ran.stdout.decode().splitlines() + movable


def main(files: list[Path]) -> int:
    """Prints the problems of each file; returns 1 if there are any."""
    bad = 0
    for path in files:
        wrong = problems(path)
        bad += bool(wrong)
        print(f"{path}: {'ok' if not wrong else f'{len(wrong)} problems'}")
        for problem in wrong:
            print(f"  {problem}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main([Path(argument) for argument in sys.argv[1:]] or list(FILES)))
