"""Who one is to the broker, and whom one believes to be the broker.

Files are read once, when a session is made: before privileges are dropped and before anything is
sent. A changed file needs a restart. Nothing here ever shows a seed.
"""

from __future__ import annotations

import base64
import binascii
import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import nacl.exceptions
import nkeys

from transport.errors import CredentialsError
from transport.settings import BrokerSettings

_SIZE_MAX_BYTES = 64 * 1024
_JWT = re.compile(r"-+BEGIN NATS USER JWT-+\s+([A-Za-z0-9_\-.=]+)\s+-+END NATS USER JWT-+")
_SEED = re.compile(r"-+BEGIN USER NKEY SEED-+\s+([A-Z2-7]+)\s+-+END USER NKEY SEED-+")


@dataclass(frozen=True)
class Identity:
    """Proof of who one is; empty where the broker asks for none."""

    jwt: str = field(default="", repr=False)
    seed: str = field(default="", repr=False)
    public_key: str = ""

    def sign(self, nonce: str) -> bytes:
        """The broker's challenge, signed, in base64."""
        pair = nkeys.from_seed(bytearray(self.seed.encode()))
        return base64.b64encode(pair.sign(nonce.encode()))


def read_identity(settings: BrokerSettings) -> Identity:
    """The identity that the settings name.

    Raises:
        CredentialsError: a file cannot be read or is not what it should be, or both are given.
    """
    if settings.credentials_file and settings.nkey_seed_file:
        raise CredentialsError(
            "[broker] has credentials_file and nkey_seed_file: give the one that the broker knows"
        )
    if settings.credentials_file:
        path = settings.credentials_file
        text = _read(path, "credentials_file")
        jwt, seed = _JWT.search(text), _SEED.search(text)
        if not jwt or not seed:
            missing = "user JWT" if not jwt else "user nkey seed"
            raise CredentialsError(f"credentials_file {path}: there is no {missing} in it")
        return Identity(jwt[1], seed[1], _public_key(seed[1], f"credentials_file {path}"))
    if settings.nkey_seed_file:
        path = settings.nkey_seed_file
        return identity_of(_read(path, "nkey_seed_file").strip(), f"nkey_seed_file {path}")
    return Identity()


def identity_of(seed: str, where: str) -> Identity:
    """The identity of an nkey's seed.

    Args:
        seed: the seed.
        where: it was found, for the error.

    Raises:
        CredentialsError: it is none.
    """
    return Identity("", seed, _public_key(seed, where))


def _read(path: Path, key: str) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(_SIZE_MAX_BYTES + 1)
    except OSError as error:
        raise CredentialsError(f"{key} {path}: {error.strerror}") from error
    if len(raw) > _SIZE_MAX_BYTES:
        raise CredentialsError(f"{key} {path}: larger than {_SIZE_MAX_BYTES} bytes")
    try:
        return raw.decode("ascii")
    except UnicodeDecodeError:
        raise CredentialsError(f"{key} {path}: not a text file") from None


def _public_key(seed: str, where: str) -> str:
    wrong = f"{where}: it holds no user's nkey seed, which begins with SU"
    if not seed.startswith("SU"):
        raise CredentialsError(wrong)
    try:
        raw = base64.b32decode(seed + "=" * (-len(seed) % 8))
        if bytes(nkeys.crc16_checksum(raw[:-2])) != raw[-2:]:  # nkeys does not look at it
            raise CredentialsError(f"{wrong}: a letter of it is wrong")
        public: bytes = nkeys.from_seed(bytearray(seed.encode())).public_key
    except (nkeys.NkeysError, nacl.exceptions.CryptoError, binascii.Error, ValueError) as error:
        # Without its cause: that may quote the seed.
        raise CredentialsError(f"{wrong} ({type(error).__name__})") from None
    return public.decode()


def read_tls(settings: BrokerSettings, url: str) -> ssl.SSLContext | None:
    """How to check the broker's certificate, and one's own; None if TLS was not asked for.

    A ``tls://`` url or any of the ``tls_`` settings asks for it; then the session refuses a broker
    that offers none. A broker that demands TLS gets it in any case.

    Raises:
        CredentialsError: a file cannot be read or is not what it should be.
    """
    files = (settings.tls_ca_file, settings.tls_certificate_file, settings.tls_key_file)
    if urlsplit(url).scheme != "tls" and not any(files):
        return None
    if settings.tls_key_file and not settings.tls_certificate_file:
        raise CredentialsError("[broker] has tls_key_file without tls_certificate_file")
    try:
        context = ssl.create_default_context(cafile=settings.tls_ca_file)
    except (OSError, ssl.SSLError) as error:
        raise CredentialsError(
            f"tls_ca_file {settings.tls_ca_file}: {error.strerror or error}"
        ) from error
    if settings.tls_certificate_file:
        try:
            # An encrypted key would make OpenSSL ask on the terminal; this makes it fail.
            context.load_cert_chain(
                settings.tls_certificate_file, settings.tls_key_file, password=""
            )
        except (OSError, ssl.SSLError) as error:
            pair = f"{settings.tls_certificate_file}, tls_key_file {settings.tls_key_file}"
            raise CredentialsError(
                f"tls_certificate_file {pair}: {error.strerror or error}"
            ) from error
    return context


def without_secrets(url: str) -> str:
    """The url as it may be shown: without user and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
