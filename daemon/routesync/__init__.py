r"""routesync: mirror the kernel routes that are fit for it into loxilb.

The rooms, in the direction in which a route passes through them (imports point the other way, downwards only;
import-linter holds that)::

    kernel -> policy -> table -> mirror -> loxilb
                 \         \        \
                  `---------`--------`--> events
"""

__version__ = "0.2.0"
