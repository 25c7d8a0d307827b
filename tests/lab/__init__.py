"""A real one-node Kubernetes for tests, started from binaries inside its own network namespace.

Real etcd, API server, scheduler, kubelet, containerd, kube-proxy, CoreDNS, an S3 store and Prometheus: nothing is
faked except the GPUs, whose capacity is patched onto the node. Nothing listens outside the namespace, no traffic
leaves the machine, and `down` leaves no process, mount, cgroup or namespace behind, not even after a crash.

`python -m tests.lab up|down|status|images|kubeconfig|shell` is the command line, `tests.lab.cluster.Lab` the API and
`tests.lab.fixtures.lab` the pytest fixture. How to use it by hand: docs/how-to/lab.md.
"""
