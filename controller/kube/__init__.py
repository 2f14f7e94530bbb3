"""The API server, at the border: the only package that talks to it."""
