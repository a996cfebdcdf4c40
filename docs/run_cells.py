"""Runs a script in cells: python run_cells.py SCRIPT FOLDER; what each cell prints and draws is in the folder."""

import io
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import matplotlib.pyplot as plt
from scripts_as_pages import cells_of

script, folder = map(Path, sys.argv[1:])
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
