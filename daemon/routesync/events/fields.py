"""The types of event fields, with the meaning and the example that schemas and documentation show."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

Target = Annotated[
    str, Field(description="Name of the target (a loxilb) in the configuration.", examples=["lb-1"])
]
PrefixText = Annotated[
    str, Field(description="Destination in CIDR form, without host bits.", examples=["10.244.1.0/24"])
]
FamilyLabel = Annotated[
    Literal["ipv4", "ipv6"], Field(description="Address family of the prefix.", examples=["ipv4"])
]
Gateway = Annotated[
    str | None,
    Field(
        description="Next hop as told to the target; null where there is none.", examples=["192.168.10.10"]
    ),
]
Rule = Annotated[
    str,
    Field(
        description="The rule that decided; `default` where no rule matched.", examples=["dhcp-host-routes"]
    ),
]
Detail = Annotated[str, Field(description="For people; its wording may change.", examples=["no such device"])]
Reason = Annotated[
    str, Field(description="Stable reason code, for machines.", examples=["contains-next-hop"])
]
Count = Annotated[int, Field(ge=0, examples=[4])]
Milliseconds = Annotated[float, Field(ge=0, description="In milliseconds.", examples=[12.5])]
Seconds = Annotated[float, Field(ge=0, description="In seconds.", examples=[2.5])]
Path = Annotated[str, Field(description="File on the node.", examples=["/etc/routesync/routesync.toml"])]
