"""The environment names a proxy as it does for kubectl."""

import pytest

from controller.kube.proxies import proxy_of

PROXY = "http://proxy:3128"
HTTPS = {"HTTPS_PROXY": PROXY}


@pytest.mark.parametrize(
    ("server", "environ", "found"),
    [
        ("https://10.0.0.1:6443", {}, None),
        ("https://10.0.0.1:6443", HTTPS, ("HTTPS_PROXY", PROXY)),
        ("https://10.0.0.1:6443", {"https_proxy": PROXY}, ("https_proxy", PROXY)),
        ("https://10.0.0.1:6443", {"https_proxy": "http://other", "HTTPS_PROXY": PROXY}, ("HTTPS_PROXY", PROXY)),
        ("https://10.0.0.1:6443", {"HTTPS_PROXY": "proxy:3128"}, ("HTTPS_PROXY", PROXY)),
        ("https://10.0.0.1:6443", {"HTTPS_PROXY": ""}, None),
        ("https://10.0.0.1:6443", {"HTTP_PROXY": PROXY, "ALL_PROXY": PROXY}, None),
        ("http://10.0.0.1", {"HTTP_PROXY": PROXY}, ("HTTP_PROXY", PROXY)),
        ("https://127.0.0.1:6443", HTTPS, None),
        ("https://[::1]:6443", HTTPS, None),
        ("https://localhost", HTTPS, None),
    ],
)
def test_proxy(server: str, environ: dict[str, str], found: tuple[str, str] | None) -> None:
    assert proxy_of(server, environ) == found


@pytest.mark.parametrize(
    ("host", "no_proxy", "direct"),
    [
        ("10.96.0.1", "10.96.0.0/12", True),
        ("10.96.0.1", "10.0.0.0/16", False),
        ("10.96.0.1", "10.96.0.1", True),
        ("10.96.0.1", "10.96.0.1:443", True),
        ("10.96.0.1", "10.96.0.1:6443", False),
        ("10.96.0.1", "10.96.0.10", False),
        ("[fd00::1]", "fd00::/8", True),
        ("[fd00::1]", "fd00::1", True),
        ("[fd00::1]", "[fd00::1]:443", True),
        ("api.example.com", "example.com", True),
        ("example.com", "example.com", True),
        ("example.com", ".example.com", False),
        ("api.example.com", ".example.com", True),
        ("api.example.com", "*.example.com", True),
        ("badexample.com", "example.com", False),
        ("api.example.com", "EXAMPLE.com ", True),
        ("api.example.com", "other, example.com:443", True),
        ("api.example.com", "example.com:80", False),
        ("api.example.com", "*", True),
        ("api.example.com", ",", False),
        ("api.example.com", "10.0.0.0/8", False),
    ],
)
@pytest.mark.parametrize("variable", ["NO_PROXY", "no_proxy"])
def test_no_proxy(host: str, no_proxy: str, variable: str, *, direct: bool) -> None:
    assert (proxy_of(f"https://{host}", HTTPS | {variable: no_proxy}) is None) == direct
