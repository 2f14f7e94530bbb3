"""virtsync (the map is written when the territory is)."""

__version__ = "0.1.0"
