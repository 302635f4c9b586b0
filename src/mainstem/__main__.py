"""`python -m mainstem` is `mainstem`."""

import sys

from mainstem.cli import main

if __name__ == "__main__":
    sys.exit(main())
