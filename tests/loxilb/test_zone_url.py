"""A loxilb that is reached by its link-local address: the URL has a zone, its certificate and Host header have none."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest

from support.certificates import Authority
from support.netns import Namespace, namespace
from support.standin import StandinProcess, running_standin
from support.waiting import eventually_sync

CALL = """
import asyncio, ssl, sys
from routesync.loxilb.client import LoxilbClient
async def main(url, ca):
    tls = ssl.create_default_context(cafile=ca) if url.startswith("https") else None
    async with LoxilbClient(url, tls=tls) as client:
        print(await client.version(), [len(end) for end in client.ends])
try:
    asyncio.run(main(*sys.argv[1:]))
except Exception as error:
    print(error)
"""


class Lab:
    """A namespace with a loxilb in it, at a link-local address, and a neighbour of it."""

    def __init__(self, space: Namespace, node: Namespace, directory: Path) -> None:
        self._space, self._node = space, node
        self._authority = Authority(directory)
        space.ip(f"link add ens3 type veth peer name e0 netns {node.name}")
        for side, link in ((space, "ens3"), (node, "e0")):
            side.ip(f"link set {link} up")
        for side, link in ((space, "ens3"), (node, "e0")):
            eventually_sync(partial(_has_link_local, side, link), what=f"an address of {link}")

    @property
    def address(self) -> str:
        """Where the stand-in listens."""
        return _link_local(self._space, "ens3")

    def running(self, certified: str) -> AbstractContextManager[StandinProcess]:
        """Run a stand-in whose certificate is for this address."""
        pair = self._authority.issue("loxilb", alternative=f"IP:{certified}")
        listen = ("--listen", "[::]:11111", "--tls-listen", "[::]:8091")
        return running_standin(
            self._space, *listen, "--tls-cert", str(pair.certificate), "--tls-key", str(pair.key)
        )

    def call(self, url: str) -> str:
        """What the neighbour's client says of this URL."""
        return self._node.run([sys.executable, "-c", CALL, url, str(self._authority.certificate)]).strip()


def _link_local(space: Namespace, link: str) -> str:
    (found,) = json.loads(space.ip(f"-j -6 addr show dev {link}"))
    addresses = (info for info in found.get("addr_info", ()) if info["scope"] == "link")
    return next((str(info["local"]) for info in addresses if not info.get("tentative")), "")


def _has_link_local(space: Namespace, link: str) -> bool:
    return _link_local(space, link) != ""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with namespace("loxilb") as space, namespace("node") as node:
        yield Lab(space, node, tmp_path)


def test_it_is_reached_by_either_notation(lab: Lab) -> None:
    with lab.running(lab.address):
        for scheme, port in (("http", 11111), ("https", 8091)):
            for zone in ("%25e0", "%e0"):
                assert lab.call(f"{scheme}://[{lab.address}{zone}]:{port}") == "0.9.8.8 [16, 16]"
        said = lab.call(f"http://[{lab.address}%25e7]:11111")
        assert said.endswith(
            f"cannot connect to http://[{lab.address}%25e7]:11111: there is no interface e7 here"
        )


def test_its_certificate_must_be_for_its_address(lab: Lab) -> None:
    with lab.running("fe80::bad"):
        assert "certificate not accepted" in lab.call(f"https://[{lab.address}%25e0]:8091")
