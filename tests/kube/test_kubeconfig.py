"""Each field of a kubeconfig is honoured, which tests/integration/test_access.py shows, or refused by its name."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from controller.kube.access import Access
from controller.kube.kubeconfig import Kubeconfig
from controller.runtime.errors import Rejected

Json = dict[str, Any]

EXEC = {"apiVersion": "client.authentication.k8s.io/v1", "command": "true"}
REFUSED: list[tuple[Json, Json, str]] = [
    ({}, {"as": "ann"}, "its as asks for impersonation"),
    ({}, {"as-uid": "7"}, "its as-uid asks for impersonation"),
    ({}, {"as-groups": ["admins"]}, "its as-groups asks for impersonation"),
    ({}, {"as-user-extra": {"a": ["b"]}}, "its as-user-extra asks for impersonation"),
    ({}, {"auth-provider": {"name": "oidc"}}, "its auth-provider is a mechanism that Kubernetes has removed"),
    ({}, {"passwort": "x"}, "its user has passwort, which virtsync does not support"),
    ({"proxy": "x"}, {}, "its cluster has proxy, which virtsync does not support"),
    ({"proxy-url": "socks5://127.0.0.1:1080"}, {}, "its proxy-url is not a proxy URL like http://"),
    ({"proxy-url": "https://127.0.0.1:3128"}, {}, "its proxy-url is not a proxy URL like http://"),
    ({"proxy-url": "http://127.0.0.1:none"}, {}, "its proxy-url is not a proxy URL like http://"),
    ({"proxy-url": "http://a\0b:3128"}, {}, "its proxy-url is not a proxy URL like http://"),
    ({"tls-server-name": "a\0b"}, {}, "its tls-server-name 'a\\x00b' is not the name of a host"),
    ({"tls-server-name": "a..b"}, {}, "its tls-server-name 'a..b' is not the name of a host"),
    ({"certificate-authority-data": "AAAA", "insecure-skip-tls-verify": True}, {}, "has both certificate-authority"),
    ({"insecure-skip-tls-verify": "yes"}, {}, "its insecure-skip-tls-verify is not true or false"),
    ({"disable-compression": "yes"}, {}, "its disable-compression is not true or false"),
    ({"tls-server-name": 7}, {}, "its tls-server-name is not a string"),
    ({"certificate-authority-data": "A"}, {}, "its certificate-authority-data is not base64"),
    ({"certificate-authority-data": "AAAA…"}, {}, "its certificate-authority-data is not base64"),
    ({}, {"client-certificate-data": "AAAA"}, "it has only one of client-certificate and client-key"),
    ({}, {"client-key-data": "AAAA"}, "it has only one of client-certificate and client-key"),
    ({}, {"username": "ann"}, "it has only one of username and password"),
    ({}, {"username": "ann", "password": "x", "token": "y"}, "more than one of token, username and exec"),
    ({}, {"token": "y", "exec": EXEC}, "more than one of token, username and exec"),
    ({}, {"token": "two\nlines"}, "its token has characters that an HTTP header cannot have"),
    ({}, {"tokenFile": "missing"}, "its file missing cannot be read: No such file or directory"),
    ({}, {"tokenFile": "a\0b"}, "cannot be read: embedded null byte"),
    ({"certificate-authority": "a\0b"}, {}, "cannot be read: embedded null byte"),
    ({}, {"client-certificate": "a\0b", "client-key": "a\0b"}, "cannot be read: embedded null byte"),
    ({}, {"exec": EXEC | {"command": "a\0b"}}, "cannot be run: embedded null byte"),
    ({}, {"exec": EXEC | {"args": ["a\0b"]}}, "its exec true cannot be run: embedded null byte"),
    ({}, {"exec": EXEC | {"env": [{"name": "A", "value": "a\0b"}]}}, "its exec true cannot be run: embedded null byte"),
    ({}, {"exec": EXEC | {"command": "/nonexistent"}}, "its exec /nonexistent cannot be run: No such file"),
    ({}, {"exec": EXEC | {"interactiveMode": "Always"}}, "its exec has interactiveMode Always"),
    ({}, {"exec": EXEC | {"args": 7}}, "its exec.args is not a list"),
    ({}, {"exec": EXEC | {"args": "--foo"}}, "its exec.args is not a list"),
    ({}, {"exec": EXEC | {"env": [{"name": "HOME"}]}}, "its exec.env is not a list of names and values"),
    ({}, {"exec": EXEC | {"env": ["HOME"]}}, "its exec.env is not a list of names and values"),
    (
        {"extensions": [{"extension": {}}]},
        {"exec": EXEC | {"provideClusterInfo": True}},
        "its cluster.extensions is not a list of names and extensions",
    ),
    ({}, {"exec": EXEC | {"shell": "bash"}}, "its exec has shell, which virtsync does not support"),
    ({}, {"exec": EXEC | {"apiVersion": "v1"}}, "its exec needs a command, and an apiVersion that begins with"),
    ({}, {"exec": EXEC}, "its exec true did not return an ExecCredential"),
    ({}, {"exec": EXEC | {"command": "false"}}, "its exec false failed: it wrote no message"),
]


def written(folder: Path, cluster: Json, user: Json, **other: Any) -> Path:
    """A kubeconfig of these parts."""
    file = folder / "kubeconfig"
    config = {
        "current-context": "any",
        "contexts": [{"name": "any", "context": {"cluster": "any", "user": "any", "namespace": "other"}}],
        "clusters": [{"name": "any", "cluster": {"server": "https://10.0.0.1:6443"} | cluster}],
        "users": [{"name": "any", "user": user}],
    }
    file.write_text(json.dumps(config | other))
    return file


def read(file: Path, environ: Mapping[str, str] = os.environ) -> Access:
    return Kubeconfig(file, environ).read(refused=False)


@pytest.mark.parametrize(("of_cluster", "of_user", "told"), REFUSED, ids=[told[:50] for *_, told in REFUSED])
def test_what_is_not_honoured_is_refused_by_name(tmp_path: Path, of_cluster: Json, of_user: Json, told: str) -> None:
    file = written(tmp_path, of_cluster, of_user)
    with pytest.raises(Rejected, match="is not usable: ") as raised:
        read(file)
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_time_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text("current-context: any\ndate: 2026-99-99\n")
    with pytest.raises(Rejected, match="is not usable: it is not YAML"):
        read(file)


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy"])
def test_a_proxy_of_the_environment_that_is_not_served_is_refused_by_name(tmp_path: Path, variable: str) -> None:
    file = written(tmp_path, {}, {})
    with pytest.raises(Rejected, match=f"its {variable} is not a proxy URL like http://"):
        read(file, {variable: "socks5://127.0.0.1:1080"})


def test_what_is_empty_is_not_there(tmp_path: Path) -> None:
    """Programs write kubeconfigs so."""
    empty: Json = {"as": "", "as-groups": [], "as-user-extra": {}, "token": "", "exec": None, "auth-provider": None}
    file = written(tmp_path, {"proxy-url": "", "certificate-authority": None, "extensions": []}, empty)
    assert read(file, {}) == Access(server="https://10.0.0.1:6443")


def test_the_context_says_which_cluster_and_which_user(tmp_path: Path) -> None:
    clusters = [{"name": name, "cluster": {"server": f"https://{name}:1/"}} for name in ("other", "mine")]
    users = [{"name": name, "user": {"token": name}} for name in ("other", "me")]
    contexts = [
        {"name": "other", "context": {"cluster": "other", "user": "other"}},
        {"name": "mine", "context": {"cluster": "mine", "user": "me"}},
    ]
    parts = {"clusters": clusters, "users": users, "contexts": contexts}
    file = written(tmp_path, {}, {}, **parts, **{"current-context": "mine"})
    assert read(file, {}) == Access(server="https://mine:1", authorization="Bearer me")
    for context, told in (("third", "it has no context 'third'"), ("", "it does not name a context to use")):
        with pytest.raises(Rejected, match=told):
            read(written(tmp_path, {}, {}, **parts, **{"current-context": context}), {})


def test_no_secret_is_in_what_a_log_may_show(tmp_path: Path) -> None:
    file = written(tmp_path, {"proxy-url": "http://ann:s3cret@proxy:3128"}, {"token": "s3cret"})
    assert "s3cret" not in repr(read(file))
    assert read(file).proxy_login == ("ann", "s3cret")
