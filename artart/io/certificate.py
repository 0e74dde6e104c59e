"""Certificates for tests. Needs cryptography: pip install 'artart[provenance]'."""

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY = "artart test authority"
OTHER_USES = (
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "encipher_only",
    "decipher_only",
)


def new_certificate(name: str, days: int) -> tuple[bytes, bytes]:
    """A certificate chain (leaf, authority) that no verifier trusts, and the leaf's private key; PEM both.

    Source of its extensions: C2PA Technical Specification 2.2, 14.5.1, "Certificate Profile".
    """
    authority, private = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    chain = [_certificate(name, private, authority, days), _certificate(AUTHORITY, authority, authority, days)]
    pem = serialization.Encoding.PEM
    secret = private.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return b"".join(one.public_bytes(pem) for one in chain), secret


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, authority: ec.EllipticCurvePrivateKey, days: int
) -> x509.Certificate:
    """A certificate of a key; the authority's own if they are the same."""
    start, is_authority = datetime.now(UTC) - timedelta(hours=1), key is authority  # clocks differ
    uses = {"digital_signature": not is_authority, "key_cert_sign": is_authority, "crl_sign": is_authority}
    purpose = ExtendedKeyUsageOID.OCSP_SIGNING if is_authority else ExtendedKeyUsageOID.EMAIL_PROTECTION
    return (
        x509.CertificateBuilder(_subject(AUTHORITY), _subject(name), key.public_key(), x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=days))
        .add_extension(x509.BasicConstraints(is_authority, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**uses, **dict.fromkeys(OTHER_USES, False)), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False)
        .sign(authority, hashes.SHA256())
    )


def _subject(name: str) -> x509.Name:
    words = {NameOID.COMMON_NAME: name, NameOID.ORGANIZATION_NAME: "test certificate"}
    return x509.Name([x509.NameAttribute(key, value) for key, value in words.items()])
