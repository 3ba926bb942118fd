"""Play it: `make demo`."""

import sys

from demo.story import run_demo

sys.exit(run_demo())
