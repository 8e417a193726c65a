"""Checks a Kubernetes document: against its schema, with unknown fields refused, and by rules that no schema has."""

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate

from cluster import network_policies

Document = dict[str, Any]
CORE_VERSION = "1.34"  # the oldest Kubernetes release that is still maintained
SECRET = re.compile(r"token|secret|password|credential|(access|api|private)_?key", re.IGNORECASE)


def problems(document: Any) -> list[str]:
    """A sentence for each problem. If the schema refuses the document, nothing else is checked."""
    if not isinstance(document, dict):
        return [f"a document is a mapping, not {document!r}"]
    refused = _custom(document) if document.get("apiVersion") == "ray.io/v1" else _core(document)
    return refused or [*_rules(document)]


def _custom(document: Document) -> list[str]:
    kind = document.get("kind")
    schemas = _schemas()
    if kind not in schemas:
        return [f"$.kind: {kind!r} is none of {', '.join(schemas)}"]
    return [f"{error.json_path}: {error.message}" for error in schemas[kind].iter_errors(document)]


@functools.cache
def _schemas() -> dict[str, jsonschema.Draft202012Validator]:
    whole = json.loads(Path(__file__).with_name("kuberay-schemas.json").read_text(encoding="utf-8"))
    kinds = [name for name in whole["$defs"] if name.startswith("Ray")]
    return {kind: jsonschema.Draft202012Validator({**whole, "$ref": f"#/$defs/{kind}"}) for kind in kinds}


def _core(document: Document) -> list[str]:
    try:
        kubernetes_validate.validate(document, CORE_VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{error.json_path}: {error.message}"]
    except (kubernetes_validate.SchemaNotFoundError, kubernetes_validate.InvalidSchemaError) as error:
        return [f"no schema: {error}"]
    return []


def _rules(document: Document) -> Iterator[str]:
    spec = document.get("spec", {})
    job = spec.get("jobTemplate", spec)
    if document["kind"] in {"RayJob", "RayCronJob"} and not job.get("shutdownAfterJobFinishes"):
        yield "shutdownAfterJobFinishes: without it the head is paid for after the run"
    if document["kind"].startswith("Ray"):
        yield from _cluster(job.get("rayClusterSpec", job))
    if document["kind"] == "NetworkPolicy":
        yield from network_policies.problems(spec)
    for pod in _pods(document):
        yield from _pod(pod)


def _cluster(spec: Document) -> Iterator[str]:
    if not spec.get("enableInTreeAutoscaling") or spec.get("autoscalerOptions", {}).get("version") != "v2":
        yield "autoscalerOptions: priorities need the in-tree autoscaler, version v2"
    if spec.get("authOptions", {}).get("mode") != "token":
        yield "authOptions.mode: without a token, anyone who reaches port 8265 runs code"
    if spec["headGroupSpec"].get("rayStartParams", {}).get("num-cpus") != "0":
        yield "headGroupSpec.rayStartParams: the head takes no work: num-cpus: '0'"
    groups = spec.get("workerGroupSpecs", [])
    head = spec["headGroupSpec"]["template"]["spec"].get("serviceAccountName", "default")
    if head in {group["template"]["spec"].get("serviceAccountName", "default") for group in groups}:
        yield f"serviceAccountName {head}: with it a worker may change the cluster as the head may; give each its own"
    most = sum(group["maxReplicas"] * _gpus(group["template"]["spec"]) for group in groups)
    variables = spec["headGroupSpec"]["template"]["spec"]["containers"][0].get("env", [])
    if {"name": "WORDMINT_GPUS", "value": str(most)} not in variables:
        yield f"headGroupSpec: WORDMINT_GPUS={most} tells a job what the cluster at rest can grow to"
    for group in groups:
        name, pod = group["groupName"], group["template"]["spec"]
        if not group["minReplicas"] <= group.get("replicas", 0) <= group["maxReplicas"]:
            yield f"workerGroupSpecs {name}: minReplicas <= replicas <= maxReplicas"
        if group["minReplicas"] != 0:
            yield f"workerGroupSpecs {name}: a GPU node that waits for work is paid for; minReplicas: 0"
        if not any(toleration.get("key") == "nvidia.com/gpu" for toleration in pod.get("tolerations", [])):
            yield f"workerGroupSpecs {name}: GPU nodes are tainted with nvidia.com/gpu, which it does not tolerate"
        if not 0 < drain_seconds(pod) < pod.get("terminationGracePeriodSeconds", 30):
            yield f"workerGroupSpecs {name}: it is stopped before it has drained"


def _gpus(pod: Document) -> int:
    limits = pod["containers"][0].get("resources", {}).get("limits", {})
    return int(limits.get("nvidia.com/gpu", 0))


def drain_seconds(pod: Document) -> int:
    """Seconds that a worker pod runs on to drain after it is asked to stop; 0 if it has no drain."""
    command = pod["containers"][0].get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", [])
    return int(command[1]) if command[:1] == ["wordmint-drain"] else 0


def _pods(value: Any) -> Iterator[Document]:
    """Every pod specification inside a document."""
    if isinstance(value, dict):
        if isinstance(value.get("containers"), list):
            yield value
        for item in value.values():
            yield from _pods(item)
    elif isinstance(value, list):
        for item in value:
            yield from _pods(item)


def _pod(pod: Document) -> Iterator[str]:
    if not pod.get("securityContext", {}).get("runAsNonRoot"):
        yield f"{pod['containers'][0]['name']}: runs as root unless securityContext.runAsNonRoot says otherwise"
    for container in pod["containers"]:
        name = container["name"]
        if container.get("securityContext", {}).get("allowPrivilegeEscalation") is not False:
            yield f"{name}: securityContext.allowPrivilegeEscalation: false"
        if container.get("securityContext", {}).get("readOnlyRootFilesystem") is not True:
            yield f"{name}: securityContext.readOnlyRootFilesystem: true, and an emptyDir for what it writes"
        requests = container.get("resources", {}).get("requests", {})
        limits = container.get("resources", {}).get("limits", {})
        if requests.get("nvidia.com/gpu") != limits.get("nvidia.com/gpu"):
            yield f"{name}: a GPU's request and limit are equal"
        for variable in container.get("env", []):
            if SECRET.search(variable["name"]) and "value" in variable:
                yield f"{name}: {variable['name']} stands in the file; refer to a Secret"
