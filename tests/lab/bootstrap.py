"""Objects that every lab has from the start: the cluster's DNS Service, answered by CoreDNS on the node.

Pure: returns manifests, applies nothing.
"""

from __future__ import annotations

from tests.lab.settings import DNS_SERVICE_IP, NODE_IP


def cluster_objects() -> dict[str, object]:
    """Return a List with the DNS Service (no selector) and the EndpointSlice that leads to the host process."""
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system"},
        "spec": {"clusterIP": DNS_SERVICE_IP, "ports": ports},
    }
    endpoints = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "kube-dns-node",
            "namespace": "kube-system",
            "labels": {
                "kubernetes.io/service-name": "kube-dns",
                "endpointslice.kubernetes.io/managed-by": "ratchet-lab",
            },
        },
        "addressType": "IPv4",
        "ports": ports,
        "endpoints": [{"addresses": [NODE_IP], "conditions": {"ready": True}}],
    }
    return {"apiVersion": "v1", "kind": "List", "items": [service, endpoints]}
