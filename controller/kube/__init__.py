"""The adapter to the API server: the only package that sends requests to it."""
