"""The lab's own certificate authority, component certificates and kubeconfigs.

Keys are P-256 and live only as long as the lab's state directory. Called once by `up`; a complete set is reused.
Never writes outside `Paths.pki`.
"""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.lab.settings import API_SERVICE_IP, API_URL, NODE, NODE_IP, Paths

_VALID = datetime.timedelta(days=30)
# A test may run with a clock ten minutes off; certificates must not be what fails then.
_BACKDATE = datetime.timedelta(hours=2)
# Python 3.13 and newer refuse an authority that does not say it may sign.
_CA_USAGE = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)

# file stem -> (common name, organisation). Names and groups are what Kubernetes' bootstrap roles bind.
CLIENTS = {
    "admin": ("ratchet-lab-admin", "system:masters"),
    "controller-manager": ("system:kube-controller-manager", None),
    "scheduler": ("system:kube-scheduler", None),
    "proxy": ("system:kube-proxy", None),
    "kubelet": (f"system:node:{NODE}", "system:nodes"),
    "coredns": ("ratchet-lab-dns", "system:masters"),
    "prometheus": ("ratchet-lab-prometheus", "system:masters"),
    "apiserver-to-kubelet": ("ratchet-lab-apiserver", "system:masters"),
}


class Authority:
    """A certificate authority that writes PEM files into one directory."""

    def __init__(self, directory: Path) -> None:
        """Make a new authority; `ca.crt` and `ca.key` are written to `directory`."""
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ratchet-lab")])
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATE)
            .not_valid_after(now + _VALID)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_CA_USAGE, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self._write("ca", certificate, self._key)

    def issue(self, stem: str, *, common_name: str, organisation: str | None, hosts: tuple[str, ...] = ()) -> None:
        """Write `stem.crt` and `stem.key`, usable as client and, with `hosts`, as server certificate."""
        key = ec.generate_private_key(ec.SECP256R1())
        attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
        if organisation is not None:
            attributes.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation))
        now = datetime.datetime.now(datetime.UTC)
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if hosts else [])]
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name(attributes))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATE)
            .not_valid_after(now + _VALID)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if hosts:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False
            )
        self._write(stem, builder.sign(self._key, hashes.SHA256()), key)

    def _write(self, stem: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        (self._directory / f"{stem}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        _write_key(self._directory / f"{stem}.key", key)


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )


def create(paths: Paths) -> None:
    """Make every certificate, the service-account key pair and the kubeconfigs; a complete set is kept."""
    done = paths.pki / "complete"
    if done.exists():
        return
    authority = Authority(paths.pki)
    for stem, (common_name, organisation) in CLIENTS.items():
        hosts = (NODE, NODE_IP, "127.0.0.1") if stem == "kubelet" else ()
        authority.issue(stem, common_name=common_name, organisation=organisation, hosts=hosts)
    service_names = (
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    )
    authority.issue(
        "apiserver",
        common_name="kube-apiserver",
        organisation=None,
        hosts=(*service_names, "localhost", "127.0.0.1", NODE_IP, API_SERVICE_IP),
    )
    signing = ec.generate_private_key(ec.SECP256R1())
    _write_key(paths.pki / "service-account.key", signing)
    (paths.pki / "service-account.pub").write_bytes(
        signing.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    for stem in CLIENTS:
        if stem != "apiserver-to-kubelet":
            path = paths.pki / f"{stem}.kubeconfig"
            path.touch(mode=0o600)
            path.write_text(json.dumps(_kubeconfig(paths.pki, stem, paths.name), indent=1))
    done.touch()


def _kubeconfig(directory: Path, stem: str, context: str) -> dict[str, object]:
    """A kubeconfig with everything embedded. JSON is YAML, which every reader of kubeconfigs accepts."""

    def embedded(name: str) -> str:
        return base64.b64encode((directory / name).read_bytes()).decode()

    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": context, "cluster": {"server": API_URL, "certificate-authority-data": embedded("ca.crt")}}
        ],
        "users": [
            {
                "name": stem,
                "user": {
                    "client-certificate-data": embedded(f"{stem}.crt"),
                    "client-key-data": embedded(f"{stem}.key"),
                },
            }
        ],
        "contexts": [{"name": context, "context": {"cluster": context, "user": stem}}],
        "current-context": context,
    }
