"""The notebooks run, and hold what they claim: their last cells assert it.

They run shortened (``FUNCEBM_SMOKE=1``); ``FUNCEBM_SMOKE=0 pytest tests/test_notebooks.py`` runs them in full.
"""

import os
import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
pytest.importorskip("matplotlib")

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


SLOW = (
    "01",
    "02",
    "03",
    "04",
    "05",
    "06",
    "07",
    "08",
    "09",
    "10",
    "12",
    "13",
)  # what takes longest; FUNCEBM_SLOW=1 runs them too


def _marked(path):
    return pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.stem[:2] in SLOW else [])


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::RuntimeWarning")
@pytest.mark.compiled  # eager chains take too long here
@pytest.mark.parametrize("path", [_marked(path) for path in NOTEBOOKS])
def test_runs(path, monkeypatch, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    monkeypatch.setenv("FUNCEBM_SMOKE", os.environ.get("FUNCEBM_SMOKE", "1"))
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    last = "".join(
        output.get("text", "") for output in notebook.cells[-1].outputs
    )  # one print may come in two messages
    assert last.endswith("all checks passed\n")


def test_is_committed_with_its_outputs(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = [output for cell in code for output in cell.outputs]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))  # run from the top, once
    assert not any(output.output_type == "error" or output.get("name") == "stderr" for output in outputs)
    assert any({"image/png", "image/svg+xml"} & set(output.get("data", {})) for output in outputs)
    text = "".join(output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in outputs)
    assert not re.search(r"/(home|root|tmp|work|Users)/|[A-Z]:\\", text)  # no paths of a machine
