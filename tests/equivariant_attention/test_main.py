"""The command line of the package."""

import pytest

from equivariant_attention import __main__
from equivariant_attention.contraction import cpp
from equivariant_attention.native import attention, compiler, linear, norm


def test_every_kernel_is_built(monkeypatch, capsys):
    built = []
    monkeypatch.setattr(compiler, "library", built.append)
    assert __main__.main(["build"]) == 0
    assert {*map(str, built)} == {*cpp.SOURCES.values(), attention.SOURCE, linear.SOURCE, norm.SOURCE}
    assert capsys.readouterr().out.startswith(f"{len(built)} C++ kernels are built")


def test_what_cannot_be_built_is_told(monkeypatch, capsys):
    monkeypatch.setenv(compiler.SWITCH, "0")
    compiler.library.cache_clear()
    assert __main__.main(["build"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count(f"error: {compiler.SWITCH}=0 forbids to build") == len(__main__.SOURCES)


def test_a_command_must_be_named():
    with pytest.raises(SystemExit) as ended:
        __main__.main([])
    assert ended.value.code == 2
