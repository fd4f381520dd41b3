"""Runs a command that cannot outlive its parent: `python leash.py PARENT_PID COMMAND...`.

Who starts a process that shall end with it starts it through this file (`leashed`). On Linux a process can ask to be
sent a signal when its parent ends, however it ends (PR_SET_PDEATHSIG), and keeps that wish across exec, so the command
itself knows nothing of it. Asking here, in a process that is ours alone, spares the parent from running Python between
fork and exec (`preexec_fn`), which is not safe once threads run. Elsewhere than on Linux the command just runs.

Standard library only: it runs by path and without `site`, in some ten milliseconds.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def leashed(*command: str) -> tuple[str, ...]:
    """The command that runs `command` for as long as this process lives; on Linux, the thread that starts it."""
    return (sys.executable, "-S", "-E", __file__, str(os.getpid()), *command)


def main(parent_pid: int, command: list[str]) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent_pid:  # it ended before we asked
        sys.exit("who started this is gone")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
