"""The kubeconfig of a person, where no API server is needed.

tests/integration/test_kubectl_virtsync.py compares the rest with kubectl.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from controller.kube.user_kubeconfig import Wish, connect, files_of, impersonating, merged
from controller.runtime.errors import Rejected

Json = dict[str, Any]

ASKS = """\
#!/bin/sh
read secret
echo "$KUBERNETES_EXEC_INFO" > "$(dirname "$0")/told"
echo '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"'"$secret"'"}}'
"""


def entry(name: str, kind: str, **section: Any) -> Json:
    return {"name": name, kind: section}


def written(file: Path, **config: Any) -> Path:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(config))
    return file


def whole(file: Path, **user: Any) -> Path:
    return written(
        file,
        contexts=[entry("a", "context", cluster="a", user="a")],
        clusters=[entry("a", "cluster", server="https://10.0.0.1")],
        users=[entry("a", "user", **user)],
        **{"current-context": "a"},
    )


def test_the_first_file_that_has_a_name_wins_as_a_whole(tmp_path: Path) -> None:
    one = written(tmp_path / "one", users=[entry("ann", "user", username="1")], clusters=None)
    two = written(
        tmp_path / "two",
        users=[entry("ann", "user", username="2"), entry("eve", "user", username="3")],
        **{"current-context": "x"},
    )
    three = written(tmp_path / "three", **{"current-context": "y"})
    assert merged([one, two, three]) == {
        "current-context": "x",
        "clusters": [],
        "users": [entry("ann", "user", username="1"), entry("eve", "user", username="3")],
        "contexts": [],
    }


def test_a_path_is_relative_to_the_file_that_has_it(tmp_path: Path) -> None:
    file = written(
        tmp_path / "there" / "config",
        users=[
            entry("a", "user", tokenFile="token", exec={"command": "bin/login", "args": ["x"]}),
            entry("b", "user", tokenFile="/run/token", exec={"command": "login"}),
        ],
    )
    there = tmp_path / "there"
    assert [one["user"] for one in merged([file])["users"]] == [
        {"tokenFile": f"{there}/token", "exec": {"command": f"{there}/bin/login", "args": ["x"]}},
        {"tokenFile": "/run/token", "exec": {"command": "login"}},
    ]


def test_the_option_names_the_only_file_before_the_variable_and_the_home(tmp_path: Path) -> None:
    environ = {"KUBECONFIG": ":/a::/b:", "HOME": "/home/ann"}
    assert files_of(Wish(kubeconfig=tmp_path), environ) == [tmp_path]
    assert files_of(Wish(), environ) == [Path("/a"), Path("/b")]
    assert files_of(Wish(), {"HOME": "/home/ann"}) == [Path("/home/ann/.kube/config")]


def test_without_any_file_the_places_are_named(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match=rf"there is no kubeconfig: looked for {tmp_path}/a, {tmp_path}/b$"):
        connect(Wish(), {"KUBECONFIG": f"{tmp_path}/a:{tmp_path}/b"})


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "it is not YAML: "),
        ("[]", "it is not a mapping"),
        ('{"users": ["ann"]}', "an entry of its users is not a mapping"),
        ('{"users": [{"name": "ann", "user": "x"}]}', "its user ann is not a mapping"),
        ("{}", "it does not name a context to use"),
    ],
)
def test_what_is_wrong_is_told_with_the_file(tmp_path: Path, content: str, told: str) -> None:
    file = tmp_path / "config"
    file.write_text(content)
    with pytest.raises(Rejected) as raised:
        connect(Wish(kubeconfig=file), {})
    assert str(raised.value).startswith(f"the kubeconfig {file} is not usable: {told}")


@pytest.mark.parametrize(
    "user",
    [
        {"as": "ann", "as-groups": 5},
        {"as": "ann", "as-groups": "admins"},
        {"as": "ann", "as-groups": [5]},
        {"as": "ann", "as-user-extra": {"why": 7}},
        {"as": "ann", "as-user-extra": {"why": "because"}},
    ],
    ids=str,
)
def test_what_is_no_list_of_strings_is_not_taken_for_one(user: Json) -> None:
    """A string would become a group for each of its letters."""
    with pytest.raises(Rejected, match=r"its as-(groups|user-extra why) must be a list of strings"):
        impersonating(user, Wish())


def test_an_option_takes_the_place_of_what_the_file_impersonates() -> None:
    user = {"as": "ann", "as-groups": ["a"], "as-uid": "7", "as-user-extra": {"Why/x": ["1", "2"]}}
    extra = [("Impersonate-Extra-Why%2Fx", "1"), ("Impersonate-Extra-Why%2Fx", "2")]
    assert impersonating(user, Wish()) == (
        ("Impersonate-User", "ann"),
        ("Impersonate-Group", "a"),
        ("Impersonate-Uid", "7"),
        *extra,
    )
    assert impersonating({"as": "ann"}, Wish(user="eve", groups=("b", "c"))) == (
        ("Impersonate-User", "eve"),
        ("Impersonate-Group", "b"),
        ("Impersonate-Group", "c"),
    )
    assert impersonating({}, Wish()) == ()


def test_groups_without_a_user_are_refused() -> None:
    with pytest.raises(Rejected, match="impersonation without a user"):
        impersonating({"as-groups": ["a"]}, Wish())


@pytest.mark.parametrize(
    ("terminal", "mode", "interactive"),
    [(True, "IfAvailable", True), (True, "Always", True), (True, "Never", False), (False, "IfAvailable", False)],
)
def test_an_exec_plugin_has_the_terminal_if_there_is_one_and_it_wants_it(
    tmp_path: Path, *, terminal: bool, mode: str, interactive: bool
) -> None:
    program = tmp_path / "login"
    program.write_text(ASKS)
    program.chmod(0o755)
    plugin = {"apiVersion": "client.authentication.k8s.io/v1", "command": "./login", "interactiveMode": mode}
    typed = tmp_path / "typed"
    typed.write_text("s3cret\n")
    wish, environ = Wish(kubeconfig=whole(tmp_path / "config", exec=plugin)), {"PATH": "/usr/bin:/bin"}
    with stdin(typed):
        if interactive:
            credentials = connect(wish, environ, terminal=terminal).api.credentials
            assert credentials.current().authorization == "Bearer s3cret"
        else:
            with pytest.raises(Rejected, match="did not return an ExecCredential"):
                connect(wish, environ, terminal=terminal)
    assert json.loads((tmp_path / "told").read_text())["spec"]["interactive"] is interactive


@contextmanager
def stdin(file: Path) -> Iterator[None]:
    """Have the processes that are started from here read this file as what is typed."""
    before = os.dup(0)
    try:
        with file.open() as keyboard:
            os.dup2(keyboard.fileno(), 0)
        yield
    finally:
        os.dup2(before, 0)
        os.close(before)


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31m", "\udc80"])
def test_a_name_that_no_header_can_have_is_refused(name: str) -> None:
    with pytest.raises(Rejected, match="cannot impersonate"):
        impersonating({}, Wish(user=name))
    with pytest.raises(Rejected, match="cannot impersonate"):
        impersonating({"as": "ann", "as-groups": [name]}, Wish())
