"""The environment of one test: its own guests, their objects, an agent, and a watch that misses no version."""

import http.client
import json
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from lab import LabError
from lab.agent import Agent
from lab.controlplane import ControlPlane
from lab.guest import Guest
from lab.libvirtd import Libvirtd
from lab.manager import Manager
from lab.processes import last_lines

HANG_LIMIT_S = 60
POLL_INTERVAL_S = 0.05
API = "virtsync.dev/v1alpha1"

# The agent resyncs only once an hour, so every report that a test waits for comes from an event or from the watch.
SETTINGS = {
    "resync-libvirt": "1h",
    "resync-api": "1h",
    "settle-power": "1s",
    "settle-pause": "1s",
    "backoff-first": "1s",
    "start-interval": "0.1s",
    "boot-id": "first-boot",
}

# In the message of Ready whenever an action is about to follow: "The VM was stopped and is being started."
ACTING = " is being "

Json = dict[str, Any]
Told = tuple[str, str, str]


class World:
    """One namespace, one node name, guests and agents of one test; use it as a context manager.

    Each object has the name of its guest. `until` checks every version of the object in order, beginning with the one
    at which the last `until`, `apply` or `patch` ended: so it also finds a state that lasted very briefly. Agents,
    managers, guests and objects are removed at the end.
    """

    def __init__(self, controlplane: ControlPlane, libvirtd: Libvirtd, name: str, folder: Path) -> None:
        self.controlplane = controlplane
        self.libvirtd = libvirtd
        self.name = name
        self.node = name
        self.folder = folder
        self.agents: list[Agent] = []
        self.managers: list[Manager] = []
        self._guests: list[Guest] = []
        self._ends = ExitStack()
        self._seen_until: dict[str, int] = {}

    def __enter__(self) -> Self:
        with ExitStack() as ends:
            self.controlplane.kubectl("create", "namespace", self.name)
            ends.callback(self._remove_namespace)
            self._vms = ends.enter_context(Watch(self.controlplane, self._path(API, "virtualmachines")))
            self._events = ends.enter_context(Watch(self.controlplane, self._path("events.k8s.io/v1", "events")))
            ends.callback(self._remove_guests)
            # before the guests: an agent that is not ours, as on a cluster, would start them again
            ends.callback(self._remove_objects)
            ends.callback(self._remove_hypervisors)
            ends.callback(self._stop_programs)
            self._ends = ends.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    # --- the host

    def define(self, name: str = "vm", *, libvirtd: Libvirtd | None = None, **options: Any) -> Guest:
        """Define a domain (off) for this test, on another node if its libvirtd is given.

        `options` as `Libvirtd.define` has them.
        """
        guest = (libvirtd or self.libvirtd).define(f"{self.name}-{name}", **options)
        self._guests.append(guest)
        return guest

    def start(self, name: str = "vm", **options: Any) -> Guest:
        """Define a domain for this test, start it, and return when its guest has booted."""
        guest = self.define(name, **options)
        guest.start()
        return guest

    def virsh(self, *args: str) -> str:
        """Run virsh, as an administrator on the host does without the agent; its output."""
        return self.libvirtd.virsh(*args).stdout.strip()

    def run_id(self, guest: Guest) -> str:
        """libvirt's id of this run of the guest: different after every start; `-` while the guest is off."""
        return guest.libvirtd.virsh("domid", guest.name).stdout.strip()

    # --- the agent

    def start_agent(self, **settings: Any) -> Agent:
        """Start an agent for this node and return when it is ready; flags as keywords (`settle_power="2s"`)."""
        agent = self.new_agent(**settings)
        agent.start()
        return agent

    def new_agent(
        self,
        *,
        node: str = "",
        uri: str = "",
        kubeconfig: Path | None = None,
        env: Mapping[str, str] | None = None,
        **settings: str,
    ) -> Agent:
        """An agent that is not started yet, and ends with the world; arguments as in `Agent`."""
        agent = Agent(
            self.controlplane,
            uri or self.libvirtd.uri,
            node or self.node,
            log=self.folder / f"agent-{len(self.agents)}.log",
            settings=SETTINGS | {name.replace("_", "-"): value for name, value in settings.items()},
            kubeconfig=kubeconfig,
            env=env,
        )
        self.agents.append(agent)
        return agent

    def acts(self, guest: Guest) -> list[str]:
        """The actions on a guest that agents have logged, in order: `START done`, `DESTROY refused`."""
        return [act for agent in self.agents for act in agent.acts(f"{self.name}/{guest.name}")]

    def until_act(self, guest: Guest, act: str, *, times: int = 1) -> None:
        """Wait until agents have logged this action `times` times."""
        deadline = time.monotonic() + HANG_LIMIT_S
        while self.acts(guest).count(act) < times:
            if time.monotonic() > deadline:
                raise LabError(f"{act} did not come {times} times; acts: {self.acts(guest)}\n{self._told_by_agents()}")
            time.sleep(POLL_INTERVAL_S)

    def until_acts(self, guest: Guest, *acts: str) -> None:
        """Wait until agents have logged exactly these actions on a guest; each is logged a moment after its effect."""
        deadline = time.monotonic() + HANG_LIMIT_S
        while (logged := self.acts(guest)) != list(acts):
            if logged != list(acts[: len(logged)]) or time.monotonic() > deadline:
                raise LabError(f"{guest.name}: the acts are {logged}, not {acts}\n{self._told_by_agents()}")
            time.sleep(POLL_INTERVAL_S)

    def nothing_done(self, guest: Guest) -> bool:
        """Whether no agent has acted on the guest, or reported that it is about to, since the world began."""
        told = [ready_of(vm).get("message", "") for vm in self._vms.versions(guest.name)]
        return not self.acts(guest) and not any(ACTING in message for message in told)

    def outlast_settling(self) -> None:
        """Return when the agent has corrected a drift that begins now; everything that was due before is done then too.

        The drift is a pause of a separate guest, so this waits for `settle_pause`.
        """
        witness = next((guest for guest in self._guests if guest.name.endswith("-witness")), None)
        if witness is None:
            witness = self.define("witness")
            self.virsh("start", witness.name)
            self.apply(witness, powerState="Running")
            self.until_ready(witness, "InSync")
        self.virsh("suspend", witness.name)
        self.until(witness, lambda vm: power_of(vm) == "Paused", "paused")
        self.until_ready(witness, "InSync")

    # --- the manager

    def start_manager(self, identity: str = "manager-1", **arguments: Any) -> Manager:
        """Start a manager and return when it is ready; arguments as in `new_manager`."""
        manager = self.new_manager(identity, **arguments)
        manager.start()
        return manager

    def new_manager(
        self, identity: str = "manager-1", *, namespace: str = "", kubeconfig: Path | None = None
    ) -> Manager:
        """A manager that is not started yet, and ends with the world; its namespace is the world's, or another one.

        It has the administrator's rights, unless it gets another kubeconfig.
        """
        manager = Manager(
            self.controlplane,
            namespace or self.name,
            identity,
            log=self.folder / f"manager-{len(self.managers)}.log",
            kubeconfig=kubeconfig,
        )
        self.managers.append(manager)
        return manager

    # --- the API

    def kubectl(self, *args: str, manifest: Json | None = None) -> str:
        """Run kubectl in the namespace; its output."""
        body = None if manifest is None else json.dumps(manifest)
        return self.controlplane.kubectl(f"--namespace={self.name}", *args, input=body).stdout

    def apply(self, *guests: Guest, **spec: Any) -> None:
        """Apply an object for each guest, bound to this node, with this spec (`powerState="Running"`)."""
        objects = [self.manifest(guest, **spec) for guest in guests]
        applied = json.loads(
            self.kubectl(
                "apply", "-f", "-", "-o", "json", manifest={"apiVersion": "v1", "kind": "List", "items": objects}
            )
        )
        for vm in applied.get("items", [applied]):
            self._look_from(vm)

    def manifest(self, guest: Guest, **spec: Any) -> Json:
        """The object about a guest, bound to this node, with this spec."""
        spec = {"nodeName": self.node} | spec
        return {"apiVersion": API, "kind": "VirtualMachine", "metadata": {"name": guest.name}, "spec": spec}

    def patch(self, guest: Guest, **spec: Any) -> None:
        """Merge these fields into the object's spec; None removes a field."""
        words = ("patch", "kvm", guest.name, "--type=merge", "-o", "json", "-p", json.dumps({"spec": spec}))
        self._look_from(json.loads(self.kubectl(*words)))

    def get(self, guest: Guest) -> Json:
        """The object as kubectl shows it now."""
        vm: Json = json.loads(self.kubectl("get", "kvm", guest.name, "-o", "json"))
        return vm

    def objects(self) -> list[Json]:
        """All VirtualMachines of the namespace as kubectl shows them now."""
        found: list[Json] = json.loads(self.kubectl("get", "kvm", "-o", "json"))["items"]
        return found

    def until(self, guest: Guest, holds: Callable[[Json], bool], what: str) -> Json:
        """The first version of the object for which this holds, from the version at which the last wait ended.

        LabError with all reports and the end of the agents' logs if there is none in time.
        """
        first = self._seen_until.get(guest.name, 0)
        index, vm = self._vms.until(guest.name, holds, first=first)
        if vm is None:
            told = "\n".join(map(str, self.told(guest)))
            raise LabError(f"{guest.name}: not {what}; told:\n{told}\n{self._told_by_agents()}")
        self._seen_until[guest.name] = index
        return vm

    def until_ready(self, guest: Guest, reason: str) -> Json:
        """Wait until Ready has this reason for the newest spec."""
        return self.until(guest, lambda vm: reason_of(vm) == reason, f"Ready with reason {reason}")

    def until_off(self, guest: Guest, cause: str) -> Json:
        """Wait until the status reports that the guest is off, with this cause."""
        return self.until(
            guest, lambda vm: power_of(vm) in {"Stopped", "Crashed"} and cause_of(vm) == cause, f"off by {cause}"
        )

    def told(self, guest: Guest) -> list[Told]:
        """All reports about the guest, in order: (powerState, reason of Ready, cause of the last stop)."""
        told = [(power_of(vm), str(ready_of(vm).get("reason")), cause_of(vm)) for vm in self._vms.versions(guest.name)]
        return [one for one, before in zip(told, [None, *told], strict=False) if one != before]

    def events(self, guest: Guest) -> list[str]:
        """The reasons of the Kubernetes Events about the guest's object, in the order of arrival."""
        first: dict[str, str] = {}
        for event in self._events.all():
            if event["regarding"].get("name") == guest.name:
                first.setdefault(event["metadata"]["name"], event["reason"])
        return list(first.values())

    def until_event(self, guest: Guest, reason: str, holds: Callable[[Json], bool] = bool) -> Json:
        """Wait for a Kubernetes Event about the guest's object for which this holds."""
        event = self._events.until_any(
            lambda e: e["regarding"].get("name") == guest.name and e["reason"] == reason and holds(e)
        )
        if event is None:
            raise LabError(f"{guest.name}: no Event {reason}, but {self.events(guest)}\n{self._told_by_agents()}")
        return event

    def _look_from(self, vm: Json) -> None:
        name, version = vm["metadata"]["name"], vm["metadata"]["resourceVersion"]
        index, found = self._vms.until(
            name, lambda v: v["metadata"]["resourceVersion"] == version, first=self._seen_until.get(name, 0)
        )
        if found is None:
            raise LabError(f"The watch has not shown version {version} of {name}.")
        self._seen_until[name] = index

    def _path(self, api: str, resource: str) -> str:
        return f"/apis/{api}/namespaces/{self.name}/{resource}"

    def _told_by_agents(self) -> str:
        return "\n".join(
            f"the end of {agent.log}:\n{last_lines(agent.log)}" for agent in self.agents if agent.log.exists()
        )

    def _stop_programs(self) -> None:
        with ExitStack() as ends:  # one that does not go in time must not keep the others
            for program in [*self.agents, *self.managers]:
                ends.callback(program.stop)

    def _remove_guests(self) -> None:
        for guest in self._guests:
            # The test itself may have undefined it.
            with suppress(subprocess.CalledProcessError):
                guest.remove()

    def _remove_objects(self) -> None:
        self.kubectl("delete", "kvm", "--all", "--wait=false")

    def _remove_hypervisors(self) -> None:
        nodes = {agent.node for agent in self.agents}
        # A test may have removed their definition.
        if nodes:
            self.controlplane.kubectl("delete", "kvmhost", "--ignore-not-found", *nodes, check=False)

    def _remove_namespace(self) -> None:
        self.controlplane.kubectl("delete", "namespace", self.name, "--wait=false")


