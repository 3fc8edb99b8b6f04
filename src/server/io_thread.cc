#include "server/io_thread.h"

#include <pthread.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "server/http_connection.h"

namespace minimo::server {
namespace {

// Where cores are shared with the engine's threads, a short turn is given soon (EEVDF, Linux 6.12 and later; elsewhere
// this changes nothing): long enough for the tokens of a step, shorter than the 1.4 ms and more that others ask for.
void AskForShortTurns() {
  struct {  // sched_setattr(2); the kernel's header does not go with glibc's
    uint32_t size = 48;
    uint32_t policy = SCHED_OTHER;
    uint64_t flags = 0;
    int32_t nice = 0;
    uint32_t priority = 0;
    uint64_t runtime_ns = 500'000;
    uint64_t deadline_ns = 0;
    uint64_t period_ns = 0;
  } attributes;
  (void)::syscall(SYS_sched_setattr, 0, &attributes, 0);
}

// The core-th of those that this process may use.
void KeepTo(int core) {
  cpu_set_t allowed, one;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return;
  CPU_ZERO(&one);
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed) || core-- > 0) continue;
    CPU_SET(cpu, &one);
    break;
  }
  (void)sched_setaffinity(0, sizeof(one), &one);
}

}  // namespace

IoThread::IoThread() : waker_(context_, ::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) { AwaitWake(); }

IoThread::~IoThread() { Stop(); }

void IoThread::Start(const std::string& name, int core, HttpCounters& counters) {
  counters_ = &counters;
  thread_ = std::thread([this, name, core] {
    pthread_setname_np(pthread_self(), name.c_str());
    AskForShortTurns();
    if (core >= 0) KeepTo(core);
    context_.run();
  });
}

void IoThread::Stop() {
  work_.reset();
  context_.stop();
  if (thread_.joinable()) thread_.join();
  std::vector<Task> unrun;  // may hold the last references to connections, which need the context to end
  const std::lock_guard lock(mutex_);
  unrun.swap(tasks_);
}

void IoThread::Queue(std::shared_ptr<Connection> connection, std::shared_ptr<IoTask> task) {
  const std::lock_guard lock(mutex_);
  tasks_.push_back({std::move(connection), std::move(task)});
}

void IoThread::Wake() {
  {
    const std::lock_guard lock(mutex_);
    if (awake_ || tasks_.empty()) return;
    awake_ = true;
  }
  // Not asio::post, which holds a lock while it wakes the thread: on the same core that thread would run into it.
  const uint64_t one = 1;
  (void)!::write(waker_.native_handle(), &one, sizeof(one));
}

void IoThread::AwaitWake() {
  waker_.async_wait(boost::asio::posix::stream_descriptor::wait_read, [this](const boost::system::error_code& ec) {
    if (ec) return;
    uint64_t count;
    (void)!::read(waker_.native_handle(), &count, sizeof(count));
    last_core_.store(sched_getcpu(), std::memory_order_relaxed);
    RunTasks();
    AwaitWake();
  });
}

void IoThread::RunTasks() {
  {
    const std::lock_guard lock(mutex_);
    running_.swap(tasks_);
    awake_ = false;
  }
  for (Task& task : running_) {
    task.task->Run();
    task.connection->Flush();
  }
  running_.clear();
  TellWritten();
}

void IoThread::TellWritten() {
  if (!written_us.empty() && counters_->on_tokens_written) counters_->on_tokens_written(written_us);
  written_us.clear();
}

}  // namespace minimo::server
