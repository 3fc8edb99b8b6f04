// A few threads for what would hold up an IO thread: reading long bodies, rendering, tokenizing, compiling grammars.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace minimo::server {

class WorkPool {
 public:
  explicit WorkPool(int threads);
  ~WorkPool();  // runs what was given, then ends

  // `task` must not throw. In order of arrival, on any of the threads.
  void Run(std::function<void()> task);

 private:
  void Loop();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> tasks_;  // guarded by mutex_
  bool stop_ = false;                        // guarded by mutex_
  std::vector<std::thread> threads_;
};

}  // namespace minimo::server
