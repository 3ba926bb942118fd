"""The control API of a running daemon: HTTP over a Unix socket, and its client.

calls, models, openapi   the table of calls, what goes in and comes out, and the OpenAPI document made from both
reads, explain, views    calls that only read
api                      calls that change something, permissions, errors
events                   the event stream and its reader
requests, server, paths  requests and responses, the sockets, and where they are
context                  what of the daemon the calls use
client                   the client that the commands use

Whoever can open the socket may read. Only root and the daemon's own user may change anything. No client, however slow,
many or wrong, blocks the daemon: long answers are made in slices, and every wait has a limit.
"""
