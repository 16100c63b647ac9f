// Threads that help the caller of `run` with its items.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "crop.h"
#include "jpeg.h"

namespace understudy {

// What a thread works with.
struct Scratch {
  JpegDecoder jpeg;
  std::vector<CropPlan> plans;
  std::vector<int> order;
  Buffer<int16_t> rows;
};

class Pool {
 public:
  // This process's pool. It is never destroyed: its threads sleep until the process ends. A forked child gets its own.
  static Pool& instance();

  // At most so many threads work at a time, callers included; a caller always does. The default is one for each
  // processor that this process may use. A forked child keeps the number.
  static void set_threads(int threads);
  static int threads();
  // Whether another thread could work now, where at most `limit` may.
  bool has_room(int limit);

  // Calls `work` once for each item in [0, items), in any order, on this thread and others, and returns when all is
  // done. Others only come while fewer than `limit` threads work, for this call or another. `work` must not throw. Any
  // number of threads may call it at once. Throws only before any work.
  void run(int64_t items, int limit, const std::function<void(int64_t item, Scratch& scratch)>& work);

 private:
  struct Batch {
    const std::function<void(int64_t, Scratch&)>& work;
    const int64_t items;
    const int limit;
    std::atomic<int64_t> next{0};
    int helpers = 0;  // under mutex_

    bool has_more() const { return next.load(std::memory_order_relaxed) < items; }
  };

  Pool() = default;
  std::unique_ptr<Scratch> take_scratch();
  void start_helpers(int helpers);
  void help();
  void drain(Batch& batch, std::unique_ptr<Scratch> scratch, std::unique_lock<std::mutex>& lock);

  std::mutex mutex_;
  std::condition_variable wanted_, finished_;
  int started_ = 0;  // helpers
  int working_ = 0;  // threads at work, helpers and callers
  std::vector<Batch*> batches_;
  std::vector<std::unique_ptr<Scratch>> idle_;
};

}  // namespace understudy
