"""Pages of the site that are made when it is built: tutorials from scripts, links to files that are no pages."""

from __future__ import annotations

import runpy
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("mkdocs")
DOCS = Path(__file__).parent.parent / "docs"
SCRIPT = """# %% [markdown]
# # A title
#
# A text.

# %%
import matplotlib.pyplot as plt

plt.plot([0, 1])
value = 1

# %%
print(value)
"""
PAGE = """# A title

A text.

```python
import matplotlib.pyplot as plt

plt.plot([0, 1])
value = 1
```

![Figure 1](some-1.svg)

```python
print(value)
```

```text
1
```
"""


@pytest.fixture(scope="module")
def run_script() -> Any:
    return runpy.run_path(str(DOCS / "notebooks.py"))["run_script"]


def test_a_script_becomes_a_page_with_what_it_prints_and_draws(run_script: Any) -> None:
    page, pictures = run_script(Path("some.py"), SCRIPT)
    assert page.startswith(PAGE)
    assert page.endswith("[This page is a script](some.py), which was run when the site was built.")
    assert list(pictures) == ["some-1.svg"]
    assert b"</svg>" in pictures["some-1.svg"]


@pytest.mark.parametrize("statement", ["1 / 0", "import warnings; warnings.warn('odd')"])
def test_an_error_in_a_script_names_its_line(run_script: Any, statement: str) -> None:
    with pytest.raises((ZeroDivisionError, UserWarning)) as caught:
        run_script(Path("some.py"), f"# %%\n1\n\n# %%\n2\n{statement}\n")
    assert [frame.lineno for frame in traceback.extract_tb(caught.tb) if frame.filename == "some.py"] == [6]


def test_links_to_scripts_lead_to_their_pages() -> None:
    on_page_markdown = runpy.run_path(str(DOCS / "notebooks.py"))["on_page_markdown"]
    text = "[one](tutorials/one.py), `tutorials/two.py`, [three](three.py)"
    assert on_page_markdown(text, page=None) == "[one](tutorials/one.md), `tutorials/two.py`, [three](three.py)"


@pytest.mark.parametrize(
    ("source", "link", "kept"),
    [
        ("page.md", "../examples/one.py", False),
        ("results/page.md", "../../benchmarks/one.py", False),
        ("results/page.md", "../glossary.md#words", True),
        ("page.md", "glossary.md", True),
    ],
)
def test_links_to_files_that_are_no_pages_become_text(source: str, link: str, kept: bool) -> None:
    on_page_markdown = runpy.run_path(str(DOCS / "pages.py"))["on_page_markdown"]
    page = SimpleNamespace(file=SimpleNamespace(src_uri=source))
    assert on_page_markdown(f"a [text]({link}).", page, None, None) == (f"a [text]({link})." if kept else "a text.")
