"""Kernels in Triton, for a GPU: what they compute, one idea per file, and how they are launched.

Triton is optional: of these files only ``launch`` may be imported where it is not installed.
"""
