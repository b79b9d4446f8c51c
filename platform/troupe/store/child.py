"""Run a program that dies with its parent: `python -I -S child.py PARENT PROGRAM [ARGUMENT ...]`.

Linux clears nothing of this on `execv`, so the program keeps the process id and the promise. A
script rather than `preexec_fn`, which is unsafe in a process that has threads.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask for the signal, then become the program."""
    parent, program = int(sys.argv[1]), sys.argv[2]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # Ray ends a job by a signal to each process of it: our parent says when, by another one.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    if os.getppid() != parent:
        sys.exit("the parent died first")
    os.execv(program, sys.argv[2:])


if __name__ == "__main__":
    main()
