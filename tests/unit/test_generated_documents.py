"""What `make docs` writes is current, and no file is left of what is gone."""

from __future__ import annotations

from docgen.files import ROOT, files


def test_generated_documents_are_current() -> None:
    stale = [name for name, text in files().items() if (ROOT / name).read_text(encoding="utf-8") != text]
    assert stale == [], "run: make docs"


def test_no_schema_is_left_of_a_type_that_is_gone() -> None:
    schemas = (ROOT / "docs/events/schemas").iterdir()
    assert {str(file.relative_to(ROOT)) for file in schemas} <= set(files())
