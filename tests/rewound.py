"""A stand-in for CUDA graphs: what a GPU would repeat by itself is called again."""

import torch


class Rewound:
    """Records as CUDA does: on the host a function has run once more, and on the device it has not run.

    Args:
        tensors: gives all that the functions write to.
    """

    def __init__(self, tensors):
        self.tensors, self.calls = tensors, []

    def run(self, function):
        self.calls.append("run")
        return function()

    def record(self, function):
        self.calls.append("record")
        kept = [(v, v.detach().clone()) for v in self.tensors()]
        function()
        with torch.no_grad():
            for v, before in kept:
                v.copy_(before)

        def replay():
            self.calls.append("replay")
            return function()

        return replay
