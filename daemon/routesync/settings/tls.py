"""TLS towards loxilb and the broker: from settings to a context."""

from __future__ import annotations

import ssl

from routesync.settings.notation import NotationError
from routesync.settings.peers import TlsSettings


def client_context(tls: TlsSettings) -> ssl.SSLContext:
    """Make the context of a client that checks the server's certificate and name.

    Raises:
        NotationError: a file that cannot be read, or does not hold what it should.
    """
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
    except (OSError, ValueError) as error:
        raise _unusable("ca_file", tls.ca_file, error) from None
    if tls.cert_file is not None:
        try:
            # An empty passphrase keeps OpenSSL from asking for one on the terminal.
            context.load_cert_chain(tls.cert_file, tls.key_file, password="")
        except (OSError, ValueError) as error:
            raise _unusable("cert_file or key_file", tls.key_file or tls.cert_file, error) from None
    return context


def _unusable(key: str, file: str | None, error: Exception) -> NotationError:
    if isinstance(error, ssl.SSLError):
        return NotationError(
            f"{key}: {file!r} is not usable ({error.reason or 'a part is missing'})",
            "give PEM files that belong together",
        )
    reason = error.strerror if isinstance(error, OSError) else "no such name of a file"
    return NotationError(f"{key}: cannot read {file!r}: {reason}", "give files that this user may read")
