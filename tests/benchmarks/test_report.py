import json
from itertools import chain

import pytest

from benchmarks.figures import derive
from benchmarks.report import MARK, main
from benchmarks.workloads import BASIS, WORKLOADS
from tests.benchmarks.cases import failed, row, tables
from utils.cli import UsageError

ROWS = {
    "nbody": [row("nbody", "128 systems")],
    "scale": [
        row("scale", "10k edges", edges=10_000),
        row("scale", "1M edges", 110.0, above=90_000, edges=1_000_000),
        failed("scale", "100k edges", edges=100_000),
    ],
    "degree": [row("degree", f"degree {l}", l**2, max_degree=l) for l in range(1, 7)],
    "basis": [row("basis", "qm9-dense", 0.015, mode=BASIS), row("basis", "qm9-dense")],
}


@pytest.fixture
def result_of(session, tmp_path):
    """Makes the file of a session whose rows are made up."""
    session_content, _ = session("nbody")

    def make(name, rows):
        derive(rows, session_content["flops_per_second"], on_cpu=True)
        path = tmp_path / name
        path.write_text(json.dumps(session_content | {"rows": rows}))
        return path

    return make


@pytest.fixture
def write(tmp_path):
    """Writes the page of some results; gives its path and its sections by their titles."""

    def run(*paths):
        page = tmp_path / "speed.md"
        main([*map(str, paths), "--page", str(page)])
        title, *sections = page.read_text().split("\n## ")
        return page, {"": title} | {section.partition("\n")[0]: section for section in sections}

    return run


def lines(section):
    """Of its first table."""
    return next(tables(section))


def test_every_workload_has_a_section_with_its_picture(result_of, write):
    path = result_of("result.json", [*chain(*ROWS.values())])
    page, sections = write(path)
    assert list(sections) == ["", "Goals", "Beside NVIDIA's package", *(name for name in WORKLOADS if name in ROWS)]
    assert f"\n    python -m benchmarks.report \\\n        {path}" in sections[""]
    assert "| degree 6 | forward+backward | default | 36 s " in sections["degree"]
    assert "| out of memory |" in sections["scale"]
    assert "time 1.10, memory 0.90" in sections["scale"]
    assert "1.5%" in sections["basis"]
    assert all(section.count("Measured on ") == 1 for name, section in sections.items() if name in ROWS)
    assert all(WORKLOADS[name].about in sections[name] for name in ROWS)
    pictures = {"scale": "scale", "degree": "degree", "Goals": "goals"}
    for title, section in sections.items():
        expected = [f"(speed_{pictures[title]}.png)"] if title in pictures else []
        assert [name for name in expected if name in section] == expected
        assert section.count(".png") == len(expected)
    assert all(page.with_name(f"speed_{name}.png").is_file() for name in pictures.values())


def test_written_again_the_page_is_the_same(result_of, write):
    path = result_of("result.json", ROWS["nbody"])
    page, _ = write(path)
    before = page.read_bytes()
    write(path)
    assert page.read_bytes() == before


def test_goals_of_all_results_are_judged(result_of, write):
    slow = result_of("slow.json", [row("nbody", "128 systems", 1e6), failed("qm9-dense", "32 molecules")])
    quick = result_of("quick.json", [row("nbody", "128 systems", 1e-6, above=2e8), row("cloud", "1,024 points")])
    _, sections = write(slow, quick)
    late, lacking, soon = lines(sections["Goals"])
    assert "missed by" in late["goal here"]
    assert late["its goal"] == "100 MB: reached"
    assert lacking["time"] == "out of memory"
    assert soon["goal here"].endswith(": reached")
    assert soon["its goal"] == "100 MB: **missed by 100.0%**"


def test_what_is_compared_to_nvidias_package_is_scaled_to_the_machine(result_of, write):
    path = result_of("result.json", [row("nbody", "128 systems", 0.01), row("protein", "256 residues", 9.0)])
    rate = json.loads(path.read_text())["flops_per_second"]
    _, sections = write(path)
    quick, slow = lines(sections["Beside NVIDIA's package"])
    ratio = 0.179 * 240e9 / rate / 0.01
    assert float(quick["times as fast"]) == pytest.approx(ratio, rel=0.01)
    assert quick["to be"] == ("5: reached" if ratio >= 5 else "5: **missed**")
    assert slow["to be"] == "10: **missed**"


def test_what_was_counted_is_beside_what_is_predicted_of_it(result_of, tmp_path):
    counts, page = tmp_path / "launches.json", tmp_path / "speed.md"
    counts.write_text(json.dumps({"a case": {part: {"launches": 1234, "gigabytes": 1.02} for part in ("one", "two")}}))
    main([str(result_of("result.json", ROWS["nbody"])), "--launches", str(counts), "--page", str(page)])
    head, section = page.read_text().split("\n## On a GPU: counted and predicted")
    assert f"--launches {counts}" in head
    (line,) = lines(section)
    assert [*line.values()] == ["a case", "1,234", "1,234", "1.02", "1.02", "1 ms or more", "609 µs or more"]


