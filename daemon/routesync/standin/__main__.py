"""`python -m routesync.standin`."""

import sys

from routesync.standin import parse_options, run_standin

sys.exit(run_standin(parse_options()))
