"""Checks an IAM policy: it must grant only what the cluster needs, and only on the cluster's own resources."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

AWS = Path(__file__).with_name("aws.yaml")
# What Ray's autoscaler asks EC2 for (ray/autoscaler/_private/aws/node_provider.py). No resource limits these, a region does.
ASKED = frozenset({"ec2:DescribeImages", "ec2:DescribeInstances", "ec2:DescribeInstanceTypes"})
NO_RESOURCE = ASKED | {"ecr:GetAuthorizationToken"}
# Other resources that RunInstances needs rights for, besides the machine and its network -> what each must be.
PARTS: dict[str, dict[str, str]] = {
    "image": {"ec2:Owner": "amazon"}, "security-group": {"aws:ResourceTag/ray-cluster-name": "wordmint"},
    "network-interface": {"ec2:AssociatePublicIpAddress": "false"}, "volume": {"ec2:Encrypted": "true", "ec2:VolumeSize": "150"},
    "key-pair": {}, "spot-instances-request": {},
}  # fmt: skip
WRITES = frozenset({"s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"})


def problems(policy: dict[str, Any]) -> list[str]:
    """A sentence for each problem of an AWS policy, or of a custom role of Google's."""
    if "includedPermissions" in policy:
        return [*_role(policy["includedPermissions"])]
    if policy.get("Version") != "2012-10-17":
        return ["Version: '2012-10-17', else conditions and variables mean something else"]
    return [problem for statement in policy["Statement"] for problem in _statement(statement)]


def _statement(statement: dict[str, Any]) -> Iterator[str]:
    if unknown := statement.keys() - {"Sid", "Effect", "Principal", "Action", "Resource", "Condition"}:
        yield f"{', '.join(sorted(unknown))}: no element of a statement"
    if statement["Effect"] == "Deny":
        return
    actions, resources, said = _all(statement["Action"]), _all(statement.get("Resource", [])), _conditions(statement)
    for action in actions:
        if "*" in action and action not in NO_RESOURCE:
            yield f"{action}: each action is named"
        if "*" in resources and action not in NO_RESOURCE:
            yield f"{action}: on a resource of this cluster's, not on all"
        if action in ASKED and "aws:RequestedRegion" not in said:
            yield f"{action}: in one region, aws:RequestedRegion"
        if action == "iam:PassRole" and said.get("iam:PassedToService") != ["ec2.amazonaws.com"]:
            yield "iam:PassRole: to EC2 alone, iam:PassedToService"
        if action == "ec2:RunInstances":
            yield from _run_instances(resources, said)
        if action == "ec2:TerminateInstances" and said.get("aws:ResourceTag/ray-cluster-name") != ["wordmint"]:
            yield "ec2:TerminateInstances: of this cluster's machines alone, aws:ResourceTag/ray-cluster-name"
        if action == "s3:ListBucket" and not said.get("s3:prefix"):
            yield "s3:ListBucket: of prefixes, s3:prefix"
        for resource in resources if action.startswith("s3:") and action != "s3:ListBucket" else ():
            prefix = resource.partition("/")[2]
            if prefix not in (("runs/*",) if action in WRITES else ("in/*", "runs/*")):
                yield f"{action}: {resource}; runs/ is written, and in/ is read beside it"


def _run_instances(resources: list[str], said: dict[str, list[str]]) -> Iterator[str]:
    cluster = yaml.safe_load(AWS.read_text(encoding="utf-8"))
    region = cluster["provider"]["region"]
    workers = [
        each["node_config"]
        for name, each in cluster["available_node_types"].items()
        if name != cluster["head_node_type"]
    ]
    subnets = {subnet for worker in workers for subnet in worker["SubnetIds"]}
    for resource in resources:
        _, _, _, where, _, what = [*resource.split(":", 5), "", "", "", "", ""][:6]
        kind, _, name = what.partition("/")
        if where != region:
            yield f"ec2:RunInstances: {resource} is not of {region}, where the cluster is"
        if kind == "instance":
            types = sorted({worker["InstanceType"] for worker in workers})
            if sorted(said.get("ec2:InstanceType", [])) != types:
                yield f"ec2:RunInstances: ec2:InstanceType is what aws.yaml starts, {', '.join(types)}"
            if said.get("aws:RequestTag/ray-cluster-name") != [cluster["cluster_name"]]:
                yield "ec2:RunInstances: with the cluster's tag, aws:RequestTag/ray-cluster-name"
        elif kind == "subnet":
            if name not in subnets:
                yield f"ec2:RunInstances: {name} is none of aws.yaml's subnets, {', '.join(sorted(subnets))}"
        elif kind not in PARTS:
            yield f"ec2:RunInstances: {resource}; the machine, its subnets and its parts are named each for itself"
        elif kind == "key-pair" and not name.startswith("ray-autoscaler_"):
            yield f"ec2:RunInstances: {resource}; with the key that Ray makes, key-pair/ray-autoscaler_*"
        for key, value in PARTS.get(kind, {}).items():
            if said.get(key) != [value]:
                yield f"ec2:RunInstances: {resource}; only with {key} {value}"


def _role(permissions: list[str]) -> Iterator[str]:
    for each in permissions:
        if "*" in each or each.endswith((".setIamPolicy", "actAs")) or each.startswith(("iam.", "resourcemanager.")):
            yield f"{each}: lets its holder give himself more"


def _all(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _conditions(statement: dict[str, Any]) -> dict[str, list[str]]:
    """Condition key -> its required value, for any operator."""
    return {key: _all(value) for test in statement.get("Condition", {}).values() for key, value in test.items()}
