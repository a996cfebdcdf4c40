"""Triton kernels, for a GPU, and :mod:`~equivariant_attention.kernels.launch`, which launches them.

Triton is optional: without it only ``launch`` can be imported.
"""
