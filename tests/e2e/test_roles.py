"""What the roles that every cluster has bring of virtsync: a controller puts it into them."""

import json

import pytest

from cluster.cluster import Cluster
from lab.world import until
from tests.e2e.agents import INSTALL, REPOSITORY
from tests.e2e.pods import Pods

pytestmark = pytest.mark.e2e


def test_only_reading_comes_by_itself(cluster: Cluster, pods: Pods) -> None:
    cluster.kubectl(*(str(REPOSITORY / word) if "/" in word else word for word in INSTALL))
    for role in ("view", "edit", "admin"):
        pods.kubectl("create", "serviceaccount", role)
        account = f"{pods.namespace}:{role}"
        pods.kubectl("create", "rolebinding", role, f"--clusterrole={role}", f"--serviceaccount={account}")

        def may(verb: str, account: str = account) -> bool:
            who = (f"--as=system:serviceaccount:{account}", f"--namespace={pods.namespace}")
            asked = cluster.kubectl("auth", "can-i", verb, "virtualmachines.virtsync.dev", *who, check=False)
            return asked.stdout.strip() == "yes"

        until(lambda may=may: may("list"), f"{role} may not list VirtualMachines")  # type: ignore[misc]
        rules = json.loads(cluster.kubectl("get", "clusterrole", role, "--output=json").stdout)["rules"]
        verbs = {verb for rule in rules if "virtsync.dev" in rule["apiGroups"] for verb in rule["verbs"]}
        assert verbs == {"get", "list", "watch"}
        assert not may("patch")
        assert not may("bind")
