"""Which addresses a fetch may connect to."""

from __future__ import annotations

import socket

import pytest

from pipeline.addresses import NoWayError, RefusedError, Way, is_public

PRIVATE = """
    127.0.0.1 127.8.8.8 0.0.0.0 10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 100.100.100.200 198.18.0.1
    192.0.0.8 192.0.2.1 198.51.100.1 203.0.113.1 192.88.99.1 168.63.129.16 224.0.0.1 239.1.1.1 240.0.0.1 255.255.255.255
    ::1 :: fe80::1 fe80::1%1 fc00::1 fd00:ec2::254 fec0::1 ff02::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::127.0.0.1
    64:ff9b::7f00:1 64:ff9b::a00:1 64:ff9b:1::808:808 2002:7f00:1:: 2001:0:7f00:1::1 2001:db8::1 3fff::1 100::1 5f00::1
""".split()  # noqa: SIM905


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_where_no_site_can_be_is_private(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.215.14", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_an_address_where_a_site_can_be_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("port", [0, 22, 25, 81, 445, 1023])
def test_ports_of_other_services_are_refused(port: int) -> None:
    with pytest.raises(RefusedError, match=f"1.1.1.1 at port {port} is no web site"):
        Way().addresses("1.1.1.1", port)
    assert Way(allow_private=True).addresses("1.1.1.1", port)


@pytest.mark.parametrize("port", [80, 443, 1024, 8080, 65535])
def test_ports_of_web_sites_are_not(port: int) -> None:
    assert Way().addresses("1.1.1.1", port) == [(socket.AF_INET, ("1.1.1.1", port))]


@pytest.mark.parametrize("host", ["", "a b", "a/b", "a@b", "a\n", "fe80::1%eth0", "x" * 254])
def test_what_is_no_name_is_refused(host: str) -> None:
    with pytest.raises(RefusedError, match="name is none"):
        Way(allow_private=True).addresses(host, 80)


def test_private_addresses_are_refused_unless_allowed() -> None:
    with pytest.raises(RefusedError, match=r"^10\.0\.0\.1 is a private address$"):
        Way().addresses("10.0.0.1", 80)
    assert Way(allow_private=True).addresses("10.0.0.1", 80) == [(socket.AF_INET, ("10.0.0.1", 80))]


def test_a_users_proxy_is_connected_to_in_the_sites_stead() -> None:
    way = Way(upstream="http://127.0.0.1:3128")  # it is the user's choice, and may be private
    assert way.addresses("1.1.1.1", 443) == [(socket.AF_INET, ("127.0.0.1", 3128))]
    with pytest.raises(RefusedError, match="private"):
        way.addresses("10.0.0.1", 443)


def test_what_does_not_resolve_is_left_to_a_users_proxy() -> None:
    label_too_long = f"{'x' * 70}.test"
    with pytest.raises(NoWayError, match="cannot resolve xxx"):
        Way().addresses(label_too_long, 80)
    assert Way(upstream="127.0.0.1").addresses(label_too_long, 80) == [(socket.AF_INET, ("127.0.0.1", 80))]
    with pytest.raises(NoWayError, match="the proxy in use"):
        Way(upstream=label_too_long).addresses("1.1.1.1", 80)
