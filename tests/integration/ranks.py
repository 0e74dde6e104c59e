"""Forks processes that run artart.train, from one that has imported it: each line of input is a JSON list of them.

The answer to a line is a list of exit codes, once all have ended.
"""

import gc
import json
import os
import signal
import sys
from pathlib import Path

import torch.utils.tensorboard  # noqa: F401 - as a training does later

import artart.train
from artart.training import finetune, next_commands, run, stages  # noqa: F401 - the same

next_commands.is_command = lambda: False  # no estimates, as in conftest.py
MAX_SECONDS = 300  # that a process may take
gc.freeze()  # else its collections copy what the ranks share

for line in sys.stdin:
    started = []
    for job in json.loads(line):
        if pid := os.fork():
            started.append(pid)
            continue
        signal.alarm(MAX_SECONDS)
        os.chdir(job["folder"])
        os.environ.update(job["environment"])
        os.dup2(os.open(Path(job["output"]), os.O_WRONLY | os.O_CREAT), 1)
        os.dup2(1, 2)
        sys.argv[1:] = job["words"]
        artart.train.run()
        sys.exit()
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in started]), flush=True)  # noqa: T201
