"""docs/metrics.md is what the code serves."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from manifests import metrics
from manifests.metrics import Documented


def test_the_page_is_as_the_code() -> None:
    assert metrics.RENDERED.read_text() == metrics.render(), "run `make manifests`"


def test_every_metric_that_the_code_defines_is_found_also_without_a_sample() -> None:
    registry = CollectorRegistry()
    Counter("done", "Things done.", ["kind"], registry=registry)
    Gauge("virtsync_held", "1 while it is held.", registry=registry)
    Histogram("took_seconds", "How long it took.", ["kind", "who"], registry=registry)
    assert metrics.documented(registry) == [
        Documented("virtsync_held", "gauge", (), "0 or 1", "1 while it is held."),
        Documented("done_total", "counter", ("kind",), "number", "Things done."),
        Documented("took_seconds", "histogram", ("kind", "who"), "seconds", "How long it took."),
    ]


def test_every_sentence_about_a_metric_ends() -> None:
    rows = [row for registry in metrics.registries().values() for row in metrics.documented(registry)]
    assert len(rows) > 40
    assert [row.name for row in rows if not row.meaning.endswith(".")] == []
