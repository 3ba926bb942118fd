"""Manual pages and shell completion, made from the commands and the models themselves.

`python -m routesync.cli.manual DIRECTORY` writes them; `make manual` and the Debian package do.
"""
