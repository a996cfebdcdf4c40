"""No file is ever left half-written: all are written by atomic_write of equivariant_attention.files."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [path for folder in ("benchmarks", "equivariant_attention", "experiments", "utils")
           for path in (ROOT / folder).rglob("*.py")]  # fmt: skip
# Who may open a file to write it: atomic_write itself; locks; a download, whose part is gone on with; the system's
# own files; a log.
OPENERS = {"equivariant_attention/files.py", "utils/files.py", "utils/downloads.py", "benchmarks/memory.py",
           "experiments/qm9/learning_curves.py"}  # fmt: skip
# What atomic_write gives, or memory, is called so. The profiler writes to a temporary folder, TensorBoard appends
# records with checksums of their own.
TARGETS = {"file", "buffer"}
SAVERS = {"savefig": 0, "save": 0, "savez": 0, "savez_compressed": 0, "savetxt": 0, "dump": 1, "to_csv": 0}


def writes(path):
    """Of a source, the calls that write files, each with whether it may."""
    name = path.relative_to(ROOT).as_posix()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        place = f"{name}:{node.lineno}: {function}"
        if function == "open":
            mode = [*node.args[isinstance(node.func, ast.Name) :], *(k.value for k in node.keywords if k.arg == "mode")]
            if isinstance(node.func, ast.Attribute):  # of a path, of an archive: with a mode, or the name of an entry
                mode = [m for m in mode if isinstance(m, ast.Constant)]
            reads = all(isinstance(m, ast.Constant) and {*str(m.value)} <= {*"rbt"} for m in mode)
            yield place, reads or name in OPENERS
        elif function in ("write_text", "write_bytes", "urlretrieve", "copyfile", "copytree", "imsave"):
            yield place, name in OPENERS
        elif function in SAVERS and len(node.args) > SAVERS[function]:
            module = getattr(getattr(node.func, "value", None), "id", "")
            target = node.args[1] if module in ("torch", "pickle", "json") else node.args[0]
            # Methods of our own that take a path: they are themselves looked at.
            ours = function == "save" and module in ("checkpoints", "table")
            yield place, ours or (isinstance(target, ast.Name) and target.id in TARGETS)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_all_writing_is_atomic(path):
    assert [place for place, allowed in writes(path) if not allowed] == []


def test_writing_that_is_not_atomic_would_be_found(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    bad = ["open(path, 'w')", "path.open('ab')", "path.write_text('x')", "figure.savefig(path)", "np.savez(path, x=1)",
           "torch.save(x, path)", "pickle.dump(x, open(path, mode))", "open(path, mode='w')"]  # fmt: skip
    for line in bad:
        (tmp_path / "module.py").write_text(line)
        assert not all(allowed for _, allowed in writes(tmp_path / "module.py")), line


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")
def test_killed_at_any_moment_every_file_is_whole(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.writers", str(tmp_path / "files"), "6"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
