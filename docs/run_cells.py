"""Runs scripts in cells: python run_cells.py FOLDER SCRIPT ...; what each cell prints and draws is in FOLDER/NAME.

Each runs in a process of its own, which begins as a copy of this one: what they all import is imported once.
"""

import io
import json
import sys
from contextlib import redirect_stdout
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import matplotlib.pyplot as plt
import torch._dynamo  # noqa: F401, PyTorch with what its optimisers ask for
from scripts_as_pages import cells_of


def run(script: Path, folder: Path) -> None:
    """Run a script; ``outputs.json`` tells what its cells printed, and which pictures of the folder they drew."""
    folder.mkdir(parents=True, exist_ok=True)
    names, outputs = {"__name__": "__main__", "__file__": str(script)}, []
    for number, (_, code) in enumerate(cells_of(script.read_text())):
        printed = io.StringIO()
        with redirect_stdout(printed):
            exec(compile(code, f"{script}, cell {number}", "exec"), names)
        pictures = []
        for figure in map(plt.figure, plt.get_fignums()):
            pictures.append(f"{number}-{len(pictures)}.png")
            figure.savefig(folder / pictures[-1], dpi=110)
        plt.close("all")
        outputs.append({"printed": printed.getvalue(), "pictures": pictures})
    (folder / "outputs.json").write_text(json.dumps(outputs))


if __name__ == "__main__":
    folder, *scripts = map(Path, sys.argv[1:])
    for script in scripts:
        process = get_context("fork").Process(target=run, args=(script, folder / script.stem))
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(f"{script} fails")
