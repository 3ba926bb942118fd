"""Where the stand-in listens: TCP, TLS, a Unix socket, and sockets that were opened for it in another namespace."""

from __future__ import annotations

import socket
import ssl
from typing import Final

from aiohttp import web

from standin.options import StandinOptions

_BACKLOG: Final = 1024


def tls_context(options: StandinOptions) -> ssl.SSLContext | None:
    """Build the server side of TLS, or None where no certificate is configured.

    Raises:
        OSError: a file is missing or is no certificate or key (ssl.SSLError is one).
    """
    if options.tls_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(options.tls_cert, options.tls_key)
        if options.tls_client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(options.tls_client_ca)
    except OSError as error:  # it does not say of which file it speaks
        files = f"{options.tls_cert}, {options.tls_key}, {options.tls_client_ca}"
        raise OSError(
            f"certificate, key and client CA ({files}) do not make a TLS server: {error}"
        ) from error
    return context


async def open_sites(runner: web.BaseRunner, options: StandinOptions) -> None:
    """Listen wherever the options say. As with loxilb, the plain port stays open beside TLS.

    Raises:
        OSError: an address cannot be had, or TLS not be set up.
    """
    tls = tls_context(options)
    sites: list[web.BaseSite] = []
    if options.listen is not None:
        sites.append(web.TCPSite(runner, *options.listen, backlog=_BACKLOG))
    if options.listen_unix is not None:
        sites.append(web.UnixSite(runner, str(options.listen_unix), backlog=_BACKLOG))
    if options.listen_fd is not None:
        sites.append(web.SockSite(runner, socket.socket(fileno=options.listen_fd), backlog=_BACKLOG))
    if tls is not None and options.tls_listen is not None:
        sites.append(web.TCPSite(runner, *options.tls_listen, ssl_context=tls, backlog=_BACKLOG))
    if tls is not None and options.tls_listen_fd is not None:
        inherited = socket.socket(fileno=options.tls_listen_fd)
        sites.append(web.SockSite(runner, inherited, ssl_context=tls, backlog=_BACKLOG))
    for site in sites:
        await site.start()
