"""Hostile inputs by the thousand, each in a process of its own: see `run.py`."""

import os

# Threads do not survive a fork, so libraries must not start any before it.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
