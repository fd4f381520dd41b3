"""What every test runs under: one compute thread, so that tests that start threads do not also fight over cores."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is first imported
