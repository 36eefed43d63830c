"""The Python blocks of README and docs run as they stand, those of one page one after the other."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = {
    page.name: re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}


@pytest.mark.parametrize("page", [name for name, blocks in PAGES.items() if blocks])
def test_page(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # for what they write
    namespace: dict[str, object] = {"__name__": "documentation"}
    for block in PAGES[page]:
        exec(compile(block, page, "exec"), namespace)
