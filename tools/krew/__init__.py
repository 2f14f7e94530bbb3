"""The plugin as Krew installs it: an archive for every Linux, and the manifest that describes it."""
