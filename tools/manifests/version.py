"""Renders deploy/version from the version in controller/__init__.py: `python -m manifests.version`.

All manifests take the version from there, as kustomize components: the image's tag, and a label.
"""

from pathlib import Path

from controller import __version__

RENDERED = Path(__file__).parents[2] / "deploy" / "version" / "kustomization.yaml"


def render() -> str:
    """The file as it is to be."""
    return f"""\
# Rendered by `make manifests` from controller/__init__.py: change the version there.
apiVersion: kustomize.config.k8s.io/v1alpha1
kind: Component
images:
  - name: virtsync/virtsync
    newTag: {__version__}
labels:
  - includeTemplates: true
    pairs:
      app.kubernetes.io/version: {__version__}
"""


if __name__ == "__main__":
    RENDERED.parent.mkdir(exist_ok=True)
    RENDERED.write_text(render())
