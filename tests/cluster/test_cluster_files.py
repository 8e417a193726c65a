"""The cluster files are what their readers expect, and a small mistake in any of them is refused."""

import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.dashboard.modules.metrics import dashboards

from cluster import grafana, manifests, schemas, validate
from jobs.application.night.alerts import HELP
from pipeline.scheduling.prometheus import GAUGES
from pipeline.store.checkpoints import CHECKPOINT_SECONDS

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"
KUBERAY = sorted((CLUSTER / "kuberay").glob("*.yaml"))


@pytest.mark.parametrize("path", validate.FILES, ids=lambda path: path.name)
def test_ours_is_accepted(path: Path) -> None:
    assert validate.problems(path) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        # Ray's own validation
        ("aws.yaml", "idle_timeout_minutes: 5", "idle_timeout_minuts: 5", "idle_timeout_minuts"),
        ("aws.yaml", "head_node_type: head\n", "head_node_type: boss\n", "head_node_type"),
        ("gcp.yaml", "priority: 20", "priority: high", "'high' is not of type 'integer'"),
        ("gcp.yaml", "min_workers: 0", "min_worker: 0", "min_worker"),
        # EC2's and Compute Engine's request schemas
        ("aws.yaml", "InstanceType: g6.xlarge", "InstanceTyp: g6.xlarge", "InstanceTyp"),
        ("aws.yaml", "InstanceType: g6.xlarge", "InstanceType: g6.xlarg", "'g6.xlarg' is none of"),
        ("aws.yaml", "VolumeSize: 150", "VolumeSize: large", "VolumeSize"),
        ("aws.yaml", "MarketType: spot", "MarketType: sport", "'sport' is none of"),
        ("aws.yaml", "FromPort: 22", "FromPort: ssh", "FromPort"),
        ("gcp.yaml", "provisioningModel: SPOT", "provisioningModel: SPORT", "'SPORT' is not one of"),
        ("gcp.yaml", "autoDelete: true", "autodelete: true", "autodelete"),
        ("gcp.yaml", "onHostMaintenance: TERMINATE", "onHostMaintenance: [TERMINATE]", "is not of type 'string'"),
        # what no schema knows of a launcher file
        ("aws.yaml", "resources: {CPU: 0}", "resources: {CPU: 2}", "the head takes no work"),
        ("aws.yaml", "priority: 10", "priority: 40", "every spot type comes before"),
        ("gcp.yaml", "priority: 20", "priority: 5", "every spot type comes before"),
        ("aws.yaml", "resources: &gpu {CPU: 4, GPU: 1}", "resources: &gpu {CPU: 4}", "a worker has a GPU"),
        (
            "aws.yaml",
            "    priority: 20\n    resources: *gpu",
            "    priority: 20\n    resources: {CPU: 8, GPU: 1}",
            "equal resources",
        ),
        ("aws.yaml", "IamInstanceProfile: {Name: wordmint-head}", "KeyName: mine", "takes the place of keys"),
        ("aws.yaml", "CidrIp: 10.0.0.0/8", "CidrIp: 0.0.0.0/0", "open to the whole internet"),
        ("aws.yaml", "      SubnetIds: *subnets\n", "", "gets a public address"),
        ("gcp.yaml", "    min_workers: 0\n", "    min_workers: 1\n", "a GPU machine that waits"),
        ("gcp.yaml", "      networkInterfaces: *private\n", "", "a public address"),
        (
            "gcp.yaml",
            "/YOUR-SUBNET\n",
            "/YOUR-SUBNET\n          accessConfigs: [{type: ONE_TO_ONE_NAT}]\n",
            "a public address",
        ),
        ("aws.yaml", "WORDMINT_GPUS=16", "WORDMINT_GPUS=4", "WORDMINT_GPUS=16 tells a job"),
        # KubeRay's and the core schemas
        ("kuberay/run.yaml", "ttlSecondsAfterFinished", "ttlSecondAfterFinished", "ttlSecondAfterFinished"),
        ("kuberay/run.yaml", "backoffLimit: 1", "backoffLimit: one", "'one' is not of type 'integer'"),
        ("kuberay/run.yaml", "apiVersion: ray.io/v1\n", "apiVersion: ray.io/v2\n", "no schema"),
        ("kuberay/run.yaml", "kind: RayJob", "kind: RayJobs", "'RayJobs' is none of"),
        ("kuberay/interactive.yaml", "version: v2", "version: v3", "'v3' is not one of"),
        ("kuberay/interactive.yaml", "maxReplicas: 8", "maxReplicas: eight", "'eight' is not of type 'integer'"),
        ("kuberay/nightly.yaml", "timeZone", "timezone", "timezone"),
        ("kuberay/nightly.yaml", "jobTemplate:", "jobTemplates:", "jobTemplates"),
        ("kuberay/nightly.yaml", "minAvailable: 1", "minAvailabel: 1", "minAvailabel"),
        ("kuberay/access.yaml", "policyTypes: [Egress]", "policyTypes: Egress", "policyTypes"),
        # what no schema knows of a Kubernetes file
        (
            "kuberay/run.yaml",
            'preStop: {exec: {command: [wordmint-drain, "120"]}}',
            'preStop: {exec: {command: [wordmint-drain, "200"]}}',
            "before it has drained",
        ),
        (
            "kuberay/run.yaml",
            "terminationGracePeriodSeconds: 150",
            "terminationGracePeriodSeconds: 60",
            "before it has drained",
        ),
        (
            "kuberay/run.yaml",
            "shutdownAfterJobFinishes: true",
            "shutdownAfterJobFinishes: false",
            "paid for after the run",
        ),
        ("kuberay/run.yaml", "maxReplicas: 16", "maxReplicas: 32", "WORDMINT_GPUS=36 tells a job"),
        ("kuberay/run.yaml", "key: nvidia.com/gpu", "key: amd.com/gpu", "does not tolerate"),
        ("kuberay/run.yaml", "runAsNonRoot: true", "runAsNonRoot: false", "runs as root"),
        ("kuberay/interactive.yaml", 'num-cpus: "0"', 'num-cpus: "4"', "the head takes no work"),
        ("kuberay/interactive.yaml", "authOptions: {mode: token}", "authOptions: {mode: disabled}", "runs code"),
        (
            "kuberay/interactive.yaml",
            "valueFrom: {secretKeyRef: {name: wordmint-models, key: hf-token, optional: true}}",
            "value: hf_abc",
            "refer to a Secret",
        ),
        (
            "kuberay/run.yaml",
            "serviceAccountName: wordmint-worker",
            "serviceAccountName: wordmint-head",
            "give each its own",
        ),
        (
            "kuberay/run.yaml",
            "readOnlyRootFilesystem: true",
            "readOnlyRootFilesystem: false",
            "an emptyDir for what it writes",
        ),
        (
            "kuberay/access.yaml",
            "policyTypes: [Ingress, Egress]",
            "policyTypes: [Ingress]",
            "what is not named is allowed",
        ),
        (
            "kuberay/access.yaml",
            "namespaceSelector:\n            matchLabels: {kubernetes.io/metadata.name: monitoring}",
            "namespaceSelector: {}",
            "ingress: a namespaceSelector names its namespace",
        ),
        (
            "kuberay/access.yaml",
            "matchLabels: {kubernetes.io/metadata.name: kuberay-system}",
            "matchLabels: {team: ray}",
            "a namespaceSelector names its namespace",
        ),
        ("kuberay/access.yaml", ", 169.254.0.0/16", "", "except: 169.254.0.0/16"),
        (
            "kuberay/access.yaml",
            "- {port: 443, protocol: TCP}\n---\n# Only the head",
            "- {port: 80, protocol: TCP}\n---\n# Only the head",
            "TLS alone",
        ),
        (
            "kuberay/access.yaml",
            "    - to:\n        - podSelector: {}\n",
            "    - ports: [{port: 22}]\n",
            "one for everybody",
        ),
        # YAML itself, the image, the scripts, the dashboard
        (
            "aws.yaml",
            "max_workers: 16\nupscaling_speed",
            "max_workers: 16\nmax_workers: 32\nupscaling_speed",
            "given twice",
        ),
        ("Dockerfile", "FROM python:3.11-slim-bookworm@", "FROM python # ", "DL3006"),
        ("Dockerfile", "bookworm@sha256:", "bookworm # ", "name it by its digest"),
        ("Dockerfile", "bookworm@sha256:a3", "bookworm@sha256:", "name it by its digest"),
        ("Dockerfile", "WORKDIR /opt/wordmint", "WORKDIR opt/wordmint", "DL3000"),
        ("drain.sh", "\ndone", "\n", "syntax error"),
        ("slurm.sbatch", "set -euo pipefail", "set -e", "goes on after an error"),
        (
            "slurm-nightly.sbatch",
            "--dependency=singleton",
            "--dependant=singleton",
            "no option '--dependant=singleton'",
        ),
        ("slurm.sbatch", "#SBATCH --nodes=4", "#SBATCH --machines=4", "no option '--machines=4'"),
        ("slurm.sbatch", "#!/bin/bash\n", "#!/bin/bash\ncd runs\n", "no options after the first command"),
        ("grafana.json", "sum(rate(", "sum(rate((", "is no PromQL"),
        ("alerts.yaml", "time() - ", "time( - ", "is no PromQL"),
        ("alerts.yaml", "for: 5m", "during: 5m", "knows no during"),
        ("grafana.json", '"x": 12', '"x": 16', "wider than the page"),
        ("grafana.json", '"x": 12', '"x": 6', "lie upon one another"),
        ("grafana.json", "${datasource}", "P1809F7CD0C75ACF3", "one installation's data source"),
    ],
)
def test_a_mistake_is_refused(tmp_path: Path, file: str, old: str, new: str, said: str) -> None:
    text = (CLUSTER / file).read_text(encoding="utf-8")
    assert old in text, "the mutation has to change something"
    mutated = tmp_path / Path(file).name
    mutated.write_text(text.replace(old, new), encoding="utf-8")
    assert any(said in problem for problem in validate.problems(mutated)), validate.problems(mutated)


