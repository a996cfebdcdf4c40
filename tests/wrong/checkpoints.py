"""Files that are given as a checkpoint and are none, and what must be said of each."""

import random
import re

import torch

NOT_WHOLE = "expected a whole checkpoint of tensors and plain values: ."


def flip_a_bit(path):
    content, weights = path.read_bytes(), torch.load(path, weights_only=True)["model"]
    largest = max(weights.values(), key=torch.Tensor.numel).numpy().tobytes()
    place = content.index(largest)
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])


def keep_the_kind_alone(path):
    torch.save({"kind": torch.load(path, weights_only=True)["kind"]}, path)


# name: (makes the file of a right one, what is said where weights are restored, what where a whole checkpoint is read)
WRONG = {
    "missing": (lambda path: path.unlink(), "there is no such file"),
    "folder": (lambda path: (path.unlink(), path.mkdir()), "expected a file, got a folder"),
    "empty": (lambda path: path.write_bytes(b""), NOT_WHOLE),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-100]), NOT_WHOLE),
    "damaged": (flip_a_bit, "expected a whole checkpoint .* is damaged"),
    "text": (lambda path: path.write_text("weights"), NOT_WHOLE),
    "code": (lambda path: torch.save(random.Random(0), path), "expected a whole checkpoint .*Unsupported global"),
    "list": (lambda path: torch.save([1], path), "expected weights .*, got list", "expected a checkpoint .*, got list"),
    "numbers": (
        lambda path: torch.save({"a": 1}, path),
        r"expected weights .*, got a dict of \['a'\]",
        r"expected a checkpoint .*, got a dict of \['a'\]",
    ),
    "published": (
        lambda path: torch.save(torch.nn.Linear(2, 3).state_dict(), path),
        r"the weights do not fit the model: [\s\S]*Missing key",
        r"expected a checkpoint .*, got weights alone \(a state dict of 2 tensors\)",
    ),
    "emptied": (
        keep_the_kind_alone,
        "expected weights .*, got NoneType",
        r"(incomplete, without|expected best\.pt of a run)",
    ),
}


def make_wrong(name, path):
    """Put a wrong file where a checkpoint is; patterns of what is said where it is restored, and where it is read."""
    WRONG[name][0](path)
    messages = WRONG[name][1:]
    return [f"{re.escape(path.name)}: {message}" for message in (messages[0], messages[-1])]
