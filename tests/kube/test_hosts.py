"""The token and the kubeconfig of an enrolled host, where no API server is needed."""

import base64
import json
import re
import stat
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from controller.kube.access import Access
from controller.kube.hosts.kubeconfig import cluster_of, is_of_host, of_host, replace_token, write
from controller.kube.hosts.token import host_of, host_token, read_token
from controller.kube.kubeconfig import Kubeconfig
from controller.runtime.errors import Rejected

SUBJECT = "system:serviceaccount:kvm:virtsync-agent.kvm-7"
ACCESS = Access(server="https://10.0.0.1:6443", ca=b"the CA")


def token(**changes: Any) -> str:
    claims = {"sub": SUBJECT, "iat": 1000, "exp": 4600} | changes
    parts = ({"alg": "none"}, {name: value for name, value in claims.items() if value is not None})
    encoded = (base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts)
    return ".".join((*encoded, "signature"))


def test_a_token_says_its_host_and_how_long_it_is_valid() -> None:
    found = read_token(token())
    assert found
    assert (found.namespace, found.host) == ("kvm", "kvm-7")
    assert found.lifetime.issued == datetime.fromtimestamp(1000, UTC)
    assert found.lifetime.seconds == 3600


@pytest.mark.parametrize(
    "text",
    [
        "",
        "none",
        "a.b.c",
        "a.W10.c",
        token(sub=None),
        token(exp=None),
        token(exp="soon"),
        token(exp=10**30),
        token(sub=7),
        token(sub="system:serviceaccount:kvm:virtsync-agent"),
        token(sub="system:serviceaccount:kvm:virtsync-agent."),
        token(sub="virtsync-agent.kvm-7"),
    ],
)
def test_any_other_token_is_of_no_host(text: str) -> None:
    assert read_token(text) is None


@pytest.mark.parametrize(
    ("user", "found"),
    [
        (SUBJECT, ("kvm", "kvm-7")),
        ("system:serviceaccount:kvm:virtsync-agent.a.b.example.org", ("kvm", "a.b.example.org")),
        ("system:serviceaccount:kvm:virtsync-agent", ("", "")),
        ("system:serviceaccount:kvm:virtsync-agents.a", ("", "")),
        ("system:node:virtsync-agent.kvm-7", ("", "")),
        ("other:serviceaccount:kvm:virtsync-agent.kvm-7", ("", "")),
        ("virtsync-agent.kvm-7", ("", "")),
    ],
)
def test_the_host_is_in_the_name_of_the_account(user: str, found: tuple[str, str]) -> None:
    assert host_of(user) == found


def test_a_password_is_no_token() -> None:
    assert host_token(Access(server="https://a", authorization=f"Basic {token()}")) is None
    assert host_token(Access(server="https://a")) is None
    found = host_token(Access(server="https://a", authorization=f"Bearer {token()}"))
    assert found
    assert found.host == "kvm-7"


def test_the_kubeconfig_leads_to_the_same_api_server_as_the_host(tmp_path: Path) -> None:
    file = tmp_path / "kvm-7.kubeconfig"
    ca = trustme.CA().cert_pem.bytes()
    access = replace(ACCESS, ca=ca, server_name="kubernetes", proxy="http://10.0.0.2:3128", proxy_is_configured=True)
    write(file, of_host(cluster_of(access), "kvm-7", token()).encode())
    read = Kubeconfig(file, {}).read(refused=False)
    assert (read.server, read.ca, read.server_name, read.proxy) == (
        access.server,
        access.ca,
        access.server_name,
        access.proxy,
    )
    assert read.authorization == f"Bearer {token()}"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_the_url_can_be_that_which_the_host_reaches() -> None:
    config = yaml.safe_load(of_host(cluster_of(ACCESS, "https://api.example.org"), "kvm-7", token()))
    assert config["clusters"][0]["cluster"]["server"] == "https://api.example.org"


