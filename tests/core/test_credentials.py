"""Which token goes to the API server: that of the Pod or of the kubeconfig, as it is now."""

import json
from pathlib import Path

import pytest
from kubernetes.config import incluster_config

from controller.kube import config


def test_the_token_of_a_pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("first")
    (tmp_path / "ca.crt").write_text("of the cluster")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    endpoint = config.load(None).endpoint()
    assert (endpoint.server, endpoint.token) == ("https://10.0.0.1:443", "first")
    assert endpoint.expiration, "the kubelet exchanges it"


def test_the_token_of_a_kubeconfig_is_read_at_each_login(tmp_path: Path) -> None:
    token, file = tmp_path / "token", tmp_path / "kubeconfig"
    token.write_text("first\n")
    file.write_text(
        json.dumps(
            {
                "current-context": "any",
                "contexts": [{"name": "any", "context": {"cluster": "any", "user": "any"}}],
                "clusters": [{"name": "any", "cluster": {"server": "http://127.0.0.1:1"}}],
                "users": [{"name": "any", "user": {"tokenFile": str(token)}}],
            }
        )
    )
    api = config.load(file)
    told = [api.endpoint().token]
    token.write_text("second\n")
    told.append(api.endpoint().token)
    token.unlink()
    told.append(api.endpoint().token)
    assert told == ["first", "second", "second"], "what cannot be read now is no reason to forget what was"
