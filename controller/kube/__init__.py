"""The adapter to the API server. Only this package sends requests to the API server."""