@pytest.mark.parametrize(
    ("environ", "server", "proxy"),
    [
        ({}, "", "http://10.0.0.2:3128"),
        ({}, "https://10.0.0.1:6443/", "http://10.0.0.2:3128"),
        ({}, "https://api.example.org", None),  # the host may reach this one without the proxy
        ({"HTTPS_PROXY": "http://10.0.0.3:3128"}, "", "http://10.0.0.2:3128"),
    ],
)
def test_the_proxy_is_that_of_the_kubeconfig(environ: dict[str, str], server: str, proxy: str | None) -> None:
    cluster = cluster_of(_access(environ, **{"proxy-url": "http://10.0.0.2:3128"}), server)
    assert cluster.get("proxy-url") == proxy


@pytest.mark.parametrize("proxy", ["http://10.0.0.3:3128", "http://ann:secret@10.0.0.3:3128"])
def test_a_proxy_of_the_environment_stays_on_this_machine(proxy: str) -> None:
    access = _access({"HTTPS_PROXY": proxy})
    assert access.proxy == "http://10.0.0.3:3128"
    assert cluster_of(access, "") == {"server": "https://10.0.0.1:6443"}


def _access(environ: dict[str, str], **cluster: str) -> Access:
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://10.0.0.1:6443"} | cluster}],
    }
    return Kubeconfig(Path("unread"), environ).access(config, refused=False)


@pytest.mark.parametrize("server", ["10.0.0.1:6443", "api.example.org", "ftp://a", "https://", "https://a:b"])
def test_a_url_of_no_api_server_is_refused(server: str) -> None:
    with pytest.raises(Rejected, match=re.escape(f"the URL of the API server {server!r} is not a URL like https://")):
        cluster_of(ACCESS, server)


@pytest.mark.parametrize(
    ("access", "server"), [(ACCESS, "http://10.0.0.1:8080"), (Access(server="http://10.0.0.1:8080"), "")]
)
def test_a_token_is_not_sent_in_clear_text(access: Access, server: str) -> None:
    with pytest.raises(Rejected, match="is not an https URL"):
        cluster_of(access, server)


@pytest.mark.parametrize(
    ("access", "told"),
    [
        (replace(ACCESS, insecure=True), "insecure-skip-tls-verify"),
        (replace(ACCESS, proxy="http://b", proxy_login=("u", "p"), proxy_is_configured=True), "proxy with a password"),
    ],
)
def test_what_a_host_must_not_get_is_refused(access: Access, told: str) -> None:
    with pytest.raises(Rejected, match=told):
        cluster_of(access)


def test_only_the_token_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    text = f"# mine\n{of_host(cluster_of(ACCESS), 'kvm-7', token())}"
    file.write_text(text)
    replace_token(file, token(), "another")
    assert file.read_text() == text.replace(token(), "another")
    assert [path.name for path in tmp_path.iterdir()] == ["kubeconfig"]


def test_a_link_to_the_kubeconfig_stays(tmp_path: Path) -> None:
    file, link = tmp_path / "kubeconfig", tmp_path / "link"
    file.write_text(of_host(cluster_of(ACCESS), "kvm-7", token()))
    link.symlink_to(file)
    replace_token(link, token(), "another")
    assert link.is_symlink()
    assert "another" in file.read_text()


def test_a_token_that_somebody_else_has_replaced_stays(tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    text = of_host(cluster_of(ACCESS), "kvm-7", token(exp=9000))
    file.write_text(text)
    replace_token(file, token(), "another")
    assert file.read_text() == text


def test_a_token_in_a_file_of_its_own_is_replaced_there(tmp_path: Path) -> None:
    config = yaml.safe_load(of_host(cluster_of(ACCESS), "kvm-7", "unused"))
    config["users"][0]["user"] = {"tokenFile": "token"}
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    (tmp_path / "token").write_text(token())
    replace_token(tmp_path / "kubeconfig", token(), "another")
    assert (tmp_path / "token").read_text() == "another"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="cannot be written: No such file or directory"):
        write(tmp_path / "none" / "kubeconfig", b"")


def test_only_a_kubeconfig_of_this_host_may_be_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    assert not is_of_host(file, "kvm-7")
    for text in ("", "- 1", "a: b", of_host(cluster_of(ACCESS), "kvm-8", token(sub=SUBJECT[:-1] + "8"))):
        file.write_text(text)
        assert not is_of_host(file, "kvm-7")
    file.write_text(of_host(cluster_of(ACCESS), "kvm-7", token()))
    assert is_of_host(file, "kvm-7")