class Watch:
    """Every version of every object of one resource in one namespace, as the API server's watch sends them.

    It survives restarts of the API server; versions that come and go between two connections are missed.
    """

    def __init__(self, controlplane: ControlPlane, path: str) -> None:
        self._controlplane = controlplane
        self._path = path
        self._changed = threading.Condition()
        self._versions: list[Json] = []
        self._error: Exception | None = None
        self._closing = threading.Event()
        self._response: http.client.HTTPResponse | None = None
        self._thread = threading.Thread(target=self._run, name=f"watch {path}", daemon=True)

    def __enter__(self) -> Self:
        # Connect here, so that no version is missed after this returns.
        self._connection = self._connect()
        self._response = self._open()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closing.set()
            self._changed.notify_all()
        while self._thread.is_alive():
            # The thread waits in a read, which this ends; it might also be about to connect again.
            if sock := self._connection.sock:
                with suppress(OSError):
                    sock.shutdown(2)
            self._thread.join(POLL_INTERVAL_S)
        self._close()

    def all(self) -> list[Json]:
        """All versions of all objects until now."""
        with self._changed:
            return list(self._versions)

    def versions(self, name: str) -> list[Json]:
        """All versions of one object until now."""
        return [version for version in self.all() if version["metadata"]["name"] == name]

    def until(self, name: str, holds: Callable[[Json], bool], *, first: int) -> tuple[int, Json | None]:
        """Wait for a version of an object, from number `first` on; its number and the version, or None."""
        found: tuple[int, Json] | None = None

        def look() -> bool:
            nonlocal found
            numbered = list(enumerate(v for v in self._versions if v["metadata"]["name"] == name))
            found = next(((number, version) for number, version in numbered[first:] if holds(version)), None)
            return found is not None

        self._wait_for(look)
        return found or (first, None)

    def until_any(self, holds: Callable[[Json], bool]) -> Json | None:
        """Wait for a version of any object, including earlier versions."""
        self._wait_for(lambda: any(map(holds, self._versions)))
        return next(filter(holds, self.all()), None)

    def _wait_for(self, look: Callable[[], bool]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: look() or self._error or self._closing.is_set(), timeout=HANG_LIMIT_S)
            if self._error and not look():
                raise LabError(f"The watch of {self._path} has ended.") from self._error

    def _connect(self) -> http.client.HTTPSConnection:
        context = ssl.create_default_context(cafile=self._controlplane.ca)
        host = self._controlplane.url.removeprefix("https://")
        return http.client.HTTPSConnection(host, context=context)

    def _open(self) -> http.client.HTTPResponse:
        headers = {"Authorization": f"Bearer {self._controlplane.token}"}
        self._connection.request("GET", f"{self._path}?watch=true&timeoutSeconds=3600", headers=headers)
        response = self._connection.getresponse()
        if response.status != http.HTTPStatus.OK:
            raise LabError(f"GET {self._path}: {response.status} {response.read().decode()}")
        return response

    def _run(self) -> None:
        try:
            for line in self._lines():
                self._take(json.loads(line))
        except (ValueError, LabError) as error:
            if not self._closing.is_set():
                with self._changed:
                    self._error = error
                    self._changed.notify_all()

    def _take(self, change: Json) -> None:
        if change["type"] == "ERROR":
            raise LabError(f"The API server says {change['object']}.")
        version = change["object"] | {"deleted": change["type"] == "DELETED"}
        with self._changed:
            if version not in self._versions:  # after a new connection it may be told again
                self._versions.append(version)
            self._changed.notify_all()

    def _lines(self) -> Iterator[bytes]:
        """The lines that the API server sends, one change each; reconnects as often as necessary."""
        while not self._closing.is_set():
            assert self._response  # noqa: S101 - `__enter__` has opened it
            # A connection that dies might end in the middle of a line; the next one sends that object again.
            with suppress(OSError, http.client.HTTPException):
                yield from (line for line in self._response if line.endswith(b"\n"))
            self._connect_again()

    def _connect_again(self) -> None:
        """Connect as soon as the API server listens; the watch then first sends all existing objects."""
        while not self._closing.is_set():
            self._close()
            self._connection = self._connect()
            try:
                self._response = self._open()
            except (OSError, http.client.HTTPException, LabError):
                self._closing.wait(POLL_INTERVAL_S)
            else:
                return

    def _close(self) -> None:
        if self._response:
            self._response.close()
        self._connection.close()


