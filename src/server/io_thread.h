// What one IO thread owns: its event loop, the connections that live on it, and the tasks that others give it.
// Internal to the server, like http_connection.h.
#pragma once

#include <atomic>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

namespace minimo::server {

class Connection;
class IoTask;
struct HttpCounters;

class IoThread {
 public:
  IoThread();
  ~IoThread();  // Stop()

  // `name`: as `top -H` shows it. `core`: the only one to run on; -1: any.
  void Start(const std::string& name, int core, HttpCounters& counters);
  void Stop();
  bool started() const { return thread_.joinable(); }

  // Any thread may call. Runs `task` here, after the next Wake, and sends what it wrote to `connection`. What is queued
  // runs in one go: the tokens of an engine step cost one wake-up, not one each.
  void Queue(std::shared_ptr<Connection> connection, std::shared_ptr<IoTask> task);
  void Wake();

  // Where it ran last; -1 before. Whoever wakes several threads wakes the one on its own core last: that one takes the
  // core at once, and the others would wait for it.
  int last_core() const { return last_core_.load(std::memory_order_relaxed); }

  boost::asio::io_context& context() { return context_; }

  // Touched on this thread only.
  std::set<Connection*> open;
  bool draining = false;
  std::vector<int64_t> written_us;  // of tokens: sampled to written, until TellWritten
  void TellWritten();

 private:
  struct Task {
    std::shared_ptr<Connection> connection;
    std::shared_ptr<IoTask> task;
  };
  void AwaitWake();
  void RunTasks();

  std::mutex mutex_;
  std::vector<Task> tasks_;    // guarded by mutex_
  bool awake_ = false;         // guarded by mutex_; RunTasks is on its way
  std::vector<Task> running_;  // this thread's; empty between runs, it keeps its room
  std::atomic<int> last_core_{-1};
  HttpCounters* counters_ = nullptr;
  boost::asio::io_context context_{1};  // after what its end may still touch: closing connections leave `open`
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work_{context_.get_executor()};
  boost::asio::posix::stream_descriptor waker_;  // an eventfd
  std::thread thread_;
};

}  // namespace minimo::server
