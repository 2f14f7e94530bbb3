"""Renders the files of deploy/ that are made from others."""
