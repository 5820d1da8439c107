"""Who may see and change a run: the address it is bound to, the token, and where a request comes from.

Bound to this machine alone (loopback), no token is needed; but a page of another site must not reach the run through
the browser of somebody who sits here. So the `Host` must be a name of this machine (a site that makes its own name
point here is refused), and what changes something must come from our own page (`Origin`, `Sec-Fetch-Site`) as JSON,
which other sites cannot send unasked. Bound elsewhere, every request needs the token besides.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import secrets
import socket
from dataclasses import dataclass
from email.message import Message
from urllib.parse import parse_qs, urlsplit

from vivim_runtime.errors import UsageError

__all__ = ["Access", "Address"]

_DEFAULT_PORT = 8080
# 128 bits: not to be guessed over a network.
_TOKEN_BYTES = 16
# Of a token that a person chooses; the characters need no quoting in an address or a cookie.
_TOKEN_FORM = re.compile(r"[A-Za-z0-9_-]{12,128}")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Address:
    """Where a server listens.

    Attributes:
        host: name or number; "" in a name means this machine alone.
        port: 0 lets the system choose.
    """

    host: str
    port: int

    @classmethod
    def from_name(cls, name: str) -> Address:
        """`http://HOST:PORT` -> its parts; UsageError for anything else."""
        expected = f"{name} is no address to serve; expected http://HOST:PORT, like http://127.0.0.1:8080"
        try:
            parts = urlsplit(name)
            port = _DEFAULT_PORT if parts.port is None else parts.port
        except ValueError:
            raise UsageError(expected) from None
        if parts.scheme != "http" or parts.path not in ("", "/") or parts.query or parts.username is not None:
            raise UsageError(expected)
        return cls(parts.hostname or "127.0.0.1", port)

    @property
    def is_loopback(self) -> bool:
        """Whether only programs on this machine can reach it."""
        return _is_loopback(self.host)

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET

    def url(self, port: int) -> str:
        """The address to open in a browser; where it listens on every network, this machine's own number."""
        host = self.host
        if host in ("0.0.0.0", "::"):
            host = _own_number(self.family) or socket.gethostname()
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _own_number(family: socket.AddressFamily) -> str | None:
    """This machine's address on the network it would use (connecting a datagram socket sends nothing)."""
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("2001:db8::1" if family == socket.AF_INET6 else "192.0.2.1", 9))  # reserved for examples
        except OSError:
            return None
        return str(probe.getsockname()[0])


class Access:
    """The rules for one server.

    Attributes:
        token: what every request must bring; None where none is needed.
    """

    def __init__(self, address: Address, token: str | None) -> None:
        if token is not None and not _TOKEN_FORM.fullmatch(token):
            raise UsageError("the token is not usable; expected 12 to 128 letters, digits, - and _")
        self._loopback = address.is_loopback
        self.token = token or (None if self._loopback else secrets.token_urlsafe(_TOKEN_BYTES))

    def cookie_name(self, port: int) -> str:
        """Cookies are shared by the ports of a machine, so the name has the port."""
        return f"vivim_token_{port}"

    def knows_token(self, query: str, headers: Message, port: int) -> bool:
        """Whether a request brings the token: `?token=`, a cookie, or `Authorization: Bearer`."""
        if self.token is None:
            return True
        offered = parse_qs(query).get("token", [])
        scheme, _, value = headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            offered.append(value.strip())
        # By hand: a parser of cookies stops at the first one of another program that is not by the book.
        for cookie in ";".join(headers.get_all("Cookie", [])).split(";"):
            name, _, value = cookie.strip().partition("=")
            if name == self.cookie_name(port):
                offered.append(value.strip('"'))
        expected = self.token.encode()
        found = False
        for each in offered:
            found |= hmac.compare_digest(each.encode(), expected)
        return found

    def trusts_host(self, headers: Message) -> bool:
        """Whether the request names this machine; only asked where no token protects."""
        if self.token is not None:
            return True
        try:
            return _is_loopback(urlsplit(f"//{headers.get('Host', '')}").hostname or "")
        except ValueError:
            return False

    def may_change(self, headers: Message) -> bool:
        """Whether a request that changes something comes from our own page, or from no page at all."""
        if headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
            return False
        origin = headers.get("Origin")
        return origin is None or origin == f"http://{headers.get('Host', '')}"
