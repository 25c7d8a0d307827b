"""The gateway's login to its cluster, and the parts that use it. Importing this costs the Kubernetes client.

Decides where the login comes from: the pod's own service account, else the user's kubeconfig. Imported by `__main__`
only where policies, data sets or tokens are the cluster's.
"""

from __future__ import annotations

from kubernetes import client, config
from kubernetes.config.config_exception import ConfigException

from ratchet_api.environment import SettingsError
from ratchet_gateway.datasets_kubernetes import KubernetesDatasets
from ratchet_gateway.policies_kubernetes import KubernetesPolicies
from ratchet_gateway.tokenreview import KubernetesTokens
from ratchet_gateway.training_kubernetes import KubernetesTraining

__all__ = ["KubernetesDatasets", "KubernetesPolicies", "KubernetesTokens", "KubernetesTraining", "log_in"]


def log_in() -> client.ApiClient:
    """Return a client of the cluster.

    Raises:
        SettingsError: there is neither a service account nor a kubeconfig.
    """
    found = client.Configuration()
    try:
        config.load_incluster_config(client_configuration=found)
    except ConfigException:
        try:
            config.load_kube_config(client_configuration=found)
        except ConfigException as error:
            raise SettingsError(
                f"no login to a cluster ({error}); set KUBECONFIG, or RATCHET_GATEWAY_POLICIES and "
                "RATCHET_GATEWAY_AUTH=keys to run without one"
            ) from error
    return client.ApiClient(found)
