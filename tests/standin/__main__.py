"""Run it: `PYTHONPATH=tests python -m standin`."""

import sys

from standin import parse_options, run_standin

sys.exit(run_standin(parse_options()))
