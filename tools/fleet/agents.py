"""All simulated agents: they start one after another, fall silent and return together, and report changes."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager, suppress

from controller.api.virtualmachine import PowerState
from fleet.agent import Agent, Rhythm
from fleet.client import Failed, Login, Tally
from fleet.objects import node_names, vm_names
from lab import LabError

STARTS_PER_S = 50
HANG_LIMIT_S = 1800.0
POLL_INTERVAL_S = 0.1


class Agents:
    """The agents of a fleet. `running` are those that are not silent.

    At most `starting_at_once` of them start at a time, as in a rollout with this `maxUnavailable`.
    """

    def __init__(
        self, nodes: int, vms: int, login: Login, tally: Tally, rhythm: Rhythm, *, starting_at_once: int
    ) -> None:
        names, every_vm = node_names(nodes), vm_names(vms)
        self.all = [Agent(name, every_vm[number::nodes], login, tally, rhythm) for number, name in enumerate(names)]
        self._tally, self._starting_at_once = tally, starting_at_once
        self._tasks: dict[Agent, asyncio.Task[None]] = {}

    @property
    def running(self) -> list[Agent]:
        """The agents that run."""
        return list(self._tasks)

    async def start(self, agents: Collection[Agent], progress: Callable[[int], None] = lambda _started: None) -> float:
        """Start agents, and wait until each has renewed its Lease, listed and watches; how long that took, in s.

        `progress` is called with the number of those that have been told to start.
        """
        began_s = time.monotonic()
        starting: list[Agent] = []
        for number, agent in enumerate(agents):
            await asyncio.sleep(max(0.0, began_s + number / STARTS_PER_S - time.monotonic()))
            while len(starting) >= self._starting_at_once:
                await asyncio.sleep(POLL_INTERVAL_S)
                starting = [one for one in starting if not one.right_since(began_s)]
            self._tasks[agent] = asyncio.create_task(agent.run())
            starting.append(agent)
            progress(number + 1)
        await self.until(lambda agent: agent.right_since(began_s), "the agents are up", starting)
        return time.monotonic() - began_s

    async def silence(self, agents: Collection[Agent]) -> None:
        """End agents at once, like hosts that lose power: no Lease is released."""
        tasks = [self._tasks.pop(agent) for agent in agents]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def until(self, holds: Callable[[Agent], bool], what: str, agents: Collection[Agent] | None = None) -> None:
        """Wait until this has held for each of the agents, by default for those that run. LabError after a long time.

        It need not hold for all of them at the same moment: there is always one whose watch has just ended.
        """
        deadline_s = time.monotonic() + HANG_LIMIT_S
        left = list(self.running if agents is None else agents)
        while left := [agent for agent in left if not holds(agent)]:
            for task in self._tasks.values():
                if task.done():
                    task.result()
            if time.monotonic() > deadline_s:
                raise LabError(
                    f"{what}: after {HANG_LIMIT_S:g} s this does not hold for {len(left)} agents, such as"
                    f" {left[0].name}; the last failed request: {self._tally.last_failure}"
                )
            await asyncio.sleep(POLL_INTERVAL_S)

    @asynccontextmanager
    async def writing(self, per_s: float) -> AsyncIterator[None]:
        """Let the running agents report changes, `per_s` on average, at random times (a Poisson process)."""
        writes: set[asyncio.Task[None]] = set()

        async def write_always() -> None:
            due_s = time.monotonic()
            while True:
                due_s += random.expovariate(per_s)
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                if task := self._write_somewhere():
                    writes.add(task)
                    task.add_done_callback(writes.discard)

        writer = asyncio.create_task(write_always())
        try:
            yield
        finally:
            writer.cancel()
            with suppress(asyncio.CancelledError):
                await writer
            await asyncio.gather(*writes)

    async def close(self) -> None:
        """End all agents."""
        await self.silence(self.running)

    def _write_somewhere(self) -> asyncio.Task[None] | None:
        agents: Sequence[Agent] = [agent for agent in self._tasks if agent.vms]
        return asyncio.create_task(_write(random.choice(agents))) if agents else None


async def _write(agent: Agent) -> None:
    with suppress(Failed):  # the tally has it
        await agent.write(random.choice(agent.vms), random.choice([PowerState.RUNNING, PowerState.PAUSED]))
