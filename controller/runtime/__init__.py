"""Machinery that knows no VM: any controller of ours could run on it."""
