#include "pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <algorithm>
#include <exception>
#include <new>
#include <thread>

namespace understudy {
namespace {

int usable_processors() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

std::atomic<Pool*> current{nullptr};
std::atomic<int> thread_limit{0};  // 0: not set

}  // namespace

Pool& Pool::instance() {
  // In a forked child there are no helpers, and the lock may be held by a thread that is not there.
  static const int once = pthread_atfork(nullptr, nullptr, [] { current.store(nullptr); });
  static_cast<void>(once);
  Pool* pool = current.load();
  if (!pool) {
    auto fresh = std::unique_ptr<Pool>(new Pool());
    if (current.compare_exchange_strong(pool, fresh.get())) pool = fresh.release();
  }
  return *pool;
}

void Pool::set_threads(int threads) { thread_limit.store(std::max(1, threads)); }

int Pool::threads() {
  static const int by_default = usable_processors();
  const int limit = thread_limit.load();
  return limit ? limit : by_default;
}

bool Pool::has_room(int limit) {
  const std::lock_guard<std::mutex> lock(mutex_);
  return working_ + 1 < std::min(limit, threads());
}

void Pool::run(int64_t items, int limit, const std::function<void(int64_t, Scratch&)>& work) {
  Batch batch{work, items, limit};
  std::unique_lock<std::mutex> lock(mutex_);
  std::unique_ptr<Scratch> scratch = take_scratch();
  if (items > 1) {
    batches_.push_back(&batch);
    const int most = std::min(limit, threads()), room = most - working_;
    start_helpers(most - 1);
    // Not more than can work: where callers keep all threads busy, waking a helper would only cost time.
    for (int64_t i = 0; i < std::min<int64_t>(items, room) - 1; i++) wanted_.notify_one();
  }
  drain(batch, std::move(scratch), lock);
  if (items > 1) {
    batches_.erase(std::find(batches_.begin(), batches_.end(), &batch));
    finished_.wait(lock, [&] { return batch.helpers == 0; });
  }
}

std::unique_ptr<Scratch> Pool::take_scratch() {
  // Room for it to come back, so that this can't fail then.
  idle_.reserve(idle_.size() + static_cast<size_t>(working_) + 1);
  if (idle_.empty()) return std::make_unique<Scratch>();
  std::unique_ptr<Scratch> scratch = std::move(idle_.back());
  idle_.pop_back();
  return scratch;
}

void Pool::start_helpers(int helpers) {
  // Signals are for the threads that the program knows of.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    for (; started_ < helpers; started_++) std::thread([this] { help(); }).detach();
  } catch (const std::exception&) {
    // No more threads, or memory for them, are to be had; those that there are do the work.
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void Pool::help() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    Batch* batch = nullptr;
    wanted_.wait(lock, [&] {
      if (working_ >= threads()) return false;
      const auto found = std::find_if(batches_.begin(), batches_.end(),
                                      [&](Batch* b) { return b->has_more() && working_ < b->limit; });
      if (found == batches_.end()) return false;
      batch = *found;
      return true;
    });
    std::unique_ptr<Scratch> scratch;
    try {
      scratch = take_scratch();
    } catch (const std::bad_alloc&) {
      started_--;
      return;  // the caller does the work
    }
    batch->helpers++;
    drain(*batch, std::move(scratch), lock);
    if (--batch->helpers == 0) finished_.notify_all();
  }
}

// Works on the items of `batch` until there are none left. The lock is held before and after, but not meanwhile.
void Pool::drain(Batch& batch, std::unique_ptr<Scratch> scratch, std::unique_lock<std::mutex>& lock) {
  working_++;
  lock.unlock();
  for (;;) {
    const int64_t item = batch.next.fetch_add(1, std::memory_order_relaxed);
    if (item >= batch.items) break;
    batch.work(item, *scratch);
  }
  lock.lock();
  idle_.push_back(std::move(scratch));
  working_--;
  wanted_.notify_one();  // a place for another thread
}

}  // namespace understudy
