// Threads that share the tasks of a call.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <new>
#include <thread>
#include <vector>

namespace {

struct Threads {  // calls.py passes it, field by field as it is there
    int64_t count;
    void (*openmp)(void (*)(void*), void*, unsigned, unsigned);  // GOMP_parallel, or null
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

// Call task(0), ..., task(count - 1), in the threads that PyTorch has already where these are OpenMP's: while they wait
// for work they are busy, and others would share the cores with them.
template <class Task>
void in_parallel(const Threads& threads, int64_t count, Task task) {
    Team<Task> team{task, count};
    if (threads.openmp && threads.count > 1) {
        threads.openmp(team.work, &team, unsigned(threads.count), 0);
    } else {
        std::vector<std::thread> others;
        try {
            for (int64_t i = 1; i < std::min(threads.count, count); ++i) others.emplace_back(team.work, &team);
        } catch (...) {  // the system has no more: fewer share the tasks
        }
        team.work(&team);
        for (auto& other : others) other.join();
    }
    if (team.failed) throw std::bad_alloc();
}

template <class Task>
int status_of(Task task) {  // 0, or 1 where there is not enough memory
    try {
        task();
        return 0;
    } catch (...) {
        return 1;
    }
}

}  // namespace
