"""The index for programs that read documentation."""

from __future__ import annotations

import re

from pages import llms


def test_the_index_is_what_the_navigation_says() -> None:
    assert llms.TARGET.read_text(encoding="utf-8") == llms.render(), "run: python tests-integration/pages/llms.py"


def test_every_page_is_in_it_with_a_sentence() -> None:
    files = {str(path.relative_to(llms.DOCS)) for path in llms.DOCS.rglob("*.md") if "examples" not in path.parts}
    assert {file for _, _, file in llms.pages()} == files
    lines = re.findall(r"^- \[.+?\]\(.+?\): (.+)$", llms.render(), re.MULTILINE)
    assert len(lines) == len(files)
    assert all(len(line) > 10 for line in lines)
