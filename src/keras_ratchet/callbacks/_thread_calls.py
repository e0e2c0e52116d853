"""Which functions another thread is in, read without touching its frames.

`sys._current_frames` and `f_back` make frame objects of a thread that goes on meanwhile; on
Python 3.11 that has ended trainings with a segmentation fault. `faulthandler` is made to read the
frames of threads that run: in one go, with the interpreter's lock held, and it makes no objects.
"""

import faulthandler
import re
import tempfile
import threading
from types import CodeType

# Lines of faulthandler: 'Thread 0x00007f2a (most recent call first):', '  File "x.py", line 3 in f'
_THREAD = re.compile(r"^(?:Current t|T)hread (0x[0-9a-f]+) .*:\n((?:  .*\n)*)", re.MULTILINE)
_CALL = re.compile(r'^  File "(.*)", line .* in (.*)$', re.MULTILINE)


def calls_of(thread: int) -> set[tuple[str, str]] | None:
    """Return the functions that a thread is in.

    Args:
        thread: Its `threading.get_ident()`.

    Returns:
        File and name of each, as `called` has them; an empty set if the thread has ended; None if
        it cannot be told: faulthandler shows 100 calls of a thread, and 100 threads, and does
        not say that a disk is full.
    """
    try:
        with tempfile.TemporaryFile(buffering=0) as file:
            faulthandler.dump_traceback(file, all_threads=True)
            file.write(b"\n")  # raises where faulthandler's own writes have failed
            file.seek(0)
            text = file.read().decode("ascii", "replace")
    except OSError:
        return None
    stacks = {int(number, 16): calls for number, calls in _THREAD.findall(text)}
    if thread not in stacks:
        is_alive = any(other.ident == thread for other in threading.enumerate())
        return None if is_alive else set()
    if "  ...\n" in stacks[thread]:
        return None
    return set(_CALL.findall(stacks[thread]))


def called(code: CodeType) -> tuple[str, str]:
    """Return file and name of a function, as `calls_of` has them."""
    file, name = (
        text.encode("ascii", "backslashreplace").decode("ascii")
        for text in (code.co_filename, code.co_name)
    )
    return file, name
