"""
Become a server that does not outlive the process that started it.

A script, run by itself: ``python _launcher.py PARENT_PID kernel|watchdog PROGRAM ARGUMENT...``. It replaces itself by
the program, so that the process id that the parent knows is the server's.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def tie_by_kernel() -> bool:  # pragma: no cover -- runs in a process of its own
    """Ask Linux to kill this process when its parent ends, however it ends; return whether it will."""
    try:
        return int(ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)) == 0
    except (AttributeError, OSError):
        return False


def tie_by_watchdog() -> None:  # pragma: no cover -- runs in a process of its own
    """Leave a process behind that kills this one when its standard input, a pipe that the parent holds, ends."""
    server = os.getpid()
    if os.fork() == 0:
        os.read(0, 1)
        if os.getppid() == server:  # else it has ended, and its number may be somebody else's
            os.kill(server, signal.SIGKILL)
        os._exit(0)


def main(parent: str, tie: str, *command: str) -> None:  # pragma: no cover -- runs in a process of its own
    """Tie this process to ``parent``, then become ``command``."""
    if tie == "watchdog" or not tie_by_kernel():
        tie_by_watchdog()
    if os.getppid() != int(parent):
        sys.exit("the process that wanted this server has ended")
    os.execv(command[0], command)  # noqa: S606 -- the command is the parent's


if __name__ == "__main__":  # pragma: no cover -- runs in a process of its own
    main(*sys.argv[1:])
