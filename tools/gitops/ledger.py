"""The table at the end of the tests: what was done, what the engine and the VM did, and after how many seconds."""

import time
from dataclasses import dataclass, field

COLUMNS = ("engine", "done", "the engine", "the VM")


@dataclass
class Row:
    """One deed and what came of it; the seconds count from its creation."""

    engine: str
    done: str
    by_engine: list[str] = field(default_factory=list)
    by_vm: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def engine_did(self, what: str) -> None:
        """The engine has just done this."""
        self.by_engine.append(self._after(what))

    def vm_did(self, what: str) -> None:
        """The VM, or the agent, has just done this."""
        self.by_vm.append(self._after(what))

    def _after(self, what: str) -> str:
        return f"{what}: {time.monotonic() - self.began:.1f} s"


@dataclass
class Ledger:
    """The rows of one test run, in order."""

    rows: list[Row] = field(default_factory=list)

    def row(self, engine: str, done: str) -> Row:
        """Begin a row: this is done now."""
        self.rows.append(Row(engine, done))
        return self.rows[-1]

    def table(self) -> str:
        """The rows as a table of Markdown."""
        lines = [
            COLUMNS,
            *((row.engine, row.done, ", ".join(row.by_engine), ", ".join(row.by_vm)) for row in self.rows),
        ]
        head, *rest = ("| " + " | ".join(line) + " |" for line in lines)
        return "\n".join([head, "|---|---|---|---|", *rest])
