"""The founding story, played with real parts in network namespaces: `make demo`."""
