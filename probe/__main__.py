"""probe, or python -m probe."""

import os
import sys

from probe.cli import main

# Threads that wait for one another must not spin: beside another busy process that costs thirty times the time.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if __name__ == "__main__":
    sys.exit(main())
