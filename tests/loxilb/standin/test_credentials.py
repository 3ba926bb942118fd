"""Tokens and TLS of the stand-in."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import aiohttp
import pytest

from support.loxilb_caller import Caller
from support.netns import Namespace
from support.standin import running_standin

SELF_SIGNED = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
INVALID_TOKEN = (500, {"code": 500, "message": "invalid token"})


async def test_manual_token_goes_raw_into_the_header(space: Namespace, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    with running_standin(space, "--manual-token", str(token)) as standin:
        assert await Caller(standin).ask("GET", "/version") == INVALID_TOKEN
        for wrong in ("Bearer first", "second"):
            assert (
                await Caller(standin, headers={"Authorization": wrong}).post("10.1.0.0/16") == INVALID_TOKEN
            )
        assert (await Caller(standin, headers={"Authorization": "first"}).post("10.1.0.0/16"))[0] == 200
        token.write_text("second\n")
        assert (await Caller(standin, headers={"Authorization": "second"}).delete("10.1.0.0/16"))[0] == 200
        assert (
            await Caller(standin, headers={"Authorization": "first"}).ask("GET", "/version") == INVALID_TOKEN
        )


async def test_userservice_answers_401_without_credentials(space: Namespace) -> None:
    with running_standin(space, "--userservice", "secret") as standin:
        assert (await Caller(standin).ask("GET", "/version"))[0] == 401
        assert (await Caller(standin).post("10.1.0.0/16"))[0] == 401
        assert (await Caller(standin, headers={"Authorization": "secret"}).ask("GET", "/version"))[0] == 200


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1, and another for a client."""
    directory = tmp_path_factory.mktemp("tls")
    for name, subject in (("server", "/CN=loxilb"), ("client", "/CN=routesync")):
        files = f"-keyout {directory}/{name}.key -out {directory}/{name}.crt"
        command = f"{SELF_SIGNED} -subj {subject} -addext subjectAltName=IP:127.0.0.1 {files}"
        subprocess.run(command.split(), check=True, capture_output=True)
    return directory


def _client_tls(certificates: Path, *, with_certificate: bool) -> aiohttp.TCPConnector:
    context = ssl.create_default_context(cafile=certificates / "server.crt")
    if with_certificate:
        context.load_cert_chain(certificates / "client.crt", certificates / "client.key")
    return aiohttp.TCPConnector(ssl=context)


def _server_options(certificates: Path) -> tuple[str, ...]:
    return ("--tls-cert", str(certificates / "server.crt"), "--tls-key", str(certificates / "server.key"))


async def test_tls_beside_the_plain_port(space: Namespace, certificates: Path) -> None:
    with running_standin(space, *_server_options(certificates)) as standin:
        secure = Caller(
            standin, url=standin.tls_url, connector=_client_tls(certificates, with_certificate=False)
        )
        assert (await secure.ask("GET", "/version"))[0] == 200
        assert (await Caller(standin).ask("GET", "/version"))[0] == 200
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await Caller(standin, url=standin.tls_url).ask("GET", "/version")


async def test_client_certificate_can_be_required(space: Namespace, certificates: Path) -> None:
    client_ca = ("--tls-client-ca", str(certificates / "client.crt"))
    with running_standin(space, *_server_options(certificates), *client_ca) as standin:
        known = Caller(
            standin, url=standin.tls_url, connector=_client_tls(certificates, with_certificate=True)
        )
        assert (await known.ask("GET", "/version"))[0] == 200
        unknown = Caller(
            standin, url=standin.tls_url, connector=_client_tls(certificates, with_certificate=False)
        )
        with pytest.raises(aiohttp.ClientError):
            await unknown.ask("GET", "/version")
