"""What `check --as-service` takes from the unit; that it runs so is in tests/system/test_booted.py."""

from __future__ import annotations

from pathlib import Path

from routesync.doctor.daemon import missing_credentials, service_settings

UNIT = """\
# /usr/lib/systemd/system/routesync.service
[Unit]
Description=a = b
[Service]
ExecStart=/usr/bin/routesync run \\
    --config /etc/routesync/routesync.toml
# LoadCredential=no:/no
LoadCredential=old:/nowhere/old
[Install]
WantedBy=multi-user.target

# /etc/systemd/system/routesync.service.d/override.conf
[Service]
LoadCredential=
LoadCredential = here:{here}
LoadCredential=gone:/nowhere/gone
LoadCredential=store
"""


def test_settings_of_the_unit_and_its_drop_ins_in_order(tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.touch()
    settings = list(service_settings(UNIT.format(here=here)))
    assert settings[0] == ("ExecStart", "/usr/bin/routesync run      --config /etc/routesync/routesync.toml")
    assert [value for key, value in settings if key == "LoadCredential"] == [
        "old:/nowhere/old",
        "",
        f"here:{here}",
        "gone:/nowhere/gone",
        "store",
    ]
    assert list(missing_credentials(settings)) == [("gone", Path("/nowhere/gone"))]
