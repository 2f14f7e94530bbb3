"""Write the rendered files of the chart."""

from manifests.chart.files import CHART, render

for name, text in render().items():
    file = CHART / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
