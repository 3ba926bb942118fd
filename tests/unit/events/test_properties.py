"""Packed properties, against paho's own."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from routesync.events.properties import (
    PAYLOAD_IS_TEXT,
    PackedProperties,
    content_type,
    expiry,
    user_properties,
)

WORDS = st.text(
    st.characters(codec="utf-8", exclude_characters="\0\ufeff", exclude_categories=["Cs", "Cn"]), max_size=300
)


@given(WORDS, st.integers(0, 2**32 - 1), st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=5))
def test_paho_reads_back_what_was_packed(kind: str, seconds: int, user: list[tuple[str, str]]) -> None:
    packed = PackedProperties(
        PAYLOAD_IS_TEXT + content_type(kind) + expiry(seconds) + user_properties(user)
    ).pack()
    read = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    _, length = read.unpack(packed)  # type: ignore[no-untyped-call]
    assert length == len(packed)
    expected = {
        "PayloadFormatIndicator": 1,
        "ContentType": kind,
        "MessageExpiryInterval": seconds,
        "UserProperty": user,
    }
    assert vars(read) | expected == vars(read)
