from __future__ import annotations

import io
import json
import logging
import os
import pty
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from pydantic import SecretStr

from routesync.service import logs


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_has_event_level_time_and_fields() -> None:
    out = io.StringIO()
    logs.configure(stream=out)
    structlog.get_logger("x").info("route_withdrawn", prefix="10.0.0.0/8", hops=2)
    assert out.getvalue().startswith('{"event": "route_withdrawn", ')
    (line,) = lines(out)
    stamp = line.pop("timestamp")
    assert line == {"event": "route_withdrawn", "level": "info", "prefix": "10.0.0.0/8", "hops": 2}
    assert str(stamp).endswith("Z")


def test_what_libraries_log_looks_the_same() -> None:
    out = io.StringIO()
    logs.configure(stream=out)
    logging.getLogger("aiohttp.client").warning("connection to %s lost", "loxilb")
    logging.getLogger("aiohttp.client").info("not worth hearing")
    (line,) = lines(out)
    assert line["event"] == "connection to loxilb lost"
    assert line["level"] == "warning"
    assert line["logger"] == "aiohttp.client"


def test_an_error_is_one_line_with_its_traceback_inside() -> None:
    out = io.StringIO()
    logs.configure(stream=out)
    try:
        raise ValueError("bad prefix")
    except ValueError:
        structlog.get_logger().exception("rule_failed")
    (line,) = lines(out)
    assert "ValueError: bad prefix" in str(line["exception"])


def test_a_path_that_is_not_utf_8_is_written_as_in_messages() -> None:
    out = io.StringIO()
    logs.configure(stream=out)
    structlog.get_logger().info("config_reloaded", path=Path("/etc/k\udcf6ü.toml"), errors=["k\udcf6"])
    (line,) = lines(out)
    assert (line["path"], line["errors"]) == (r"/etc/k\udcf6ü.toml", [r"k\udcf6"])


def test_the_level_holds_and_may_change() -> None:
    out = io.StringIO()
    log = structlog.get_logger()
    logs.configure("warning", stream=out)
    log.info("quiet")
    logs.configure("debug", stream=out)
    log.debug("loud")
    assert [line["event"] for line in lines(out)] == ["loud"]


@pytest.mark.parametrize("form", ["json", "console"])
def test_secrets_never_show(form: logs.Format) -> None:
    out = io.StringIO()
    logs.configure(form=form, stream=out, secrets=["hunter2hunter2"])
    log = structlog.get_logger()
    log.info(
        "connecting", password="sesame-1", nested={"api_token": "sesame-2", "deep": [{"secret": "sesame-3"}]}
    )
    log.info("connecting", url="mqtt://user:sesame-4@broker:1883/", model=SecretStr("sesame-5"))
    log.info("header was hunter2hunter2", header="Authorization: hunter2hunter2")
    try:
        raise RuntimeError("401 for http://admin:sesame-6@lb:11111 with hunter2hunter2")
    except RuntimeError:
        log.exception("refused")
    logging.getLogger("lib").error("libraries too: %s", "hunter2hunter2", extra={"token": "sesame-7"})
    text = out.getvalue()
    assert "sesame" not in text
    assert "hunter2" not in text
    assert "broker:1883" in text
    assert "http://admin:" in text


def test_a_secret_is_known_in_each_form_in_which_it_may_be_written() -> None:
    out = io.StringIO()
    secret = "p@ss/w\\ord'1"
    logs.configure(stream=out, secrets=[secret])
    log = structlog.get_logger()
    log.info("plain", text=secret, packed=secret.encode(), url="http://lb/?t=p%40ss%2Fw%5Cord%271")
    try:
        raise ValueError(secret)
    except ValueError as error:
        log.exception("failed", error=repr(error))
    assert "w" + "ord" not in out.getvalue().replace("\\", "").replace("password", "")
    assert "ord%27" not in out.getvalue()
    assert out.getvalue().count(logs.REDACTED) >= 4


def test_where_a_secret_lies_is_no_secret() -> None:
    out = io.StringIO()
    logs.configure(stream=out)
    structlog.get_logger().info("reading", password_file="/run/credentials/mqtt", password=None)
    (line,) = lines(out)
    assert line["password_file"] == "/run/credentials/mqtt"
    assert line["password"] is None


def test_a_terminal_gets_the_readable_form_in_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w", buffering=1) as terminal:
        logs.configure(stream=terminal)
        structlog.get_logger().warning("target_unreachable", target="lb-1")
        text = os.read(leader, 4096).decode()
    os.close(leader)
    assert "target_unreachable" in text
    assert "\x1b[" in text


HOSTILE = "\x1b]0;title\x07 \x9b31m \u202eabc \r\nfalse line"


def test_a_terminal_gets_no_control_characters() -> None:
    out = io.StringIO()
    logs.configure(form="console", stream=out)
    log = structlog.get_logger()
    log.warning(
        "target_down", error=HOSTILE, several=[HOSTILE], named={HOSTILE: HOSTILE}, other=Path(HOSTILE)
    )
    log.warning(HOSTILE)
    logging.getLogger("aiohttp").warning("oops %s", HOSTILE, extra={"peer": HOSTILE})
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        log.exception("failed")
        logging.getLogger("aiohttp").exception("failed")
    text = out.getvalue()
    assert [it for it in text if not it.isprintable() and it != "\n"] == []
    assert text.count("false line") == 10
    lines = text.splitlines()
    assert [it for it in lines if it.startswith("false")] == ["false line"] * 2, "only in tracebacks"


def test_the_journal_gets_syslog_levels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "journal").open("w+") as journal:
        found = os.fstat(journal.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        logs.configure(stream=journal)
        structlog.get_logger().error("broken")
        journal.seek(0)
        line = journal.readline()
    assert line.startswith('<3>{"event": "broken"')
    assert json.loads(line[3:])["event"] == "broken"
