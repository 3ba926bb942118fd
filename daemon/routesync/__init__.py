r"""routesync: mirror the kernel routes that are fit for it into loxilb.

The packages, in the direction in which a route passes through them (imports point the other way, downwards only;
import-linter checks that)::

    kernel -> policy -> table -> mirror -> loxilb
                 \         \        \
                  `---------`--------`--> events
"""

__version__ = "0.2.0"
