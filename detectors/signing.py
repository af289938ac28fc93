"""Ed25519 signatures (RFC 8032) over a bundle's manifest, with PEM keys."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)


class SigningError(ValueError):
    """A key cannot be used, or a signature does not hold."""


def sign(message: bytes, private_key: bytes) -> bytes:
    """The 64-byte signature of ``message`` under an unencrypted PKCS#8 PEM key.

    Raises:
        SigningError: if the key is not such a key.
    """
    try:
        key = load_pem_private_key(private_key, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SigningError(f"the signing key cannot be read: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SigningError("the signing key is not an Ed25519 private key")
    return key.sign(message)


def verify(message: bytes, signature: bytes | None, public_keys: Sequence[bytes]) -> str:
    """The fingerprint of the first key under which the signature holds.

    Raises:
        SigningError: if there is none, it holds under no key, or any key cannot be read.
    """
    keys = [_public_key(pem) for pem in public_keys]
    if signature is None:
        raise SigningError("it is not signed, and must be signed by a trusted key")
    for pem, key in zip(public_keys, keys, strict=True):
        try:
            key.verify(signature, message)
        except InvalidSignature:
            continue
        return fingerprint(pem)
    raise SigningError("the signature is not by a trusted key, or what it signs was changed")


def fingerprint(public_key: bytes) -> str:
    """SHA-256, in hexadecimal, of the 32 raw bytes of a PEM public key.

    Raises:
        SigningError: if it is not an Ed25519 public key.
    """
    raw = _public_key(public_key).public_bytes(Encoding.Raw, PublicFormat.Raw)
    return hashlib.sha256(raw).hexdigest()


def _public_key(pem: bytes) -> Ed25519PublicKey:
    try:
        key = load_pem_public_key(pem)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SigningError(f"a trusted key cannot be read: {error}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise SigningError("a trusted key is not an Ed25519 public key")
    return key
