"""What `python -m tfprune` needs before TensorFlow is imported, which the package does first."""

import os
import signal
import sys

import tfprune_cli
from tfprune_cli import native_log


def before_tensorflow():
    """Does what the command `tfprune` does at its start, if Python was started by `-m tfprune`.

    Exits for help and for mistakes in arguments, imports TensorFlow with what it writes held back,
    and lets Ctrl-C end the process in one line until the command itself takes over.
    """
    started = sys.orig_argv[-len(sys.argv) :]
    if sys.argv[:1] != ["-m"] or started[:1] not in (["tfprune"], ["-mtfprune"]):
        return
    arguments = tfprune_cli.parse(sys.argv[1:])
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    terminal = os.dup(2)

    def leave(*_):
        os.write(terminal, f"tfprune {arguments.command}: interrupted.\n".encode())
        os._exit(130)

    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, leave)
    with native_log.held_back():
        import tensorflow  # noqa: F401


before_tensorflow()
