"""`python -m routesync` is `routesync`."""

from routesync.cli import main

if __name__ == "__main__":
    main()
