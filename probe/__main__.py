"""python -m probe."""

import sys

from probe.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
