"""https:// policy servers: the certificate is checked, and nothing is sent before."""

import datetime
import ipaddress
import ssl

import pytest
from conftest import ask, refusal, unavailable
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

ASKED = "the policy server cannot be asked: "


def certificate(folder, name):
    """A self-signed certificate of 127.0.0.1, and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{name}.pem"
    path.write_bytes(
        signed.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


@pytest.fixture
def tls(server, environment, tmp_path):
    ours = certificate(tmp_path, "policy")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ours)
    server.wrap = lambda sock: context.wrap_socket(sock, server_side=True)
    environment.setenv("DSTACK_ISOLATION_POLICY_URL", f"https://127.0.0.1:{server.port}")
    return ours


def test_trusted_certificate(policy, server, environment, tls):
    environment.setenv("DSTACK_ISOLATION_CA_FILE", str(tls))
    for _ in range(3):
        ask(policy)
    assert len(server.requests) == 3


def test_certificate_that_the_system_trusts(policy, server, environment, tls):
    environment.setenv("SSL_CERT_FILE", str(tls))
    ask(policy)
    assert len(server.requests) == 1


@pytest.mark.usefixtures("tls")
def test_certificate_of_an_unknown_authority(policy, server):
    assert refusal(policy) == unavailable(ASKED + "its TLS certificate is not trusted")
    assert server.requests == []


@pytest.mark.usefixtures("tls")
def test_certificate_of_another_authority(policy, server, environment, tmp_path):
    environment.setenv("DSTACK_ISOLATION_CA_FILE", str(certificate(tmp_path, "other")))
    assert refusal(policy) == unavailable(ASKED + "its TLS certificate is not trusted")
    assert server.requests == []


def test_certificate_of_another_host(policy, server, environment, tls):
    environment.setenv("DSTACK_ISOLATION_CA_FILE", str(tls))
    environment.setenv("DSTACK_ISOLATION_POLICY_URL", f"https://localhost:{server.port}")
    assert refusal(policy) == unavailable(ASKED + "its TLS certificate is not trusted")
    assert server.requests == []


@pytest.mark.usefixtures("tls")
@pytest.mark.parametrize("content", [None, "", "not a certificate"])
def test_ca_file_without_certificates(policy, server, environment, tmp_path, content):
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    environment.setenv("DSTACK_ISOLATION_CA_FILE", str(path))
    assert refusal(policy) == unavailable("DSTACK_ISOLATION_CA_FILE names no file of certificates")
    assert server.requests == []


def test_plain_http_behind_https(policy, server, environment):
    environment.setenv("DSTACK_ISOLATION_POLICY_URL", f"https://127.0.0.1:{server.port}")
    server.wrap = lambda sock: (sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"), sock)[1]
    assert refusal(policy) == unavailable(ASKED + "TLS with it fails")
    assert server.requests == []


def test_python_without_tls(policy, environment):
    from dstack_isolation import _transport

    environment.setenv("DSTACK_ISOLATION_POLICY_URL", "https://policy")
    environment.setattr(_transport, "ssl", None)
    assert refusal(policy) == unavailable(
        "DSTACK_ISOLATION_POLICY_URL is https, but this Python has no TLS"
    )
