"""The pages of the site that are Markdown, and the blocks of code in them."""

from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
PATTERNS = ("*.md", "docs/**/*.md", "experiments/*/README.md", "benchmarks/results/*/README.md")
PAGES = sorted(p for pattern in PATTERNS for p in ROOT.glob(pattern) if "_build" not in p.parts)


def name_of(page):
    return str(page.relative_to(ROOT))


def python_blocks(page):
    """Each as code that can be compiled, after as many empty lines as make a traceback tell the line of the page."""
    tokens = MarkdownIt().parse(page.read_text())
    blocks = [t for t in tokens if t.type == "fence" and t.info.split()[:1] == ["python"] and "no-run" not in t.info]
    return ["\n" * (token.map[0] + 1) + token.content for token in blocks]


def run_blocks(page):
    """Run every Python block of a page, in order; what they have named."""
    names = {"__name__": page.stem}
    for block in python_blocks(page):
        exec(compile(block, page, "exec"), names)
    return names
