"""Secrets: from the environment, from files, from systemd's credentials; and in no message."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from routesync.config import ConfigError, Loaded, load
from routesync.config.credentials import Origin
from routesync.loxilb.client import FileToken
from routesync.loxilb.errors import NotSent
from routesync.names import Names
from support.config_keys import TABLES

Complaints = Callable[..., list[str]]

SECRET = "hunter2-hunter2"
TARGET = '[[targets]]\nname = "lb-1.edge"\nurl = "http://192.0.2.1"\n'
MQTT = '[mqtt]\nhost = "broker"\nusername = "me"\n'


def loaded(folder: Path, text: str, **environ: str) -> Loaded:
    file = folder / "routesync.toml"
    file.write_text(text)
    return load(file, environ, Names())


def password(of: Loaded) -> str | None:
    mqtt = of.settings.mqtt
    return mqtt.password.get_secret_value() if mqtt and mqtt.password else None


def token(of: Loaded) -> str | None:
    secret = of.settings.targets[0].token
    return secret.get_secret_value() if secret else None


def test_a_password_of_the_environment_is_preferred(tmp_path: Path) -> None:
    for line in ("", 'password = "other"\n', 'password_file = "nix"\n'):
        it = loaded(tmp_path, MQTT + line, ROUTESYNC_MQTT_PASSWORD=SECRET)
        assert password(it) == SECRET
        assert it.origins == {("mqtt", "password"): Origin("environment", "ROUTESYNC_MQTT_PASSWORD")}


def test_a_token_of_the_environment_goes_to_the_target_of_that_name(tmp_path: Path) -> None:
    other = TARGET.replace("lb-1.edge", "other").replace("192.0.2.1", "192.0.2.2")
    it = loaded(tmp_path, TARGET + other, ROUTESYNC_TARGET_LB_1_EDGE_TOKEN=SECRET)
    assert token(it) == SECRET
    assert it.settings.targets[1].token is None
    assert it.warnings == ()


def test_a_variable_that_nothing_asks_for_is_pointed_out(tmp_path: Path) -> None:
    it = loaded(
        tmp_path, TARGET, ROUTESYNC_TARGET_EDGE_TOKEN=SECRET, ROUTESYNC_MQTT_PASSWORD=SECRET, HOME="/"
    )
    assert it.warnings == (
        "environment variable ROUTESYNC_MQTT_PASSWORD: no setting uses it",
        "environment variable ROUTESYNC_TARGET_EDGE_TOKEN: no setting uses it",
    )


def test_a_variable_of_two_targets_is_an_error(complaints: Complaints) -> None:
    text = TARGET + TARGET.replace("lb-1.edge", "lb_1-edge").replace("192.0.2.1", "192.0.2.2")
    (line,) = complaints(text, ROUTESYNC_TARGET_LB_1_EDGE_TOKEN=SECRET)
    assert line.startswith(
        "4: [[targets]] #2 (lb_1-edge), key token: "
        "another target uses the environment variable ROUTESYNC_TARGET_LB_1_EDGE_TOKEN, too"
    )


def test_a_file_is_looked_for_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text(f"{SECRET}\n")
    it = loaded(tmp_path, MQTT + 'password_file = "pw"\n')
    assert password(it) == SECRET
    assert it.origins == {("mqtt", "password"): Origin("file", f"{tmp_path}/pw")}


def test_under_systemd_a_file_is_looked_for_among_the_credentials(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "token").write_text(SECRET)
    it = loaded(tmp_path, TARGET + 'token_file = "token"\n', CREDENTIALS_DIRECTORY=str(credentials))
    assert token(it) == SECRET


def test_what_is_no_credential_is_looked_for_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(SECRET)
    it = loaded(tmp_path, TARGET + 'token_file = "token"\n', CREDENTIALS_DIRECTORY="/nonexistent")
    assert token(it) == SECRET
    assert it.origins == {("targets", 0, "token"): Origin("file", f"{tmp_path}/token")}


def test_an_absolute_name_is_taken_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{SECRET}\r\n")
    it = loaded(tmp_path, TARGET + f'token_file = "{file}"\n', CREDENTIALS_DIRECTORY="/nonexistent")
    assert token(it) == SECRET


def test_a_missing_file_is_an_error(complaints: Complaints) -> None:
    (line,) = complaints(MQTT + 'password_file = "nix"\n', CREDENTIALS_DIRECTORY="/run/credentials/it")
    assert line == (
        "4: [mqtt], key password_file: cannot read '/run/credentials/it/nix': No such file or directory, "
        "nor is it beside the configuration; "
        "create it, readable for this user, or name the credential in systemd's LoadCredential="
        " and check with `routesync check --as-service`"
    )


def test_a_missing_file_of_tls_has_the_same_remedy(complaints: Complaints, tmp_path: Path) -> None:
    (line,) = complaints('[mqtt]\nhost = "b"\n[mqtt.tls]\nca_file = "ca.pem"\n')
    assert line.endswith(
        f"ca_file: cannot read '{tmp_path}/ca.pem': No such file or directory; "
        "create it, readable for this user, or name the credential in systemd's LoadCredential="
        " and check with `routesync check --as-service`"
    )


UNFIT = "cannot read '{}': not a regular file; put a regular file of at most 16 MiB in its place"


def test_a_pipe_or_device_in_place_of_a_secret_is_an_error_and_not_waited_for(
    complaints: Complaints, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for name in (pipe, Path("/dev/zero")):
        (line,) = complaints(f"{MQTT}password_file = '{name}'\n")
        assert line == f"4: [mqtt], key password_file: {UNFIT.format(name)}"
        (line,) = complaints(f"{TARGET}token_file = '{name}'\n")
        assert line == f"4: [[targets]] #1 (lb-1.edge), key token_file: {UNFIT.format(name)}"
        with pytest.raises(NotSent, match=f"token_file {name}: not a regular file"):
            FileToken(name)()


BOM = b"\xef\xbb\xbf"
NO_SECRETS = [
    (b"", "is empty"),
    (b"\n", "is empty"),
    (BOM + b"\n", "is empty"),
    (b"\xff", "is not UTF-8 text"),
    (b"pw\n\n", "has more than one line"),
    (b"user\r\npw", "has more than one line"),
    (b"pw ", "begins or ends with a blank"),
    (b"pw\t\n", "begins or ends with a blank"),
    (b" pw\n", "begins or ends with a blank"),
]
NO_TOKENS = [
    (content, "contains characters that an HTTP header cannot carry") for content in (b"p\x01", "pä".encode())
]


@pytest.mark.parametrize(("content", "message"), NO_SECRETS)
def test_a_file_without_a_password_is_an_error(
    complaints: Complaints, tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "pw").write_bytes(content)
    (line,) = complaints(MQTT + 'password_file = "pw"\n')
    assert line.startswith(f"4: [mqtt], key password_file: '{tmp_path}/pw': it {message}; ")


@pytest.mark.parametrize(("content", "message"), NO_SECRETS + NO_TOKENS)
def test_a_file_without_a_token_is_an_error_and_later_none_to_connect_with(
    complaints: Complaints, tmp_path: Path, content: bytes, message: str
) -> None:
    file = tmp_path / "it"
    file.write_bytes(content)
    (line,) = complaints(TARGET + 'token_file = "it"\n')
    assert line.startswith(f"4: [[targets]] #1 (lb-1.edge), key token_file: '{file}': it {message}; ")
    with pytest.raises(NotSent, match=f"token_file {file}: it {message}; "):
        FileToken(file)()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("pw\n", "has more than one line"),
        ("pw ", "begins or ends with a blank"),
        ("pä", "contains characters that an HTTP header cannot carry"),
    ],
)
def test_a_variable_without_a_token_is_an_error(complaints: Complaints, value: str, message: str) -> None:
    (line,) = complaints(TARGET, ROUTESYNC_TARGET_LB_1_EDGE_TOKEN=value)
    assert f"key token: the environment variable ROUTESYNC_TARGET_LB_1_EDGE_TOKEN {message}; " in line


@pytest.mark.parametrize(
    "content", [SECRET, f"{SECRET}\n", f"{SECRET}\r\n", f"\ufeff{SECRET}\n", f"\ufeff{SECRET}"]
)
def test_a_secret_is_the_one_line_of_its_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "it").write_bytes(content.encode())
    found = loaded(tmp_path, f'{MQTT}password_file = "it"\n{TARGET}token_file = "it"\n')
    assert (password(found), token(found)) == (SECRET, SECRET)
    assert FileToken(tmp_path / "it")() == SECRET


def test_blanks_inside_and_other_letters_are_part_of_a_password(tmp_path: Path) -> None:
    (tmp_path / "it").write_text("a b ä\n", encoding="utf-8")
    assert password(loaded(tmp_path, f'{MQTT}password_file = "it"\n')) == "a b ä"


def test_an_empty_variable_is_an_error(complaints: Complaints) -> None:
    (line,) = complaints(MQTT, ROUTESYNC_MQTT_PASSWORD="")
    assert line == (
        "1: [mqtt], key password: the environment variable ROUTESYNC_MQTT_PASSWORD is empty; set or unset it"
    )


def test_a_secret_and_a_file_with_one_are_one_too_many(complaints: Complaints) -> None:
    (line,) = complaints(TARGET + f'token = "{SECRET}"\ntoken_file = "it"\n')
    assert (
        line == "5: [[targets]] #1 (lb-1.edge), key token_file: token is given as well; leave one of them out"
    )


def test_a_token_that_no_header_can_carry_is_an_error(complaints: Complaints) -> None:
    (line,) = complaints(TARGET + f'token = "{SECRET}\\nHost: x"\n')
    assert line == (
        "4: [[targets]] #1 (lb-1.edge), key token: it contains characters that an HTTP header cannot carry; "
        "use printable ASCII"
    )


def test_mqtt_311_wants_a_user_with_a_password(complaints: Complaints) -> None:
    (line,) = complaints(f'[mqtt]\nhost = "broker"\nprotocol = "3.1.1"\npassword = "{SECRET}"\n')
    assert (
        line == "4: [mqtt], key password: MQTT 3.1.1 has no password without a user name; give username too"
    )


def test_secrets_are_in_no_representation(tmp_path: Path) -> None:
    it = loaded(tmp_path, MQTT + f'password = "{SECRET}"\n' + TARGET, ROUTESYNC_TARGET_LB_1_EDGE_TOKEN=SECRET)
    assert it.secrets == (SECRET, SECRET)
    for text in (
        repr(it),
        str(it),
        repr(it.settings),
        it.settings.model_dump_json(include={"mqtt", "targets"}),
    ):
        assert SECRET not in text


@pytest.mark.parametrize(
    "text",
    [
        MQTT + f'password = "{SECRET}\n',
        MQTT + f'pasword = "{SECRET}"\n',
        MQTT + f'password = ["{SECRET}"]\n',
        MQTT + f'password = "{SECRET}"\npassword = "{SECRET}"\n',
        MQTT + f'password = """\n{SECRET}\\z\n"""\n',
        MQTT + f"password = '''\n{SECRET}\n''' x\n",
        f'mqtt = {{ host = "broker", username = "{SECRET}" password = "{SECRET}" }}\n'.replace(
            f'"{SECRET}"', "1", 1
        )
        + TARGET,
        TARGET.replace("http://", f"http://me:{SECRET}@") + "x",
        TARGET.replace("http://", f"http://me:{SECRET}@"),
        TARGET + f'token = "{SECRET}\\u0007"\n',
    ],
)
def test_secrets_are_in_no_message(tmp_path: Path, text: str) -> None:
    file = tmp_path / "it.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file, {}, Names())
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value.problems)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


KEYS = ("password", "pwd", "psk", "api.key", "token", "'quoted'")
WRONG_VALUES = (
    SECRET,
    f'"{SECRET}',
    f"'{SECRET}",
    f'{SECRET}"',
    f'"{SECRET}" x',
    f'"{SECRET}\\z"',
    f'["{SECRET}", {SECRET}]',
    f"[\n{SECRET}==]",
    f"[\n[{SECRET}, 1]]",
    f"[\n{SECRET} = 1]",
    f'{{ password = "{SECRET}" pwd = 1 }}',
    f'{{ password = "{SECRET}",\n pwd = {SECRET} }}',
)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", WRONG_VALUES)
@pytest.mark.parametrize("sign", ["=", ":", ""])
def test_what_is_no_toml_is_shown_without_its_value(
    complaints: Complaints, key: str, value: str, sign: str
) -> None:
    (line,) = complaints(f"[mqtt]\n{key} {sign} {value}\n")
    assert SECRET not in line
    if sign == "=" and "\n" not in value and "'" not in key + value:
        assert line.endswith(f": {key} = …")


@pytest.mark.parametrize(
    "value",
    [
        f"me:{SECRET}@192.0.2.1:11111",
        f"me:{SECRET}@broker",
        f"mqtt://me:{SECRET}@broker",
        f"http://me:{SECRET}@192.0.2.1",
        f"http:/me:{SECRET}@192.0.2.1",
        f"http://me:1/{SECRET}@192.0.2.1",
        f"ftp://192.0.2.1?token={SECRET}",
        f"192.0.2.1?token={SECRET}",
        f"me@{SECRET}@b",
    ],
)
def test_credentials_in_a_value_of_any_key_are_in_no_message(tmp_path: Path, value: str) -> None:
    """Of each key that takes text: a URL belongs into few, and may be put into any."""
    said: list[str] = []
    for header, model in TABLES.items():
        for key in model.model_fields:
            file = tmp_path / "it.toml"
            file.write_text(f'{header}{key} = "{value}"\n')
            try:
                load(file, {}, Names())
            except ConfigError as error:
                said += str(error).split("\n")
    assert len(said) > 50
    files = [line for line in said if "cannot read" in line]  # the file's name is needed
    assert [line for line in said if SECRET in line and line not in files] == []


@pytest.mark.parametrize("value", [f"${{{SECRET}", f"${{{SECRET} x}}", f"a${{}}{SECRET}"])
def test_what_begins_like_a_variable_is_not_repeated(complaints: Complaints, value: str) -> None:
    for line in complaints(f'{MQTT}passwd = "{value}"\n'):
        assert SECRET not in line


def test_credentials_in_the_environment_are_in_no_message(complaints: Complaints) -> None:
    text = 'mode = "observe"\n[mqtt]\nhost = "${HOST}"\n' + TARGET.replace("http://192.0.2.1", "${HOST}")
    spoilt = f"me:{SECRET}@192.0.2.1"
    lines = complaints(text, HOST=spoilt)
    assert len(lines) == 2
    assert not any(SECRET in line for line in lines)


@pytest.mark.parametrize(("mode", "warned"), [(0o644, True), (0o640, False)])
def test_a_file_with_a_secret_that_all_may_read_is_pointed_out(
    tmp_path: Path, mode: int, *, warned: bool
) -> None:
    file = tmp_path / "it.toml"
    file.write_text(MQTT + f'password = "{SECRET}"\n')
    file.chmod(mode)
    assert any("every user" in line for line in load(file, {}, Names()).warnings) is warned
    file.write_text(MQTT)
    assert load(file, {}, Names()).warnings == ()
