"""All objects that a control plane has, of every kind: to see what something leaves behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cluster.control import ControlPlane

NOISE = {"events", "endpoints", "endpointslices", "componentstatuses", "apiservices"}  # the control plane's own


def everything(plane: ControlPlane) -> set[str]:
    """`<resource>/<namespace>/<name>` of all that can be listed."""
    accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    found = set()
    for root in ("/api", "/apis"):
        for group in plane.admin.request("GET", root, accept=accept)["items"]:
            version = group["versions"][0]
            base = "/".join(part for part in (root, group["metadata"].get("name"), version["version"]) if part)
            for resource in version.get("resources", []):
                name = resource["resource"]
                if "list" not in resource["verbs"] or name in NOISE:
                    continue
                for item in plane.admin.list(f"{base}/{name}"):
                    place = item["metadata"].get("namespace")
                    if (name, place) != ("leases", "kube-system"):
                        found.add("/".join(part for part in (name, place, item["metadata"]["name"]) if part))
    return found