def test_the_command_names_the_bad_file_and_exits_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "run.yaml"
    bad.write_text((CLUSTER / "kuberay/run.yaml").read_text().replace("rayVersion", "rayversion"))
    assert validate.main([CLUSTER / "gcp.yaml", bad]) == 1
    said = capsys.readouterr().out
    assert f"{CLUSTER / 'gcp.yaml'}: ok" in said
    assert f"{bad}: " in said
    assert "rayversion" in said


def worker_pods(path: Path) -> list[dict[str, Any]]:
    documents = [
        document
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))
        if document["kind"].startswith("Ray")
    ]
    jobs = [document["spec"].get("jobTemplate", document["spec"]) for document in documents]
    return [group["template"]["spec"] for job in jobs for group in job.get("rayClusterSpec", job)["workerGroupSpecs"]]


def test_the_three_kubernetes_runs_stop_their_workers_alike() -> None:
    pods = [pod for path in KUBERAY for pod in worker_pods(path)]
    assert len(pods) == 6
    assert {(manifests.drain_seconds(pod), pod["terminationGracePeriodSeconds"]) for pod in pods} == {(120, 150)}


def test_a_drain_lasts_longer_than_the_time_between_two_checkpoints() -> None:
    """Catches a checkpoint interval that was raised past the drain: a preempted pod would lose what it was given time to save."""
    for path in KUBERAY:
        for pod in worker_pods(path):
            assert CHECKPOINT_SECONDS < manifests.drain_seconds(pod) < pod["terminationGracePeriodSeconds"], path


