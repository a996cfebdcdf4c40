"""Layers in C++ for a CPU: compiled on this machine when first used, and called through ctypes.

Each operation also exists in PyTorch. Tests compare the two, and where C++ cannot run, PyTorch runs instead.
"""
