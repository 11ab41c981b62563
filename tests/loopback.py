"""Servers on loopback: plain web, and the S3 protocol over TLS with a certificate authority of its own."""

import contextlib
import functools
import ipaddress
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import BaseServer
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

HOST = "127.0.0.1"


class _QuietFiles(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


class _QuietS3(WSGIRequestHandler):
    def log_request(self, *_: Any) -> None:
        pass


def web(folder: Path) -> contextlib.AbstractContextManager[str]:
    """The address of a folder on a web server."""
    server = ThreadingHTTPServer((HOST, 0), functools.partial(_QuietFiles, directory=str(folder)))
    return _serving(server, f"http://{HOST}:{server.server_port}")


def s3(folder: Path) -> contextlib.AbstractContextManager[str]:
    """The address of an empty S3-protocol server; `folder` gets `authority.pem`, which its clients have to trust."""
    app = DomainDispatcherApplication(create_backend_app)
    secret = certificate(folder)
    server = make_server(HOST, 0, app, threaded=True, request_handler=_QuietS3, ssl_context=secret)
    return _serving(server, f"https://{HOST}:{server.server_port}")


@contextlib.contextmanager
def _serving(server: BaseServer, address: str) -> Iterator[str]:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield address
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def certificate(folder: Path) -> tuple[str, str]:
    """Files of a certificate for loopback and its key, signed by `authority.pem` beside them."""
    authority, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer, subject = (x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, n)]) for n in ("test authority", HOST))
    usage = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False)
    usage |= {"crl_sign": True, "encipher_only": False, "decipher_only": False}
    root = _begun(issuer, issuer, authority, authority)
    root = root.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    root = root.add_extension(x509.KeyUsage(digital_signature=True, key_cert_sign=True, **usage), critical=True)
    leaf = _begun(subject, issuer, own, authority)
    leaf = leaf.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST))])
    leaf = leaf.add_extension(names, critical=False)
    pem = serialization.Encoding.PEM
    key = own.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    signed = {"authority": root, "leaf": leaf}
    files = {name: one.sign(authority, hashes.SHA256()).public_bytes(pem) for name, one in signed.items()} | {
        "key": key
    }
    for name, content in files.items():
        (folder / f"{name}.pem").write_bytes(content)
    return str(folder / "leaf.pem"), str(folder / "key.pem")


def _begun(
    subject: x509.Name, issuer: x509.Name, own: ec.EllipticCurvePrivateKey, authority: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    begun = x509.CertificateBuilder(issuer, subject, own.public_key(), x509.random_serial_number())
    begun = begun.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=1))
    begun = begun.add_extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False)
    known = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())
    return begun.add_extension(known, critical=False)
