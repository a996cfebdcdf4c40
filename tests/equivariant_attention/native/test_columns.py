"""Memory kept from call to call, in a process that is forked while other threads take and give."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import equivariant_attention.native
from equivariant_attention.native import compiler
from equivariant_attention.native.compiler import library

pytestmark = pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "c++")), reason="there is no C++ compiler")
HEADER = Path(equivariant_attention.native.__file__).with_name("columns.hpp")

FORKS = (
    f'#include "{HEADER}"\n'
    + r"""
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>

void take_and_give() {
    std::size_t size = 1 << 16;
    void* p = MemoryPool::take(size);
    MemoryPool::give(p, size);
}

// Children that are killed after 5 seconds, of so many that are forked while a thread takes and gives.
extern "C" int hanging_children(int forks) {
    std::atomic<bool> stop{false};
    std::thread other([&] { while (!stop) take_and_give(); });
    int hanging = 0;
    for (int i = 0; i < forks && !hanging; ++i) {
        const pid_t child = fork();
        if (!child) {
            alarm(5);
            take_and_give();
            _exit(0);
        }
        int status = 0;
        waitpid(child, &status, 0);
        hanging += status != 0;
    }
    stop = true;
    other.join();
    return hanging;
}
"""
)

LAYERS = """
import os, threading
import torch
from equivariant_attention.fibers import Fiber
from equivariant_attention.modules import G1x1SE3

torch.set_num_threads(1)
layer, h = G1x1SE3(Fiber(1, 64), Fiber(1, 64)).requires_grad_(False), {"0": torch.randn(300, 64, 1)}
expected, stop = layer(h)["0"], threading.Event()

def compute():
    while not stop.is_set():
        layer(h)

threads = [threading.Thread(target=compute) for _ in range(2)]
for thread in threads:
    thread.start()
for _ in range(15):
    child = os.fork()
    if not child:
        os._exit(not torch.equal(layer(h)["0"], expected))
    assert os.waitpid(child, 0)[1] == 0
stop.set()
for thread in threads:
    thread.join()
"""


def test_a_child_that_is_forked_while_a_thread_has_the_lock_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(compiler.SWITCH, raising=False)
    source = tmp_path / "forks.cpp"
    source.write_text(FORKS)
    assert library(source).hanging_children(50) == 0


def test_layers_in_a_child_that_is_forked_while_threads_compute():
    """In a process of its own, as Python warns of forks beside threads."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", LAYERS], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
