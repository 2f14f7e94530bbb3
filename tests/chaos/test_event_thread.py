"""The native thread that hears libvirt ends or stands still: the agent says that it must be started anew."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path

import pytest

from lab.agent import Agent
from lab.world import World, power_of, until

TOLD_LIMIT_S = 30
"""The promise."""

# Of Linux on x86_64: system calls, the instruction that makes one, and what ptrace and waitpid can be asked.
EXIT = 60
POLLS = {"7", "271"}
"""poll and ppoll. GLib, which libvirt's event loop uses, calls ppoll from 2.80 on (Debian 13), and poll before."""
NO_CALL = 2**64 - 1
SYSCALL_BYTES = 2
PTRACE_GETREGS, PTRACE_SETREGS, PTRACE_DETACH, PTRACE_SEIZE, PTRACE_INTERRUPT = 12, 13, 17, 0x4206, 0x4207
WALL = 0x40000000
REGISTERS = (
    *("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi"),
    *("orig_rax", "rip", "cs", "eflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs"),
)


class Registers(ctypes.Structure):
    """user_regs_struct."""

    _fields_ = [(name, ctypes.c_ulonglong) for name in REGISTERS]


def listener(agent: Agent) -> int:
    """The one of its threads that waits for several sockets by poll or ppoll."""
    found: list[int] = []

    def look() -> bool:
        calls: dict[int, list[str]] = {}
        for task in Path(f"/proc/{agent.pid}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):  # this thread has just ended
                calls[int(task.name)] = (task / "syscall").read_text().split()
        found[:] = [thread for thread, call in calls.items() if call[0] in POLLS and int(call[2], 16) > 1]
        return len(found) == 1

    until(look, "no thread waits for libvirt's sockets")
    return found[0]


@contextmanager
def stopped(thread: int) -> Iterator[None]:
    """One thread of another process stands still, as a debugger makes it; the rest of the process does not."""
    trace(PTRACE_SEIZE, thread)
    try:
        trace(PTRACE_INTERRUPT, thread)
        os.waitpid(thread, WALL)
        yield
    finally:
        trace(PTRACE_DETACH, thread)


def end(thread: int) -> None:
    """One thread of another process ends, in the middle of its poll."""
    registers = Registers()
    with stopped(thread):
        trace(PTRACE_GETREGS, thread, registers)
        # It goes on with the instruction that brought it into the kernel, and asks for another thing.
        registers.rip -= SYSCALL_BYTES
        registers.rax, registers.rdi, registers.orig_rax = EXIT, 0, NO_CALL
        trace(PTRACE_SETREGS, thread, registers)


def trace(request: int, thread: int, data: ctypes.Structure | None = None) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    libc.ptrace.restype = ctypes.c_long
    if libc.ptrace(request, thread, None, None if data is None else ctypes.byref(data)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), f"ptrace of thread {thread}")


def says_that_it_is_deaf(agent: Agent) -> bool:
    """Whether its liveness tells of the thread, and of nothing else."""
    status, body = agent.ask("/livez")
    assert (status, body) in {
        (HTTPStatus.OK, "ok\n"),
        (HTTPStatus.INTERNAL_SERVER_ERROR, "dead: event loop\n"),
    }
    return status != HTTPStatus.OK


def test_event_thread_dead(world: World) -> None:
    agent = world.start_agent()
    assert not says_that_it_is_deaf(agent)
    end(listener(agent))
    until(lambda: says_that_it_is_deaf(agent), "it does not say so", limit_s=TOLD_LIMIT_S)
    assert agent.ready(), "libvirt and the API server answer as ever"
    agent.stop()


@pytest.mark.long
def test_event_thread_stands_still(world: World) -> None:
    guest = world.start()
    world.apply(guest)
    agent = world.start_agent()
    world.until(guest, lambda vm: power_of(vm) == "Running", "seen")
    assert not says_that_it_is_deaf(agent)
    with stopped(listener(agent)):
        until(lambda: says_that_it_is_deaf(agent), "it does not say so", limit_s=TOLD_LIMIT_S)
    until(lambda: not says_that_it_is_deaf(agent), "it does not recover")
    world.virsh("suspend", guest.name)
    world.until(guest, lambda vm: power_of(vm) == "Paused", "told to be paused")
