from benchmarks import first_basis


def test_the_times_are_printed(monkeypatch, capsys):
    monkeypatch.setattr(first_basis, "PROCESSES", 1)
    first_basis.main()
    assert capsys.readouterr().out.startswith("first basis of degree 3: median ")
