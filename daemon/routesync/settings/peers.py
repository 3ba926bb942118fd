"""Whom routesync talks to: the targets and the broker."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator

from routesync.settings.fields import (
    AllowDefault,
    Host,
    LeastLengths,
    Name,
    NetworkNamespace,
    NetworkText,
    NextHopText,
    OneOrMany,
    Topic,
    Url,
)
from routesync.settings.model import Model
from routesync.settings.notation import NotationError, read_rewrite

MQTT_PORT: Final = 1883
MQTT_TLS_PORT: Final = 8883
"""As registered with IANA (mqtt, secure-mqtt)."""


class TlsSettings(Model):
    """TLS towards a server. Relative file names are looked for in $CREDENTIALS_DIRECTORY, or beside this file."""

    ca_file: str | None = Field(
        default=None,
        description="Certificates that the server's is checked against (PEM); the system's by default.",
    )
    cert_file: str | None = Field(
        default=None, description="Our own certificate (PEM), where the server asks for one."
    )
    key_file: str | None = Field(
        default=None, description="The key to it (PEM, without a passphrase); without it, it is in cert_file."
    )
    server_name: Host | None = Field(
        default=None,
        description="The name that the server's certificate is to have; that of the host by default.",
    )

    @field_validator("key_file")
    @classmethod
    def _key_has_a_certificate(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("cert_file", "") is None:
            raise NotationError("a key without a certificate", "give cert_file too")
        return value


class WitnessSettings(Model):
    """The kernel beneath a loxilb, read directly: the best proof of what stands there."""

    netns: NetworkNamespace = Field(
        description="Network namespace of that loxilb on this host: a name below /run/netns or a path. Entering it "
        "needs CAP_SYS_ADMIN; while it cannot be read, loxilb's own table serves."
    )


class TargetSettings(Model):
    """One loxilb to mirror into."""

    name: Name = Field(description="Names the target in topics, events, metrics and commands; unique.")
    url: Url = Field(
        description="Base of its REST API, e.g. http://192.168.10.20:11111 or http://[fe80::1%25eth0]:11111"
    )
    token: SecretStr | None = Field(
        default=None,
        min_length=1,
        description="What --manualtoken of loxilb wants. Better by file, or by the environment: "
        "ROUTESYNC_TARGET_<NAME>_TOKEN.",
    )
    token_file: str | None = Field(
        default=None,
        description="File with the token; a relative name is looked for in $CREDENTIALS_DIRECTORY.",
    )
    tls: TlsSettings | None = Field(default=None, description="TLS, for an https URL.")
    allow_default: AllowDefault = Field(
        default=False,
        description="Whether default routes may be mirrored into it. true: where it has none. override: an IPv4 "
        "default also beside one of another metric, which it then beats: perhaps its way to its own API clients.",
    )
    min_prefix_length: LeastLengths = Field(
        default=(8, 16),
        description="Shorter prefixes, IPv4 and IPv6, are nearly a default route, and are not mirrored into it; "
        "240.0.0.0/4 and fc00::/7 are excepted.",
    )
    return_path_ok: tuple[NetworkText, ...] = Field(
        default=(),
        strict=False,
        description="Prefixes that contain the address that we speak to it from, and may be mirrored all the same: its "
        "answers reach us by their next hops.",
    )
    force_connected: bool = Field(
        default=False,
        description="Whether prefixes inside networks that it is connected to may be mirrored into it.",
    )
    next_hop: OneOrMany[NextHopText] | None = Field(
        default=None,
        description="Gateway to send instead of the kernel's, where no rule has one: one address, one of each family, "
        'or "self", our own address on the interface that reaches the target.',
    )
    rate: float = Field(default=240, gt=0, le=100_000, description="Changes per second; loxilb ingests 256.")
    burst: int = Field(
        default=64, ge=1, le=10_000, description="Changes that may go at once after a quiet time."
    )
    writers: int = Field(
        default=1,
        ge=1,
        le=10_000,
        description="How many daemons write to this loxilb; the rate is divided by it.",
    )
    connect_timeout_s: float = Field(
        default=3, gt=0, le=60, description="How long connecting may take, in seconds."
    )
    request_timeout_s: float = Field(
        default=10, gt=0, le=300, description="How long one request may take, in seconds."
    )
    witness: WitnessSettings | None = Field(
        default=None, description="Where loxilb's namespace is on this host: read its kernel directly."
    )
    canary_interval_s: float = Field(
        default=5,
        ge=0.1,
        le=3600,
        description="One route of ours is posted again this often, in seconds, as a probe: has its kernel lost it?",
    )
    sweep_interval_s: float = Field(
        default=3600,
        ge=60,
        le=7 * 86400,
        description="All routes of ours are verified this often, in seconds, by posting them again; at once when one "
        "was lost.",
    )
    withdraw_delay_s: float = Field(
        default=0,
        ge=0,
        le=600,
        description="A route that is gone stays this long, in seconds: longer than a link's flap, and nothing happens.",
    )
    max_routes_ipv4: int = Field(
        default=30_000,
        ge=0,
        le=1_000_000,
        description="How many IPv4 routes it shall have of us; its eBPF table ends at 32,768, its own among them.",
    )
    max_routes_ipv6: int = Field(
        default=8_000, ge=0, le=1_000_000, description="How many IPv6 routes it shall have of us."
    )
    brake_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="More withdrawals at once than this share of our routes there wait for a second dump of the "
        "kernel.",
    )
    brake_minimum: int = Field(
        default=50, ge=1, le=1_000_000, description="Fewer withdrawals than this never wait for it."
    )
    startup_hold_s: float = Field(
        default=60,
        ge=0,
        le=3600,
        description="After the start, routes of ours that the kernel does not have are left this long, in seconds: the "
        "routing daemon may still be coming up.",
    )
    inventory_interval_s: float = Field(
        default=600,
        ge=10,
        le=7 * 86400,
        description="How often its table is read when nothing calls for it, in seconds.",
    )

    @field_validator("token")
    @classmethod
    def _token_fits_a_header(cls, value: SecretStr | None) -> SecretStr | None:
        text = value.get_secret_value() if value is not None else ""
        if not (text.isascii() and text.isprintable()):
            raise NotationError(
                "there are characters in it that no HTTP header can carry", "use printable ASCII"
            )
        return value

    @field_validator("next_hop")
    @classmethod
    def _one_next_hop_a_family(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None:
            read_rewrite(value)
        return value

    @field_validator("tls")
    @classmethod
    def _tls_is_for_https(cls, value: TlsSettings | None, info: ValidationInfo) -> TlsSettings | None:
        if value is not None and str(info.data.get("url", "")).startswith("http:"):
            raise NotationError(
                "TLS settings for an http URL", "write https in the URL (loxilb's own port for it is 8091)"
            )
        return value


class MqttSettings(Model):
    """The broker that events go to."""

    host: Host = Field(description="Name or address of the broker.")
    port: int = Field(
        default=MQTT_PORT,
        ge=1,
        le=65535,
        description="TCP port; 8883 by default where the table tls is given.",
    )
    root: Topic = Field(default="routesync/v1", description="Root of all topics, above the node's name.")
    protocol: Literal["5.0", "3.1.1"] = Field(default="5.0", description="Version of MQTT.")
    client_id: Annotated[str, Field(min_length=1, max_length=256)] | None = Field(
        default=None, description="routesync-<node> by default; must be stable and unique at the broker."
    )
    username: str | None = Field(default=None, description="Name to log in by.")
    password: SecretStr | None = Field(
        default=None, description="Better by file, or by the environment: ROUTESYNC_MQTT_PASSWORD."
    )
    password_file: str | None = Field(
        default=None,
        description="File with the password; a relative name is looked for in $CREDENTIALS_DIRECTORY.",
    )
    tls: TlsSettings | None = Field(
        default=None, description="TLS; an empty table trusts the system's certificates."
    )
    keepalive_s: int = Field(
        default=30, ge=5, le=65535, description="Interval of pings that keep the session alive, in seconds."
    )
    timeout_s: float = Field(
        default=10, gt=0, le=120, description="How long one operation may take, in seconds."
    )
    will_delay_s: int = Field(
        default=5,
        ge=0,
        le=3600,
        description="How long we may be gone before the broker says that we are offline, in seconds; MQTT 5 only.",
    )
    event_expiry_s: int = Field(
        default=86400,
        ge=1,
        le=2**32 - 1,
        description="How long the broker keeps an event for a subscriber that is away, in seconds; MQTT 5 only.",
    )

    @field_validator("password")
    @classmethod
    def _password_has_a_user(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        # MQTT 3.1.1, section 3.1.2.9: without the user name flag the password flag must be 0.
        if (
            value is not None
            and info.data.get("protocol") == "3.1.1"
            and info.data.get("username", "") is None
        ):
            raise NotationError("MQTT 3.1.1 has no password without a user name", "give username too")
        return value

    @model_validator(mode="before")
    @classmethod
    def _tls_has_its_own_port(cls, value: object) -> object:
        if isinstance(value, dict) and "tls" in value and "port" not in value:
            return value | {"port": MQTT_TLS_PORT}
        return value
