"""A real Chromium that looks at the page of a manager: for its tests, its measurements and its pictures."""
