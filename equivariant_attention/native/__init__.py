"""C++ on a CPU: built by the machine's own compiler when first used, and called through plain pointers.

Whatever runs here also runs in PyTorch, which is what it is tested against, and what runs where this cannot.
"""
