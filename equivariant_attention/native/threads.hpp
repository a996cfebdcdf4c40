// A parallel for: threads that take the tasks of a call one by one.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <new>
#include <thread>
#include <vector>

namespace {

struct Threads {  // has the fields of Threads in calls.py
    int64_t count;
    void (*openmp)(void (*)(void*), void*, unsigned, unsigned);  // GOMP_parallel of PyTorch's OpenMP, or null
};

template <class Task>
struct Team {
    Task& task;
    int64_t size;
    std::atomic<int64_t> next{0};
    std::atomic<bool> failed{false};
    static void work(void* self) {
        auto& team = *static_cast<Team*>(self);
        for (int64_t i; (i = team.next++) < team.size;) {
            try {
                team.task(i);
            } catch (...) {
                team.failed = true;
            }
        }
    }
};

// Call task(0), ..., task(count - 1) in parallel. Where PyTorch's threads are OpenMP's, these are used: idle OpenMP threads
// spin for a while, and other threads would have to share the cores with them.
template <class Task>
void in_parallel(const Threads& threads, int64_t count, Task task) {
    Team<Task> team{task, count};
    if (threads.openmp && threads.count > 1) {
        threads.openmp(team.work, &team, unsigned(threads.count), 0);
    } else {
        std::vector<std::thread> others;
        try {
            for (int64_t i = 1; i < std::min(threads.count, count); ++i) others.emplace_back(team.work, &team);
        } catch (...) {  // the system has no more threads: the tasks are shared by fewer
        }
        team.work(&team);
        for (auto& other : others) other.join();
    }
    if (team.failed) throw std::bad_alloc();
}

template <class Task>
int status_of(Task task) {  // 0, or 1 if memory ran out: no exception may pass through ctypes
    try {
        task();
        return 0;
    } catch (...) {
        return 1;
    }
}

}  // namespace
