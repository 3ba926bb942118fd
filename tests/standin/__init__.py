"""A stand-in for loxilb: its route API, on a real kernel, without eBPF.

It runs inside a network namespace and behaves as the original was seen to behave: POST and DELETE change the kernel
of that namespace; its own table is fed by its own netlink ears, slowly; GET shows that table with all its oddities. It
exists for the demo and the tests, and knows nothing of the rest of the program.

    options ─► server ─► api ─► kernel            (POST, DELETE)
                  │        └──► table ─► wire     (GET)
                  └─► ears ───────┘
"""

from standin.options import StandinOptions, parse_options
from standin.server import run_standin

__all__ = ["StandinOptions", "parse_options", "run_standin"]
