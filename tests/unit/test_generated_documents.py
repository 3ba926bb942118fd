"""What `make docs` writes is current, and no file is left of what is gone."""

from __future__ import annotations

import pytest

from docgen.files import ROOT, files

FILES = files()


@pytest.mark.parametrize("name", FILES)
def test_a_generated_document_is_current(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == FILES[name], "run: make docs"


def test_no_schema_is_left_of_a_type_that_is_gone() -> None:
    schemas = (ROOT / "docs/events/schemas").iterdir()
    assert {str(file.relative_to(ROOT)) for file in schemas} <= set(FILES)
