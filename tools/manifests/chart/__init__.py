"""Renders what deploy/chart has of deploy/base: `python -m manifests.chart`."""
