"""The loxilb side: its REST API, its JSON and its errors."""
