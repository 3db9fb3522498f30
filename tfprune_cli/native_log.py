"""Keeps what TensorFlow writes off the terminal."""

import contextlib
import os
import sys
import tempfile


@contextlib.contextmanager
def held_back(shown_on_failure=True):
    """Keeps what TensorFlow writes off the terminal, unless the block fails and it shall be shown.

    Its first messages are written while its libraries load, whatever TF_CPP_MIN_LOG_LEVEL says, and
    straight to file descriptor 2, so that descriptor has to point elsewhere meanwhile.
    """
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            yield
        except BaseException as error:
            if shown_on_failure and not isinstance(error, KeyboardInterrupt):
                log.seek(0)
                os.write(terminal, log.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
