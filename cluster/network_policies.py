"""Checks a Kubernetes NetworkPolicy beyond its schema: which traffic it lets in, and where it lets pods connect to."""

from collections.abc import Iterator
from typing import Any

# Private, carrier-grade NAT and link-local networks; a cloud's metadata service is in the last.
INSIDE = frozenset({"10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"})


def problems(spec: dict[str, Any]) -> Iterator[str]:
    """A sentence for each problem. spec: the policy's `spec`."""
    types = spec.get("policyTypes", [])
    if spec["podSelector"] == {} and not {"Ingress", "Egress"} <= set(types):
        yield "policyTypes: [Ingress, Egress]: what is not named is allowed"
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        for rule in spec.get(direction, []):
            if not rule.get(peers):
                yield f"{direction}: a rule without `{peers}` is one for everybody"
            for peer in rule.get(peers, []):
                yield from _peer(direction, peer, rule)


def _peer(direction: str, peer: dict[str, Any], rule: dict[str, Any]) -> Iterator[str]:
    if "namespaceSelector" in peer and not peer["namespaceSelector"].get("matchLabels", {}).get(
        "kubernetes.io/metadata.name"
    ):
        yield f"{direction}: a namespaceSelector names its namespace, else a pod of any namespace can call itself anything"
    block = peer.get("ipBlock", {})
    if block.get("cidr", "").endswith("/0"):
        if missing := sorted(INSIDE - set(block.get("except", []))):
            yield f"{direction}: {block['cidr']} holds private networks and a cloud's metadata; except: {', '.join(missing)}"
        if [each.get("port") for each in rule.get("ports", [])] != [443]:
            yield f"{direction}: to anywhere by TLS alone, port 443"
