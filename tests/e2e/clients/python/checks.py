"""What the checks of every client share."""

import time

LIMIT = 60


def until(what, condition):
    """Waits for a condition, and says what it was when it does not come true."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {LIMIT} s")


def run(checks):
    """Runs them in order: each prints `ok NAME`, and the first that fails ends the program with its traceback."""
    for check in checks:
        check()
        print("ok", check.__name__, flush=True)
