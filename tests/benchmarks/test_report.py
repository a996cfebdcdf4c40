import json
from itertools import chain

import pytest

from benchmarks.figures import derive
from benchmarks.report import fill, main
from benchmarks.workloads import BASIS, TRAINING
from tests.benchmarks.cases import failed, row
from utils.cli import UsageError

ROWS = {
    "nbody": [row("nbody", "128 systems"), row("nbody", "128 systems", 5.0, "frame")],
    "scale": [
        row("scale", "10k edges", edges=10_000),
        row("scale", "10k edges", 9.0, "frame", edges=10_000),
        row("scale", "1M edges", 110.0, above=90_000, edges=1_000_000),
        failed("scale", "1M edges", backend="frame", edges=1_000_000),
    ],
    "degree": [row("degree", f"degree {l}", l**2, max_degree=l) for l in range(1, 7)],
    "basis": [row("basis", "qm9-dense", 0.015, mode=BASIS), row("basis", "qm9-dense")],
}
BLOCKS = list(ROWS)


def page_with(blocks):
    return "# Speed\n" + "\n".join(f"before {b}\n<!-- {b} -->\nold\n<!-- end {b} -->\nafter {b}" for b in blocks)


@pytest.fixture
def result(session):
    """The file of a session on nbody, with made-up rows instead of its own."""
    content, path = session("nbody")
    for rows in ROWS.values():
        derive(rows, content["flops_per_second"], on_cpu=True)
    path.write_text(json.dumps(content | {"rows": [*chain(*ROWS.values())]}))
    return path


def test_tables_and_plots(result, tmp_path):
    page = tmp_path / "speed.md"
    page.write_text(page_with(BLOCKS))
    written = main([str(result), "--page", str(page)])
    assert [path.name for path in written] == ["speed.md", "speed_scale.png", "speed_degree.png", "speed_goals.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written[1:])
    text = page.read_text()
    assert "old" not in text
    assert text.count("# Speed") == 1
    assert all(text.count(f"{where} {block}\n") == 1 for block in BLOCKS[:-1] for where in ("before", "after"))
    assert "| degree 6 | forward+backward | default |" in text
    assert "| out of memory |" in text
    assert "time 1.10, memory 0.90" in text
    assert "1.5%" in text
    assert text.count("Measured on ") == len(BLOCKS)
    main([str(result), "--page", str(page)])
    assert page.read_text() == text


def test_a_result_with_the_oracle_gives_ratios_alone(result, tmp_path):
    page, other = tmp_path / "speed.md", tmp_path / "oracle.json"
    page.write_text(page_with([*BLOCKS, "oracle"]))
    rows = [
        row("nbody", "128 systems", 0.5),
        row("nbody", "128 systems", 20.0, "oracle", above=70_000),
        row("scale", "10k edges"),
        failed("scale", "10k edges", backend="oracle"),
    ]
    other.write_text(json.dumps(json.loads(result.read_text()) | {"rows": rows}))
    main([str(result), str(other), "--page", str(page)])
    text = page.read_text()
    expected = [
        ["nbody", "128 systems", TRAINING, "default", "500 ms", "20 s", "40", "1 kB", "70 kB", "70"],
        ["scale", "10k edges", TRAINING, "default", "1 s", "out of memory", "", "1 kB", "out of memory", ""],
    ]
    block = text.partition("<!-- oracle -->")[2].partition("Measured on")[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.strip().splitlines()]
    assert lines[2:] == expected
    assert "× time of the first" in text.partition("<!-- nbody -->")[2].partition("<!-- end nbody -->")[0]
    main([str(other), str(result), "--page", str(page)])
    assert page.read_text() == text


def test_the_oracle_alone_is_a_result_as_any_other(session, tmp_path):
    page = tmp_path / "speed.md"
    page.write_text(page_with(["nbody"]))
    _, path = session("nbody", "--backend", "oracle")
    main([str(path), "--page", str(page)])
    assert "| oracle " in page.read_text()


def test_of_several_results_the_last_counts(result, tmp_path):
    page, newer = tmp_path / "speed.md", tmp_path / "newer.json"
    page.write_text(page_with(BLOCKS))
    rows = [row("nbody", "128 systems", 7.0)]
    derive(rows, 1e11, on_cpu=True)
    newer.write_text(json.dumps(json.loads(result.read_text()) | {"rows": rows}))
    main([str(result), str(newer), "--page", str(page)])
    assert "| 7 s " in page.read_text()
    assert "| degree 6 | forward+backward | default |" in page.read_text()


def test_missing_markers_are_named(result, tmp_path):
    page = tmp_path / "speed.md"
    page.write_text(page_with(BLOCKS[:1]))
    with pytest.raises(UsageError) as caught:
        main([str(result), "--page", str(page)])
    for block in BLOCKS[1:]:
        assert f"<!-- {block} --> and <!-- end {block} -->" in str(caught.value)
    assert "nbody" not in str(caught.value)
    assert page.read_text() == page_with(BLOCKS[:1])


def test_a_block_is_there_once():
    with pytest.raises(ValueError, match="<!-- nbody -->"):
        fill(page_with(["nbody", "nbody"]), {"nbody": "new"})


@pytest.mark.parametrize("content", ["[]", "{}", json.dumps({"rows": []}), "not JSON"])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=r"RESULT.json: "):
        main([str(path)])


def test_a_missing_page_is_an_error(result, tmp_path):
    with pytest.raises(UsageError, match=r"--page: .*missing.md: No such file"):
        main([str(result), "--page", str(tmp_path / "missing.md")])
