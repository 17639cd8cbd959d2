"""The carrier transport of clstr: ``carrier://name``. It is reached through `clstr.connect`."""
