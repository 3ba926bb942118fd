"""Mode "guard": redundant DHCP host routes are taken out of the kernel that loxilb and we share.

redundancy   whether a route may go: pure
returns      routes that come back, and how long they then stay
announce     its words: events, and one log line for each
verify       whether loxilb's own entry left, too
guard        the eternal task that looks and removes
"""
