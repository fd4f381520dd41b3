"""Python runs this at the start of each process whose PYTHONPATH has this folder: in workers, traps are set."""

import os
import sys

command = sys.orig_argv
if "KILLS_FOLDER" in os.environ and "--worker-id" in command and ("prefill" in command or "decode" in command):
    from bench.kills.arms import FOLDER, Trap
    from bench.kills.traps import set_when_imported

    set_when_imported(Trap(os.environ[FOLDER], command[command.index("--worker-id") + 1]))
