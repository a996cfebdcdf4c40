// A parallel pass over all blocks of edges. Each thread has a Worker with sums of its own for the derivatives with respect to
// parameters and nodes. They are added up in a fixed order, so that results are reproducible.

#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "frames.hpp"
#include "radial.hpp"

namespace {

template <class T>
using Networks = std::vector<std::unique_ptr<Radial<T>>>;

// Split the blocks begin, ..., end - 1 into groups of at most so many, and call task(first, last) for each.
template <class Task>
void in_groups(int64_t begin, int64_t end, int64_t most, Task task) {
    for (int64_t count = (end - begin + most - 1) / most, i = 0; i < count; ++i) {
        task(begin + i * (end - begin) / count, begin + (i + 1) * (end - begin) / count);
    }
}

// Worker evaluates blocks for one thread; Worker::Blocks is the list of blocks.
template <class Worker, class T>
struct Run {
    const Problem& p;
    Networks<T> networks;
    typename Worker::Blocks blocks;
    std::vector<std::unique_ptr<Worker>> workers;  // one per thread, but fewer if there are not two blocks for each

    explicit Run(const Problem& p) : p(p), networks(p.num_networks), blocks(p) {
        workers.resize(std::max(int64_t(1), std::min(p.threads.count, blocks.count() / 2)));
        in_parallel(p.threads, p.num_networks, [this](int64_t n) {
            networks[n] = std::make_unique<Radial<T>>(this->p, n);
        });
    }

    // Call a member function of every worker with its share of the blocks.
    void work(void (Worker::*member)(int64_t, int64_t)) {
        const int64_t count = workers.size();
        in_parallel(p.threads, count, [=](int64_t i) {
            workers[i] = std::make_unique<Worker>(p, networks, blocks);
            ((*workers[i]).*member)(i * blocks.count() / count, (i + 1) * blocks.count() / count);
        });
    }

    void gradient() {
        work(&Worker::gradient);
        if (p.gradients) in_parallel(p.threads, p.num_networks, [this](int64_t n) { store(n); });
        in_parallel(p.threads, p.threads.count, [this](int64_t i) {
            for (int64_t node = i * p.num_nodes / p.threads.count; node < (i + 1) * p.num_nodes / p.threads.count; ++node) {
                for (const auto& worker : workers) worker->edges.nodes.add(node);
            }
        });
    }

    void store(int64_t n) {
        const auto sum = workers[0]->take_gradient(n);
        for (size_t w = 1; w < workers.size(); ++w) sum->add(*workers[w]->take_gradient(n), *networks[n]);
        sum->store(*networks[n], Parameters<T>(p, p.gradients, n));
    }
};

template <class Worker, class T>
int forward(const Problem* p) {
    return checked(*p, [=] { Run<Worker, T>(*p).work(&Worker::forward); });
}

template <class Worker, class T>
int gradient(const Problem* p) {
    return checked(*p, [=] { Run<Worker, T>(*p).gradient(); });
}

}  // namespace
