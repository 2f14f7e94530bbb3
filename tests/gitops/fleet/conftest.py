"""An engine of each kind, for the tests of a fleet in Git."""

import pytest

from tests.gitops.fleet.parts import ENGINES, Engine


@pytest.fixture(params=ENGINES, ids=lambda engine: engine.name)
def engine(request: pytest.FixtureRequest, collector: None) -> Engine:  # noqa: ARG001 - namespaces are deleted
    """An engine, which runs."""
    engine: Engine = request.param
    request.getfixturevalue(engine.name)
    return engine
