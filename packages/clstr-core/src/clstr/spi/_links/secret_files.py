"""Files with secrets: keys, and credentials."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

_OTHERS = stat.S_IROTH | stat.S_IWOTH


def warn_of_exposed_file(what: str, path: str | Path, logger: logging.Logger) -> None:
    """
    Log a warning if every user of this machine may read or replace a file with a secret.

    A group that may read it is taken for what its owner wants: mounted secrets are often given to a group. Folders
    above the file are not looked at, nor access lists; on Windows nothing is checked. A file that is not there, or
    cannot be looked at, is left to the code that reads it.

    Args:
        what: What the file is, for the log: ``"the TLS key"``.
        path: Where it is.
        logger: Where the warning goes.
    """
    if os.name == "nt":  # pragma: no cover - its modes say nothing
        return
    try:
        mode = Path(path).stat().st_mode
    except OSError:
        return
    if mode & _OTHERS:
        text = "%s in %s can be read or written by every user of this machine (mode %04o): chmod 600 it"
        logger.warning(text, what, path, stat.S_IMODE(mode))
