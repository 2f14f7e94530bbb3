"""How pytest-xdist gives out the tests: by file, and also after a worker has died."""

from collections.abc import Sequence

from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

NEEDED = 2
"""A worker starts a test only when it knows the next one, or that there is none."""


class SchedulingByFile(LoadFileScheduling):
    """Gives out whole files of tests, and the rest of a file after its worker has died.

    A worker dies when a test takes longer than its limit: pytest-timeout then ends the process. The class of
    pytest-xdist 3.8.0 starts that test again, up to a dozen times, and gives out files that are finished, after which
    the run never ends (pytest-xdist, issues 1327 and 1378). Delete this class when a release has both mended.
    """

    def remove_node(self, node: WorkerController) -> str | None:
        """Put back what the worker has not run, except the test that it died in, and return that test."""
        left = {
            file: {test: False for test, done in tests.items() if not done}
            for file, tests in self.assigned_work.pop(node).items()
        }
        started = next(((file, test) for file, tests in left.items() for test in tests), None)
        if started is None:
            return None
        file, died_in = started
        del left[file][died_in]
        self.workqueue.update({file: tests for file, tests in left.items() if tests})
        for other in self.assigned_work:
            self._reschedule(other)
        return died_in

    def add_node_collection(self, node: WorkerController, collection: Sequence[str]) -> None:
        """Note the tests that a worker has found. One that replaces a dead one and has found others gets none."""
        super().add_node_collection(node, collection)
        if node not in self.registered_collections:
            node.shutdown()

    def _reschedule(self, node: WorkerController) -> None:
        if node not in self.registered_collections:
            return  # it replaces a dead worker, and gets its tests when it has found them
        super()._reschedule(node)
        while not node.shutting_down and self._pending_of(self.assigned_work[node]) < NEEDED:
            super()._reschedule(node)  # gives out one more file or, if none is left, ends the worker