def until(holds: Callable[[], bool], otherwise: str, *, limit_s: float = HANG_LIMIT_S) -> None:
    """Wait until this holds; LabError with the message `otherwise` if it does not hold in time."""
    deadline = time.monotonic() + limit_s
    while not holds():
        if time.monotonic() > deadline:
            raise LabError(otherwise)
        time.sleep(POLL_INTERVAL_S)


def moment(*, in_s: int) -> str:
    """The time `in_s` seconds from now, in the format of the API."""
    return f"{datetime.now(UTC) + timedelta(seconds=in_s):%Y-%m-%dT%H:%M:%SZ}"


def moment_after(vm: Json) -> str:
    """The present time, in the format of the API, once it is later than the creation of the object.

    The API has whole seconds, and a restart that is requested for the second of the creation is ignored.
    """
    until(lambda: moment(in_s=0) > vm["metadata"]["creationTimestamp"], "The clock has stopped.")
    return moment(in_s=0)


# --- what an object reports ------------------------------------------------------------------------------------------


def power_of(vm: Json) -> str:
    """`status.powerState`."""
    return str(vm.get("status", {}).get("powerState", ""))


def ready_of(vm: Json) -> Json:
    """The condition Ready, or an empty one."""
    conditions = vm.get("status", {}).get("conditions", [])
    return next((condition for condition in conditions if condition["type"] == "Ready"), {})


def reason_of(vm: Json) -> str:
    """The reason of Ready if it is about the newest spec, otherwise an empty string."""
    ready = ready_of(vm)
    return str(ready["reason"]) if ready.get("observedGeneration") == vm["metadata"]["generation"] else ""


def cause_of(vm: Json) -> str:
    """`status.lastStop.cause`, or an empty string."""
    return str(vm.get("status", {}).get("lastStop", {}).get("cause", ""))


def runs(vm: Json) -> bool:
    """The VM runs, as its newest spec demands."""
    return power_of(vm) == "Running" and reason_of(vm) == "InSync"


def is_off(vm: Json) -> bool:
    """The VM is off, as its newest spec demands."""
    return power_of(vm) == "Stopped" and reason_of(vm) == "InSync"