def test_a_head_is_covered_by_its_own_disruption_budget() -> None:
    for path in KUBERAY:
        for run, budget in _heads_and_budgets(path):
            labels = run["headGroupSpec"]["template"]["metadata"]["labels"]
            assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items(), path


def _heads_and_budgets(path: Path) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    jobs = [
        document["spec"].get("jobTemplate", document["spec"])
        for document in documents
        if document["kind"].startswith("Ray")
    ]
    budgets = [document for document in documents if document["kind"] == "PodDisruptionBudget"]
    return [(job.get("rayClusterSpec", job), budget) for job, budget in zip(jobs, budgets, strict=True)]


def test_the_files_run_the_ray_that_was_tested() -> None:
    pins = dict(
        line.split("==") for line in (CLUSTER.parent / "constraints.txt").read_text().splitlines() if "==" in line
    )
    versions = {
        line.split()[1]
        for path in KUBERAY
        for line in path.read_text().splitlines()
        if line.strip().startswith("rayVersion:")
    }
    assert versions == {pins["ray"]}


def test_the_shipped_schemas_keep_their_notice_and_a_field_of_every_kind() -> None:
    shipped = json.loads(schemas.TARGET.read_text(encoding="utf-8"))
    assert "Apache License" in shipped["$comment"]
    assert set(schemas.KINDS) <= shipped["$defs"].keys()


