"""The loxilb side: its REST API, its wire forms and its errors."""
