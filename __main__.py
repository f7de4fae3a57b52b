"""`python -m diptych`, and `accelerate launch -m diptych`."""

from __future__ import annotations

import os
import signal
from types import FrameType


def main() -> None:
    """Run the command line. An interrupt ends it in one line, unless a run is at work that saves itself first."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as nohup and shells without job control have it
        signal.signal(signal.SIGINT, _interrupted)
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: the next file that is opened would be taken for standard output
            os.open(os.devnull, os.O_RDWR)
    from .pipeline.cli.main import main as run

    run()


def _interrupted(number: int, _: FrameType | None) -> None:
    # as an exception, libraries that are being imported would make other errors of it
    if os.environ.get("RANK") in (None, "", "0"):
        os.write(2, b"diptych: interrupted\n")
    os._exit(128 + number)


if __name__ == "__main__":
    main()
