"""C++ on a CPU: built by the machine's own compiler when first used, and called through plain pointers.

All of it exists in PyTorch too: it is tested against that, and where C++ cannot run, PyTorch does.
"""
