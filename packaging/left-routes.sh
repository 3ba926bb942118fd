# Beginning of the scripts that remove the package; `packaging/package` puts it before them.
# When routesync stops, its routes stay in loxilb: say how many, where, and what to do. The ledger knows them.
say_what_is_left() { # list: print the routes, too
    command -v python3 >/dev/null || return 0
    python3 -I - "$@" <<'PYTHON' || true
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

ledger = Path("/var/lib/routesync/ledger.sqlite")
if not ledger.exists():
    sys.exit()
try:
    with closing(sqlite3.connect(ledger)) as database:
        rows = database.execute("SELECT target, prefix, gateway FROM route ORDER BY target, prefix").fetchall()
except sqlite3.Error as error:
    print(f"routesync: {ledger} cannot be read ({error}): routes that routesync added may remain in loxilb")
    sys.exit()
if not rows:
    sys.exit()
urls = {}
main = Path("/etc/routesync/routesync.toml")
for file in (main, *sorted(main.with_name(f"{main.name}.d").glob("[!.]*.toml"))):
    try:
        import tomllib  # not in the python3 of RHEL 9

        urls |= {it["name"]: it["url"] for it in tomllib.loads(file.read_text(encoding="utf-8"))["targets"]}
    except (ImportError, OSError, ValueError, LookupError, TypeError):
        continue  # the routes are named all the same
targets = sorted({target for target, _, _ in rows})
print(f"routesync: routes that routesync added remain in loxilb: {len(rows)}")
for target in targets:
    count = sum(it == target for it, _, _ in rows)
    print(f"  target {target}{f' at {urls[target]}' if target in urls else ''}: {count}")
if sys.argv[1:] == ["list"]:
    print("The record of them is deleted now. Remove them in loxilb by hand (`loxicmd delete route PREFIX`):")
    for target, prefix, gateway in rows[:100]:
        print(f"  {target}: {prefix} via {gateway}")
    if len(rows) > 100:
        print(f"  and {len(rows) - 100} more")
else:
    print("To remove them: install routesync again, then, while the service is stopped:")
    for target in targets:
        print(f"  routesync withdraw --target {target}")
PYTHON
}

