"""`python -m firstcue` is the command `firstcue`."""

import sys

from firstcue.cli import main

if __name__ == "__main__":
    sys.exit(main())
