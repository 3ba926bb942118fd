"""Makes the references, schemas and interface descriptions in docs/ and config/ from the program's own models.

`make docs` runs it; tests hold the files to the models. The package is not shipped.
"""
