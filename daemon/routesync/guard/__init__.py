"""Mode "guard": removes redundant DHCP host routes from the kernel that loxilb and this daemon share.

redundancy   whether a route may be removed: pure
guard        the task that examines and removes; routes that reappear; events and the alarm
verify       whether loxilb's own entry left, too
"""
