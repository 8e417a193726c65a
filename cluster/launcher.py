"""Checks a file for Ray's cluster launcher offline, before machines are paid for."""

import functools
import importlib.resources
import json
from collections.abc import Iterator
from typing import Any

import botocore.session
import jsonschema
from botocore.model import ListShape, Shape, StructureShape
from botocore.validate import ParamValidator

Config = dict[str, Any]


def problems(config: Config) -> list[str]:
    """A sentence for each problem. If Ray's own validation refuses the file, nothing else is checked."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    try:
        validate_config(prepare_config(config))
    except jsonschema.ValidationError as error:
        return [f"{error.json_path}: {error.message}"]
    except Exception as error:  # noqa: BLE001 - whatever it raises, it is Ray's refusal of the file
        return [f"Ray refuses it: {error}"]
    return [*_machines(config), *_scheduling(config)]


def _machines(config: Config) -> Iterator[str]:
    provider, types = config["provider"], config["available_node_types"]
    check = {"aws": _ec2, "gcp": _compute_engine}.get(provider["type"])
    if check is None:
        yield f"$.provider.type: {provider['type']!r} is not checked here; aws and gcp are"
        return
    for name, node_type in types.items():
        for problem in check(node_type["node_config"]):
            yield f"$.available_node_types.{name}.node_config: {problem}"
    if provider["type"] == "aws":
        permissions = provider.get("security_group", {}).get("IpPermissions", [])
        shape = _ec2_input("AuthorizeSecurityGroupIngress")
        for problem in _refused({"IpPermissions": permissions}, shape):
            yield f"$.provider.security_group: {problem}"
        if any(each.get("CidrIp") == "0.0.0.0/0" for rule in permissions for each in rule.get("IpRanges", [])):
            yield "$.provider.security_group: open to the whole internet"


def _scheduling(config: Config) -> Iterator[str]:
    """The rules that keep an idle cluster cheap and make it fall back from spot to on-demand machines."""
    types = config["available_node_types"]
    head = types[config["head_node_type"]]
    workers = {name: node_type for name, node_type in types.items() if node_type is not head}
    if head["resources"].get("CPU") != 0 or head["resources"].get("GPU"):
        yield "$.available_node_types: the head takes no work: its resources are {CPU: 0}"
    if _is_spot(head):
        yield "$.available_node_types: the head holds the driver and must not be a spot machine"
    for name, worker in workers.items():
        if worker.get("min_workers", 0) != 0:
            yield f"$.available_node_types.{name}.min_workers: a GPU machine that waits for work is paid for; 0"
        if not worker["resources"].get("GPU"):
            yield f"$.available_node_types.{name}.resources: a worker has a GPU"
    if len({json.dumps(worker["resources"], sort_keys=True) for worker in workers.values()}) > 1:
        yield "$.available_node_types: priority decides only between types with equal resources"
    most = sum(worker["max_workers"] * worker["resources"].get("GPU", 0) for worker in workers.values())
    most = min(most, config["max_workers"] * max(worker["resources"].get("GPU", 0) for worker in workers.values()))
    if f"-e WORDMINT_GPUS={most}" not in config["docker"]["run_options"]:
        yield f"$.docker.run_options: -e WORDMINT_GPUS={most} tells a job what the cluster at rest can grow to"
    spot = [worker.get("priority", 0) for worker in workers.values() if _is_spot(worker)]
    on_demand = [worker.get("priority", 0) for worker in workers.values() if not _is_spot(worker)]
    if not spot or not on_demand or min(spot) <= max(on_demand):
        yield "$.available_node_types: every spot type comes before every on-demand type, and there is one of each"


def _is_spot(node_type: Config) -> bool:
    machine = node_type["node_config"]
    aws = machine.get("InstanceMarketOptions", {}).get("MarketType") == "spot"
    return aws or machine.get("scheduling", {}).get("provisioningModel") == "SPOT"


def _ec2(node_config: Config) -> Iterator[str]:
    # On launch, Ray adds the two counts and chooses one of the subnets.
    request = {key: value for key, value in node_config.items() if key != "SubnetIds"}
    yield from _refused(request | {"MinCount": 1, "MaxCount": 1}, _ec2_input("RunInstances"))
    if not node_config.get("SubnetIds"):
        yield "without SubnetIds Ray takes any subnet, and a machine in a public one gets a public address"
    if "ImageId" not in node_config:
        yield "without ImageId Ray takes an image of 2022, whose driver is too old for CUDA 13"
    if "Name" not in node_config.get("IamInstanceProfile", {}) and "Arn" not in node_config.get(
        "IamInstanceProfile", {}
    ):
        yield "an IamInstanceProfile takes the place of keys"


@functools.cache
def _ec2_input(operation: str) -> Shape:
    return botocore.session.get_session().get_service_model("ec2").operation_model(operation).input_shape


def _refused(parameters: Config, shape: Shape) -> Iterator[str]:
    yield from ParamValidator().validate(parameters, shape).generate_report().splitlines()
    yield from _not_in_enum(parameters, shape, "$")


def _not_in_enum(value: Any, shape: Shape, place: str) -> Iterator[str]:
    """Checks enumerations, which botocore leaves to the server."""
    if isinstance(shape, StructureShape) and isinstance(value, dict):
        for name in value.keys() & shape.members.keys():
            yield from _not_in_enum(value[name], shape.members[name], f"{place}.{name}")
    elif isinstance(shape, ListShape) and isinstance(value, list):
        for index, item in enumerate(value):
            yield from _not_in_enum(item, shape.member, f"{place}[{index}]")
    elif getattr(shape, "enum", None) and value not in shape.enum:
        yield f"{place}: {value!r} is none of the {len(shape.enum)} values that EC2 knows"


def _compute_engine(node_config: Config) -> Iterator[str]:
    for error in _instance_schema().iter_errors(node_config):
        yield f"{error.json_path}: {error.message}"
    interfaces = node_config.get("networkInterfaces", [])
    if not interfaces or any("accessConfigs" in interface for interface in interfaces):
        yield "without networkInterfaces that have no accessConfigs Ray gives the machine a public address"
    if "serviceAccounts" not in node_config:
        yield "a service account takes the place of keys"


@functools.cache
def _instance_schema() -> jsonschema.Draft202012Validator:
    """The discovery document of Compute Engine's API as a JSON schema that refuses unknown fields."""
    documents = importlib.resources.files("googleapiclient.discovery_cache") / "documents"
    schemas = json.loads((documents / "compute.v1.json").read_text(encoding="utf-8"))["schemas"]
    closed = {name: _from_discovery(schema) for name, schema in schemas.items()}
    return jsonschema.Draft202012Validator({"$defs": closed, "$ref": "#/$defs/Instance"})


def _from_discovery(schema: Config) -> Config:
    if "$ref" in schema:
        return {"$ref": f"#/$defs/{schema['$ref']}"}
    if schema["type"] == "string" and schema.get("format") in {"int64", "uint64"}:
        return {"type": ["string", "integer"]}  # text in the API's responses, also accepted as a number
    converted: Config = {} if schema["type"] == "any" else {"type": schema["type"]}
    if "enum" in schema:
        converted["enum"] = schema["enum"]
    if "items" in schema:
        converted["items"] = _from_discovery(schema["items"])
    if schema["type"] == "object":
        converted["properties"] = {name: _from_discovery(field) for name, field in schema.get("properties", {}).items()}
        converted["additionalProperties"] = (
            _from_discovery(schema["additionalProperties"]) if "additionalProperties" in schema else False
        )
    return converted
