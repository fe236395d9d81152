"""Which addresses a fetch may connect to, and the way there: web sites in the public internet, and nothing else.

A name is resolved once, and the addresses that were checked are those to connect to: a name that leads elsewhere when
it is asked for again gains nothing.
"""

from __future__ import annotations

import base64
import ipaddress
import re
import socket
from urllib.parse import SplitResult, unquote, urlsplit

Address = tuple[int, tuple[str, int]]
"""Family, host and port."""

MAX_HEAD_BYTES = 1 << 16  # of what the user's proxy says to a tunnel

_HOST = re.compile(r"[A-Za-z0-9._:-]{1,253}")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_IPV6_SITES = ipaddress.ip_network("2000::/3")
_NO_SITES = [
    ipaddress.ip_network(network)
    for network in (
        *("192.0.0.0/24", "192.88.99.0/24", "224.0.0.0/3"),  # protocol assignments, 6to4 relays, multicast and reserved
        "168.63.129.16/32",  # Azure's host, to its guests
        *("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"),  # Teredo and assignments, examples, 6to4, examples
    )
]


class RefusedError(Exception):
    """No fetch may go there; the text is one line."""


class NoWayError(Exception):
    """No connection can be made; the text is one line."""


def is_public(address: str) -> bool:
    """Whether an IP address is one at which a web site can be; those wrapped in IPv6 are unwrapped."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None or ip in _NAT64:
            ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        elif ip not in _IPV6_SITES or ip.scope_id:
            return False
    return ip.is_global and not any(ip in network for network in _NO_SITES)


class Way:
    """How to get to web sites: at once, or through the user's own proxy.

    Parameters
    ----------
    allow_private
        Let pass addresses of this machine and its network, on any port.
    upstream
        The user's own proxy, ``http://[user:password@]host[:port]``.

    Raises
    ------
    ValueError
        If ``upstream`` is no http proxy.
    """

    def __init__(self, *, allow_private: bool = False, upstream: str | None = None) -> None:
        self._allow_private = allow_private
        self._upstream = _parse_upstream(upstream) if upstream else None

    def addresses(self, host: str, port: int) -> list[Address]:
        """Give what to connect to for a site: its own addresses, all of them checked, or those of the user's proxy.

        Raises
        ------
        RefusedError
            If it can be no site: by its name, by its port, or because one of its addresses is private.
        NoWayError
            If a name does not resolve; a site's may be known to the user's proxy alone.
        """
        if not _HOST.fullmatch(host):
            raise RefusedError("the host's name is none")
        if not self._allow_private and port not in (80, 443) and not 1024 <= port <= 65535:
            # Sites are on these or, unprivileged, above; nobody is to speak to mail and login servers from here.
            raise RefusedError(f"{host} at port {port} is no web site")
        try:
            found = _resolve(host, port)
        except (OSError, ValueError) as error:
            if self._upstream is None:
                raise NoWayError(f"cannot resolve {host}: {error}") from error
            found = []
        for _, (address, *_rest) in found:
            if not self._allow_private and not is_public(address):
                known_as = "" if host == address else f" ({host})"
                raise RefusedError(f"{address}{known_as} is a private address")
        if self._upstream is None:
            return found
        try:
            return _resolve(self._upstream.hostname or "", self._upstream.port or 80)
        except (OSError, ValueError) as error:
            raise NoWayError("cannot resolve the name of the proxy in use") from error

    def connect(
        self, connection: socket.socket, address: tuple[str, int], host: str, port: int, *, tunnel: bool
    ) -> str | None:
        """Connect to one of a site's ``addresses``.

        Returns
        -------
        str or None
            The user's proxy's share of the head of a forwarded request; None where no proxy is in use.

        Raises
        ------
        RefusedError
            If the other end is this machine.
        OSError
            If there is no connection, or the user's proxy makes none.
        """
        connection.connect(address)
        if self._upstream is None:
            if not self._allow_private and connection.getpeername()[0] == connection.getsockname()[0]:
                raise RefusedError(f"{host} is this machine")
            return None
        extra = ""
        if self._upstream.username is not None:
            user, password = unquote(self._upstream.username), unquote(self._upstream.password or "")
            extra = f"Proxy-Authorization: {basic_auth(user, password)}\r\n"
        if tunnel:
            target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            connection.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{extra}\r\n".encode())
            head = b""
            while not head.endswith(b"\r\n\r\n") and len(head) < MAX_HEAD_BYTES and (byte := connection.recv(1)):
                head += byte  # one by one: what follows is the tunnel's
            if not re.match(rb"HTTP/1\.\d 2\d\d", head):
                raise ConnectionError(f"the proxy in use answered {head[9:12].decode(errors='replace') or 'nothing'}")
        return extra


def basic_auth(user: str, password: str) -> str:
    """Value of a header for ``user`` and ``password``."""
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


def _resolve(host: str, port: int) -> list[Address]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, address) for family, _, _, _, address in found]  # type: ignore[misc]  # no other kind comes


def _parse_upstream(upstream: str) -> SplitResult:
    parts = urlsplit(upstream if "://" in upstream else f"http://{upstream}")
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(f"the proxy must be http://[user:password@]host[:port]; {parts.scheme}:// is not served")
    return parts
