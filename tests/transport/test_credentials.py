import secrets
import subprocess
from pathlib import Path

import nkeys
import pytest

from transport.credentials import read_identity, read_tls, without_secrets
from transport.errors import CredentialsError
from transport.session import Session
from transport.settings import BrokerSettings

TLS = "tls://broker:4222"


def new_seed(prefix: int = nkeys.PREFIX_BYTE_USER) -> str:
    return bytes(nkeys.encode_seed(secrets.token_bytes(32), prefix)).decode()


def creds(seed: str, jwt: str = "eyJ0.eyJq.c2ln", newline: str = "\n") -> str:
    lines = [
        *("-----BEGIN NATS USER JWT-----", jwt, "------END NATS USER JWT------", ""),
        *("-----BEGIN USER NKEY SEED-----", seed, "------END USER NKEY SEED------", ""),
    ]
    return newline.join(lines)


def write(folder: Path, text: str) -> Path:
    path = folder / "secret"
    path.write_bytes(text.encode())
    return path


def test_a_seed_file_is_a_user_who_can_sign(tmp_path: Path) -> None:
    seed = new_seed()
    found = read_identity(BrokerSettings(nkey_seed_file=write(tmp_path, f"  {seed}\n")))
    assert found.public_key.startswith("U")
    assert found.jwt == ""
    assert found.sign("nonce")
    assert seed not in repr(found)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_credentials_file_is_a_token_and_a_seed(tmp_path: Path, newline: str) -> None:
    seed = new_seed()
    path = write(tmp_path, creds(seed, newline=newline))
    found = read_identity(BrokerSettings(credentials_file=path))
    assert (found.jwt, found.seed) == ("eyJ0.eyJq.c2ln", seed)
    assert "eyJ0" not in repr(found)


def test_a_mistyped_seed_is_noticed(tmp_path: Path) -> None:
    seed = new_seed()
    wrong = seed[:30] + ("A" if seed[30] != "A" else "B") + seed[31:]
    with pytest.raises(CredentialsError, match="a letter of it is wrong"):
        read_identity(BrokerSettings(nkey_seed_file=write(tmp_path, wrong)))


def test_without_files_one_is_nobody() -> None:
    assert read_identity(BrokerSettings()).public_key == ""


@pytest.mark.parametrize(
    "text",
    [
        "",
        "garbage",
        "SU" + "A" * 56,
        "SUAMLK2ZNL35WSMW37E7UD4VZ7ELPKW7DHC3BWBSD2GCZ7IUQQXZIORRBU"[:-3],
        "SU!!!",
        "\0\1\2",
        "é",
        "SU" + "A" * 100_000,
    ],
)
def test_a_bad_seed_file_is_named_and_not_quoted(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(CredentialsError) as caught:
        read_identity(BrokerSettings(nkey_seed_file=path))
    assert f"nkey_seed_file {path}" in str(caught.value)
    assert not text or text not in str(caught.value)


def test_another_kind_of_seed_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, new_seed(nkeys.PREFIX_BYTE_ACCOUNT))
    with pytest.raises(CredentialsError, match="begins with SU"):
        read_identity(BrokerSettings(nkey_seed_file=path))


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        (creds(new_seed(), jwt=""), "user JWT"),
        (creds(new_seed()).partition("-----BEGIN USER")[0], "user nkey seed"),
        (new_seed(), "user JWT"),
    ],
)
def test_a_bad_credentials_file_says_what_is_missing(
    tmp_path: Path, text: str, missing: str
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(CredentialsError, match=f"credentials_file {path}.*{missing}"):
        read_identity(BrokerSettings(credentials_file=path))


def test_a_missing_file_is_named_before_anything_is_sent(tmp_path: Path) -> None:
    path = tmp_path / "none"
    for settings in (BrokerSettings(nkey_seed_file=path), BrokerSettings(credentials_file=path)):
        with pytest.raises(CredentialsError, match=f"{path}: No such file"):
            Session(settings, name="x")
    with pytest.raises(CredentialsError, match=f"tls_ca_file {path}: No such file"):
        Session(BrokerSettings(tls_ca_file=path), name="x")
    with pytest.raises(CredentialsError, match=f"tls_certificate_file {path}"):
        Session(BrokerSettings(tls_certificate_file=path), name="x")


def test_two_kinds_of_credentials_are_one_too_many(tmp_path: Path) -> None:
    path = write(tmp_path, new_seed())
    with pytest.raises(CredentialsError, match="give the one"):
        read_identity(BrokerSettings(nkey_seed_file=path, credentials_file=path))


def test_a_key_needs_its_certificate(tmp_path: Path) -> None:
    with pytest.raises(CredentialsError, match="without tls_certificate_file"):
        read_tls(BrokerSettings(tls_key_file=tmp_path / "key"), TLS)


def test_certificates_that_are_none_are_named(tmp_path: Path) -> None:
    path = write(tmp_path, "no certificate")
    with pytest.raises(CredentialsError, match=f"tls_ca_file {path}"):
        read_tls(BrokerSettings(tls_ca_file=path), TLS)
    with pytest.raises(CredentialsError, match=f"tls_certificate_file {path}"):
        read_tls(BrokerSettings(tls_certificate_file=path), TLS)


def test_an_encrypted_key_is_an_error_and_no_question(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-keyout", str(key), "-out", str(certificate), "-subj", "/CN=x"),
            *("-passout", "pass:word"),
        ],
        check=True,
        capture_output=True,
    )
    settings = BrokerSettings(tls_certificate_file=certificate, tls_key_file=key)
    with pytest.raises(CredentialsError, match=f"tls_key_file {key}"):
        read_tls(settings, TLS)


def test_tls_is_asked_for_by_the_address_or_a_setting() -> None:
    assert read_tls(BrokerSettings(), "nats://broker") is None
    context = read_tls(BrokerSettings(), TLS)
    assert context is not None
    assert context.check_hostname


def test_what_is_shown_of_an_address_is_no_secret() -> None:
    assert without_secrets("nats://me:p@ss@host:4222") == "nats://host:4222"
    assert without_secrets("nats://[::1]:4222") == "nats://[::1]:4222"


@pytest.mark.parametrize("url", ["ws://me:word@host", "http://host", "host:4222"])
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="give a nats:// or tls://") as caught:
        Session(BrokerSettings(), name="x", url=url)
    assert "word" not in str(caught.value)
