"""URLs of addresses, and whether they are free."""

import socket

from deploy.inspection.doctor import is_plaudit
from deploy.local.addresses import local_url, port_problem, url_of
from tests.support.servers import free_port


def test_ipv6_addresses() -> None:
    assert url_of("::1", 80) == "http://[::1]:80"
    assert local_url("::", 80) == "http://[::1]:80"
    assert local_url("0.0.0.0", 80) == "http://127.0.0.1:80"
    assert is_plaudit("::1", free_port()) is False
    assert is_plaudit("no host", 80) is False
    if socket.has_ipv6:
        with socket.socket(socket.AF_INET6) as other:
            try:
                other.bind(("::1", 0))
            except OSError:
                return  # this machine has no such address
            other.listen()
            assert "cannot listen on ::1" in str(port_problem("::1", other.getsockname()[1]))
        assert port_problem("::1", free_port()) is None
