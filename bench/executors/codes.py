"""Exit codes of a job's process."""

DONE = 0
FAILED = 1
"""What it was to do failed; the files in its folder say why."""
BAD_INPUT = 2
"""One line on standard error, the last, says what is wrong."""
NO_DATA = 3
"""As ``BAD_INPUT``, for want of data."""
INTERRUPTED = 75
"""It was asked to stop; started again it goes on."""
