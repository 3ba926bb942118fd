"""TLS settings: files that serve, and files that do not."""

from __future__ import annotations

import os
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from routesync.config import load
from routesync.config.credentials import client_context
from routesync.config.models import TlsSettings
from routesync.names import Names

Complaints = Callable[..., list[str]]

MQTT = '[mqtt]\nhost = "broker"\n'


def make_certificate(folder: Path, name: str, *options: str) -> None:
    """Make a self-signed certificate NAME.pem and its key NAME.key, by openssl(1)."""
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-days",
                "2",
            ),
            *("-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"),
            *("-keyout", f"{folder}/{name}.key", "-out", f"{folder}/{name}.pem"),
            *(options or ("-nodes",)),
        ],
        check=True,
        capture_output=True,
    )


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    make_certificate(folder, "server")
    make_certificate(folder, "client")
    make_certificate(folder, "locked", "-passout", "pass:it")
    return folder


def shake_hands(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> ssl.SSLObject:
    """Let both talk until they agree; give the server's side."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname=name)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    open_ends = [ours, theirs]
    while open_ends:
        for end in list(open_ends):
            try:
                end.do_handshake()
                open_ends.remove(end)
            except ssl.SSLWantReadError:
                continue
    return theirs


def server_context(folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    context.load_verify_locations(folder / "client.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def test_both_sides_prove_who_they_are(certificates: Path) -> None:
    tls = TlsSettings(
        ca_file=f"{certificates}/server.pem",
        cert_file=f"{certificates}/client.pem",
        key_file=f"{certificates}/client.key",
    )
    server = shake_hands(client_context(tls), server_context(certificates), "server")
    peer = server.getpeercert()
    assert peer is not None
    assert peer["subject"] == ((("commonName", "client"),),)


@pytest.mark.parametrize(
    ("ca", "name"), [(None, "server"), ("client.pem", "server"), ("server.pem", "other")]
)
def test_a_server_that_cannot_prove_who_it_is_is_not_talked_to(
    certificates: Path, ca: str | None, name: str
) -> None:
    context = client_context(TlsSettings(ca_file=f"{certificates}/{ca}" if ca else None))
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(context, server_context(certificates), name)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('ca_file = "nix.pem"', "ca_file: cannot read '{}/nix.pem': No such file or directory; "),
        ('ca_file = "server.key"', "ca_file: '{}/server.key' is not usable ("),
        ('cert_file = "server.pem"', "cert_file or key_file: '{}/server.pem' is not usable ("),
        (
            'cert_file = "server.pem"\nkey_file = "client.key"',
            "cert_file or key_file: '{}/client.key' is not usable (",
        ),
        (
            'cert_file = "locked.pem"\nkey_file = "locked.key"',
            "cert_file or key_file: '{}/locked.key' is not usable (",
        ),
    ],
)
def test_files_that_do_not_serve(
    complaints: Complaints, certificates: Path, text: str, expected: str
) -> None:
    (line,) = complaints(f"{MQTT}[mqtt.tls]\n{text}\n", CREDENTIALS_DIRECTORY=str(certificates))
    assert line.startswith(f"3: [mqtt], key tls: {expected.format(certificates)}")


@pytest.mark.parametrize("key", ["ca_file", "cert_file", "key_file"])
def test_a_pipe_or_device_in_place_of_a_file_is_not_waited_for(
    complaints: Complaints, certificates: Path, tmp_path: Path, key: str
) -> None:
    os.mkfifo(tmp_path / "pipe")
    files = {"cert_file": f"{certificates}/client.pem", "key_file": f"{certificates}/client.key"}
    for name in (f"{tmp_path}/pipe", "/dev/zero"):
        text = "".join(f"{it} = '{file}'\n" for it, file in (files | {key: name}).items())
        (line,) = complaints(f"{MQTT}[mqtt.tls]\n{text}")
        assert line == (
            f"3: [mqtt], key tls: {key}: cannot read '{name}': not a regular file; "
            "put a regular file of at most 16 MiB in its place"
        )


def test_a_key_without_a_certificate(complaints: Complaints) -> None:
    (line,) = complaints(f'{MQTT}[mqtt.tls]\nkey_file = "a.key"\n')
    assert line == "4: [mqtt.tls], key key_file: a key without a certificate; give cert_file too"


def test_names_of_files_become_absolute(certificates: Path) -> None:
    file = certificates / "it.toml"
    file.write_text(f'{MQTT}tls.ca_file = "server.pem"\n')
    mqtt = load(file, {}, Names()).settings.mqtt
    assert mqtt is not None
    assert mqtt.tls is not None
    assert mqtt.tls.ca_file == f"{certificates}/server.pem"


@pytest.mark.parametrize(
    ("text", "port"),
    [("", 1883), ("tls = {}\n", 8883), ("tls = {}\nport = 1884\n", 1884), ("port = 99\n", 99)],
)
def test_the_port_goes_with_tls(tmp_path: Path, text: str, port: int) -> None:
    file = tmp_path / "it.toml"
    file.write_text(MQTT + text)
    mqtt = load(file, {}, Names()).settings.mqtt
    assert mqtt is not None
    assert mqtt.port == port
