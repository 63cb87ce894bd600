"""Waiting for something to become true, with a deadline."""

import time


def until(what, probe, seconds=30.0):
    """Calls `probe` until it returns something true, and returns that; AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        found = probe()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.02)  # sleep: between two looks of a bounded poll
