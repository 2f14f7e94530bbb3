"""The site that is built from docs/ by MkDocs (mkdocs.yml)."""
