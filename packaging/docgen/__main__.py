"""Write all generated files: `PYTHONPATH=packaging python -m docgen`."""

from docgen.files import ROOT, files

for name, content in files().items():
    file = ROOT / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content, encoding="utf-8")
