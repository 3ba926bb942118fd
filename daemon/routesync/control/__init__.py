"""How a running daemon is asked and told: HTTP over a Unix socket, and the client of it.

calls, models, routes   what there is to call, what goes in and comes out; the OpenAPI document is made from them
present, explain        the daemon's values in these words
api, stream, peers      the calls carried out, and for whom
place, listeners, server the sockets, and where they are
client, follow          the other side

The contract: whoever can open the socket may read; what changes something is for root and for the daemon's own user.
No caller, however slow, many or wrong, holds the daemon up: answers are made in slices, waiting is bounded and ends.
"""