def test_slots_that_were_counted_have_a_section(result_of, tmp_path):
    counts, page = tmp_path / "slots.json", tmp_path / "speed.md"
    counts.write_text(json.dumps({"all": {"launches": 31, "slots": 1.2731, "tensor_cores": 0.715, "spilled": 0}}))
    main([str(result_of("result.json", ROWS["nbody"])), "--slots", str(counts), "--page", str(page)])
    head, section = page.read_text().split("\n## On a GPU: issue slots, counted")
    assert f"--slots {counts}" in head
    assert [*lines(section)[0].values()] == ["all", "31", "1.273 ms", "0.715 ms", "0 bytes"]


@pytest.mark.parametrize("flag", ["--launches", "--slots"])
@pytest.mark.parametrize("content", ["[]", "{}", '{"a case": {"one": {"launches": 1}}}', '{"all": 1}', "not JSON"])
def test_other_counts_are_refused(result_of, tmp_path, flag, content):
    (tmp_path / "counts.json").write_text(content)
    with pytest.raises(UsageError, match=f"^{flag}: "):
        main([str(result_of("result.json", ROWS["nbody"])), flag, str(tmp_path / "counts.json")])


def test_results_of_several_backends_compare_these(result_of, write):
    others = [row("nbody", "128 systems", s, b) for b, s in (("default", 3.0), ("edge", 2.0), ("node", 4.0))]
    with_oracle = [row("nbody", "128 systems", 0.5), row("nbody", "128 systems", 20.0, "oracle", above=70_000)]
    _, sections = write(result_of("others.json", others), result_of("oracle.json", with_oracle))
    assert list(sections) == ["", "Backends", "Against the oracle"]
    (line,) = lines(sections["Backends"])
    assert list(line.values())[2:] == ["3 s, 1 kB", "2 s, 1 kB", "4 s, 1 kB", "1.50"]
    (line,) = lines(sections["Against the oracle"])
    assert list(line.values())[4:] == ["500 ms", "20 s", "40", "1 kB", "70 kB", "70"]


def test_the_oracle_alone_is_a_result_as_any_other(result_of, write):
    _, sections = write(result_of("oracle.json", [row("nbody", "128 systems", backend="oracle")]))
    assert [line["backend"] for line in lines(sections["nbody"])] == ["oracle"]


def test_of_several_results_the_last_counts(result_of, write):
    older = result_of("older.json", [*ROWS["nbody"], *ROWS["degree"]])
    newer = result_of("newer.json", [row("nbody", "128 systems", 7.0)])
    _, sections = write(older, newer)
    assert [line["median"] for line in lines(sections["nbody"])] == ["7 s"]
    assert len(lines(sections["degree"])) == 6


@pytest.mark.parametrize("content", ["[]", "{}", json.dumps({"rows": [row("nbody", "128 systems")]}), "not JSON"])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=r"RESULT.json: "):
        main([str(path)])


def test_results_without_rows_are_refused(result_of):
    with pytest.raises(UsageError, match=r"RESULT.json: expected what python -m benchmarks writes, got .*none.json"):
        main([str(result_of("none.json", []))])


def test_workloads_that_are_no_more_are_refused(result_of, tmp_path):
    path = result_of("old.json", [row("nbody", "128 systems")])
    path.write_text(path.read_text().replace('"nbody"', '"water"'))
    with pytest.raises(UsageError, match=r"RESULT.json: expected workloads of qm9-bonded, .*; got water in .*old.json"):
        main([str(path), "--page", str(tmp_path / "speed.md")])


def test_another_page_is_not_overwritten(result_of, tmp_path):
    page = tmp_path / "speed.md"
    page.write_text("# Mine\n")
    with pytest.raises(UsageError, match="--page: expected a page that this program has written, or none, got"):
        main([str(result_of("result.json", ROWS["degree"])), "--page", str(page)])
    assert page.read_text() == "# Mine\n"
    assert not page.with_name("speed_degree.png").exists()
    page.write_text(f"# Old\n{MARK}\n")
    main([str(result_of("result.json", ROWS["degree"])), "--page", str(page)])
    assert "# Old" not in page.read_text()


def test_a_page_where_there_can_be_none_is_an_error(result_of):
    path = result_of("result.json", ROWS["nbody"])
    with pytest.raises(UsageError, match=r"--page: .*result.json"):
        main([str(path), "--page", str(path / "speed.md")])
