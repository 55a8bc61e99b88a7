"""A certificate authority for tests with TLS on loopback."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_DAY = datetime.timedelta(days=1)

_MAY_SIGN = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)
"""Python 3.13 and newer require it of a certificate authority."""


class Authority:
    """Signs certificates; ``file`` has its own certificate, for clients that trust it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _make_name("authority")
        certificate = (
            self._builder(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_MAY_SIGN, critical=True)
        )
        self.file = folder / "authority.pem"
        signed_certificate = certificate.sign(self._key, hashes.SHA256())
        self.file.write_bytes(signed_certificate.public_bytes(serialization.Encoding.PEM))

    def server(
        self,
        host: str,
        *,
        expires: datetime.timedelta = _DAY,
        self_signed: bool = False,
        key_identifiers: bool = True,
    ) -> ssl.SSLContext:
        """Return the TLS context of a server named ``host``; the options make its certificate invalid."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._builder(
            _make_name(host), key.public_key(), expires, key_identifiers, self_signed
        ).add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        signed_certificate = certificate.sign(key if self_signed else self._key, hashes.SHA256())
        file = self._folder / f"{host}.pem"
        file.write_bytes(
            signed_certificate.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context

    def _builder(
        self,
        name: x509.Name,
        key: ec.EllipticCurvePublicKey,
        expires: datetime.timedelta = _DAY,
        key_identifiers: bool = True,
        self_signed: bool = False,
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name if self_signed else self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 3 * _DAY)
            .not_valid_after(now + expires)
        )
        if not key_identifiers:
            return builder
        issuer = key if self_signed else self._key.public_key()
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer)
        return builder.add_extension(
            x509.SubjectKeyIdentifier.from_public_key(key), critical=False
        ).add_extension(identifier, critical=False)


def _make_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
