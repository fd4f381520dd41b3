"""What every test runs under.

One compute thread, so that tests that start threads do not also fight over cores; and Triton's interpreter, which has
to be chosen before anything imports Triton, as transformers may.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is first imported
os.environ.setdefault("TRITON_INTERPRET", "1")
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # Triton 3.9 warns that 3.10 will have another default
