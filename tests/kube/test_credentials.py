"""What goes to the API server is what the Pod or the kubeconfig has by now."""

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.certificates import Authority
from controller.kube import kubeconfig
from controller.kube.access import Access
from controller.kube.credentials import REREAD_S, Credentials
from controller.kube.kubeconfig import Kubeconfig, of_pod
from controller.runtime.errors import Rejected

POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}
PLUGIN = """#!/bin/sh
echo run >> {count}
printf '{{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": '
printf '{{"token": "token-%s", "expirationTimestamp": "%s"}}}}' $(wc -l < {count}) "$ENDS"
"""


class Clock:
    """A clock that goes when it is told to."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lab_ca(tmp_path: Path) -> bytes:
    """The certificate of an authority."""
    authority = Authority(tmp_path / "authority")
    authority.found()
    return authority.certificate.read_bytes()


def write(file: Path, user: dict[str, Any], **cluster: Any) -> None:
    config = {
        "current-context": "any",
        "contexts": [{"name": "any", "context": {"cluster": "any", "user": "any"}}],
        "clusters": [{"name": "any", "cluster": {"server": "http://127.0.0.1:1"} | cluster}],
        "users": [{"name": "any", "user": user}],
    }
    file.write_text(json.dumps(config))


def test_a_pod_is_its_service_account(tmp_path: Path, lab_ca: bytes) -> None:
    (tmp_path / "token").write_text("first\n")
    (tmp_path / "ca.crt").write_bytes(lab_ca)
    assert of_pod(POD, tmp_path) == Access(server="https://10.0.0.1:443", ca=lab_ca, authorization="Bearer first")
    (tmp_path / "token").write_text("second")
    assert of_pod(POD, tmp_path).authorization == "Bearer second"
    six = of_pod(POD | {"KUBERNETES_SERVICE_HOST": "fd00::1"}, tmp_path)
    assert six.server == "https://[fd00::1]:443"


def test_everything_is_read_again_now_and_then(tmp_path: Path, clock: Clock) -> None:
    token, file = tmp_path / "token", tmp_path / "kubeconfig"
    token.write_text("first\n")
    write(file, {"tokenFile": "token"})
    credentials = Credentials(Kubeconfig(file).read, clock=clock)
    first = credentials.current()
    assert first.authorization == "Bearer first"
    token.write_text("second\n")
    assert credentials.current() is first, "not at each request"
    clock.now_s += REREAD_S + 1
    second = credentials.current()
    assert second.authorization == "Bearer second"
    clock.now_s += REREAD_S + 1
    assert credentials.current() is second, "nothing has changed, so nothing need be connected anew"


def test_a_refusal_makes_it_be_read_again_once(tmp_path: Path, clock: Clock) -> None:
    file = tmp_path / "kubeconfig"
    write(file, {"token": "first"})
    credentials = Credentials(Kubeconfig(file).read, clock=clock)
    first = credentials.current()
    write(file, {"token": "second"})
    clock.now_s += 1
    second = credentials.renew(first)
    assert second.authorization == "Bearer second"
    write(file, {"token": "third"})
    assert credentials.renew(first) is second, "whoever comes late has the answer that another has got"
    assert credentials.renew(second) is second, "not so often"
    clock.now_s += 1
    assert credentials.renew(second).authorization == "Bearer third"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        pytest.param({"user": {"token": "x", "as": "ann"}}, "its as asks for impersonation", id="impersonation"),
        pytest.param({"user": {"tokenFile": "missing"}}, "its file missing cannot be read", id="file-missing"),
        pytest.param({"user": {}, "proxy-url": "socks5://x"}, "its proxy-url is not", id="proxy"),
    ],
)
def test_one_that_would_be_refused_is_not_taken_up_and_told(
    tmp_path: Path, clock: Clock, content: dict[str, Any], why: str
) -> None:
    file = tmp_path / "kubeconfig"
    write(file, {"token": "first"})
    credentials = Credentials(Kubeconfig(file).read, clock=clock)
    first = credentials.current()
    user = content.pop("user")
    write(file, user, **content)
    clock.now_s += REREAD_S + 1
    assert credentials.current() is first
    assert str(credentials.trouble).startswith("the previous ones are still in use, because the kubeconfig ")
    assert why in str(credentials.trouble)
    write(file, {"token": "first"})
    clock.now_s += REREAD_S + 1
    assert credentials.current() is first
    assert credentials.trouble is None


def test_one_that_can_never_work_is_refused_at_start(tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    write(file, {"as": "ann"})
    with pytest.raises(Rejected, match="its as asks for impersonation"):
        Credentials(Kubeconfig(file).read)


@pytest.mark.parametrize(
    ("ends", "again"), [("2999-01-01T00:00:00Z", False), ("2000-01-01T00:00:00Z", True), ("", False)]
)
def test_a_plugin_is_asked_before_its_answer_ends_and_when_that_is_refused(
    tmp_path: Path, clock: Clock, ends: str, *, again: bool
) -> None:
    plugin, file = tmp_path / "plugin", tmp_path / "kubeconfig"
    plugin.write_text(PLUGIN.format(count=tmp_path / "count"))
    plugin.chmod(0o755)
    command = {"apiVersion": "client.authentication.k8s.io/v1", "command": "./plugin"}
    write(file, {"exec": command | {"env": [{"name": "ENDS", "value": ends}]}})
    credentials = Credentials(Kubeconfig(file).read, clock=clock)
    first = credentials.current()
    assert first.authorization == "Bearer token-1"
    clock.now_s += REREAD_S + 1
    now = credentials.current()
    assert (now is not first) == again
    clock.now_s += 1
    assert credentials.renew(now).authorization == ("Bearer token-3" if again else "Bearer token-2")


def test_a_plugin_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "kubeconfig"
    write(file, {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "sleep", "args": ["1000"]}})
    monkeypatch.setattr(kubeconfig, "EXEC_TIMEOUT_S", 0.1)
    with pytest.raises(Rejected, match=r"its exec sleep did not finish within 0\.1 s"):
        Kubeconfig(file).read(refused=False)


def test_what_this_process_has_written_is_used_at_once(tmp_path: Path, clock: Clock) -> None:
    file = tmp_path / "config"
    write(file, {"token": "first"})
    credentials = Credentials(Kubeconfig(file, {}).read, clock=clock)
    write(file, {"token": "second"})
    assert credentials.current().authorization == "Bearer first"
    reloaded = credentials.reload()
    assert reloaded.authorization == "Bearer second"
    assert credentials.current() is reloaded
    file.unlink()
    assert credentials.reload() is reloaded
    assert "cannot be read" in str(credentials.trouble)