def test_condensed_schemas_share_parts_refuse_unknown_fields_and_honour_defaults() -> None:
    part = {
        "type": "object",
        "required": ["name", "port"],
        "properties": {
            "name": {"type": "string", "description": "long " * 50},
            "port": {"type": "integer", "default": 80},
            "type": {"type": "string", "enum": ["Local", "Shared", "Exclusive", "Unknown"]},
        },
    }
    definition = {
        "spec": {
            "names": {"kind": "RayCluster"},
            "versions": [
                {"name": "v1alpha1", "schema": {}},
                {
                    "name": "v1",
                    "schema": {
                        "openAPIV3Schema": {
                            "type": "object",
                            "properties": {
                                "metadata": {"type": "object"},
                                "status": {"type": "object"},
                                "spec": {"type": "object", "properties": {"one": part, "two": part}},
                            },
                        }
                    },
                },
            ],
        }
    }
    condensed = schemas.condense([definition])
    assert set(condensed["$defs"]) == {"RayCluster", "0"}
    validator = jsonschema.Draft202012Validator({**condensed, "$ref": "#/$defs/RayCluster"})

    def accepted(**spec: Any) -> bool:
        return validator.is_valid(
            {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": "x"}, "spec": spec}
        )

    assert accepted(one={"name": "a"}, two={"name": "b", "port": 8080, "type": "Local"})
    assert not accepted(one={"port": 80})
    assert not accepted(one={"name": "a", "nmae": "b"})
    assert not accepted(two={"name": "a", "type": "local"})
    assert not accepted(three={})


def test_the_drain_announces_itself_and_leaves_an_idle_node_at_once(tmp_path: Path) -> None:
    said = tmp_path / "said"
    for name, script in {"ray": f'echo "$@" > {said}', "pgrep": "exit 1", "sleep": "exit 9"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    subprocess.run([CLUSTER / "drain.sh", "120"], check=True, env={"PATH": f"{tmp_path}:/usr/bin:/bin"})
    assert "drain-node --reason DRAIN_NODE_REASON_PREEMPTION" in said.read_text()
    assert "--deadline-remaining-seconds 120" in said.read_text()


def test_the_drain_waits_for_busy_actors_and_no_longer_than_told(tmp_path: Path) -> None:
    slept = tmp_path / "slept"
    for name, script in {"ray": "exit 0", "pgrep": "exit 0", "sleep": f"echo 1 >> {slept}"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    subprocess.run([CLUSTER / "drain.sh", "7"], check=True, env={"PATH": f"{tmp_path}:/usr/bin:/bin"})
    assert slept.read_text().count("1") == 7


def test_the_alerts_ask_for_metrics_that_exist() -> None:
    """Catches an alert that never comes, because its metric was renamed."""
    rules = yaml.safe_load((CLUSTER / "alerts.yaml").read_text(encoding="utf-8"))
    asked = grafana.metrics_of(rule["expr"] for group in rules["groups"] for rule in group["rules"])
    assert len(asked) >= 6
    assert asked <= set(HELP) | {f"ray_{name}" for name in GAUGES}


def test_the_dashboard_asks_for_metrics_that_exist() -> None:
    """Catches a renamed metric, after which a panel says "No data" on the night it is needed."""
    declared = (ROOT / "pipeline" / "scheduling" / "prometheus.py").read_text(encoding="utf-8")
    rays_own = "".join(path.read_text(encoding="utf-8") for path in Path(dashboards.__file__).parent.glob("*.py"))
    asked = grafana.metrics(json.loads((CLUSTER / "grafana.json").read_text(encoding="utf-8")))
    ours = {name.removeprefix("ray_") for name in asked if name.startswith("ray_wordmint_")}
    assert len(ours) >= 10
    for name in ours:
        # Ray adds the suffix to a Counter's name.
        assert f'"{name}"' in declared or f'"{name.removesuffix("_total")}"' in declared, f"nothing declares {name}"
    for name in asked - {f"ray_{name}" for name in ours}:
        assert name in rays_own, f"Ray's own dashboards know no {name}"
