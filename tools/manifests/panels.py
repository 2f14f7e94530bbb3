"""The kinds of panels that our dashboards are made of, with the typed builders of grafana-foundation-sdk."""

from collections.abc import Sequence
from string import ascii_uppercase

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.cog import builder
from grafana_foundation_sdk.models.common import BigValueGraphMode, GraphDrawStyle, StackingMode
from grafana_foundation_sdk.models.dashboard import (
    DashboardLinkType,
    DataSourceRef,
    DataTransformerConfig,
    Panel,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
WIDTH = 24
"""A row of a dashboard has so many columns."""
TAG = "virtsync"

Built = builder.Builder[Panel]


def new(uid: str, title: str, description: str) -> dashboard.Dashboard:
    """A dashboard without panels, with a choice of the data source and links to the others."""
    links = dashboard.DashboardLink("virtsync").type(DashboardLinkType.DASHBOARDS).tags([TAG]).keep_time(True)  # noqa: FBT003 - the builder wants it so
    return (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG])
        .time("now-6h", "now")
        .refresh("1m")
        .timezone("browser")
        .link(links)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )


def choice(name: str, label: str, query: str) -> dashboard.QueryVariable:
    """A variable whose values Prometheus knows, such as the nodes."""
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query(query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
    )


def number(title: str, expr: str, *, span: int = 4, unit: str = "short", bad: float | None = None) -> Built:
    """One number. From `bad` on it is red, otherwise green; None: it has no color."""
    steps = [Threshold(None, "green" if bad is not None else "text")]
    if bad is not None:
        steps.append(Threshold(bad, "red"))
    return (
        stat.Panel()
        .title(title)
        .datasource(SOURCE)
        .unit(unit)
        .height(4)
        .span(span)
        .graph_mode(BigValueGraphMode.NONE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
        .with_target(_query(expr, "").instant())
    )


def lines(title: str, *queries: tuple[str, str], span: int = 12, unit: str = "short", stacked: bool = False) -> Built:
    """Values over time: an expression and a legend for each group of lines."""
    panel = timeseries.Panel().title(title).datasource(SOURCE).unit(unit).height(8).span(span).min(0)
    panel = panel.draw_style(GraphDrawStyle.LINE).fill_opacity(30 if stacked else 5).line_width(1)
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    for ref_id, (expr, legend) in zip(ascii_uppercase, queries, strict=False):
        panel = panel.with_target(_query(expr, legend, ref_id).range())
    return panel


def states(title: str, expr: str, legend: str) -> Built:
    """Which states there were at which time."""
    panel = statetimeline.Panel().title(title).datasource(SOURCE).height(8).span(WIDTH)
    return panel.with_target(_query(expr, legend).range())


def rows(
    title: str,
    expr: str,
    columns: Sequence[str],
    value: str,
    *,
    span: int = 12,
    unit: str = "short",
    link: tuple[str, str] | None = None,
) -> Built:
    """The present values: a row for each series, with these labels and the value under the name `value`.

    `link` is the title and the URL to which the cells of a row lead.
    """
    names = {"Value": value}
    keep = {"include": {"names": [*columns, "Value"]}}
    panel = (
        table.Panel()
        .title(title)
        .datasource(SOURCE)
        .unit(unit)
        .height(8)
        .span(span)
        .with_target(_query(expr, "").instant().format(PromQueryFormat.TABLE))
        .with_transformation(DataTransformerConfig(id_val="filterFieldsByName", options=keep))
        .with_transformation(DataTransformerConfig(id_val="organize", options={"renameByName": names}))
    )
    return panel.data_links([dashboard.DashboardLink(link[0]).url(link[1])]) if link else panel


def _query(expr: str, legend: str, ref_id: str = "A") -> prometheus.Dataquery:
    return prometheus.Dataquery().datasource(SOURCE).ref_id(ref_id).expr(expr).legend_format(legend)
