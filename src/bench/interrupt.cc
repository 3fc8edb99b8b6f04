#include "bench/interrupt.h"

#include <csignal>

#include <atomic>

namespace minimo::bench {
namespace {

std::atomic<bool> requested{false};
struct sigaction previous_int {};
struct sigaction previous_term {};

void OnSignal(int signal) {
  if (requested.exchange(true)) {
    std::signal(signal, SIG_DFL);
    std::raise(signal);
  }
}

}  // namespace

InterruptScope::InterruptScope() {
  requested = false;
  struct sigaction action {};
  action.sa_handler = OnSignal;  // no SA_RESTART: waits end at once
  sigaction(SIGINT, &action, &previous_int);
  sigaction(SIGTERM, &action, &previous_term);
}

InterruptScope::~InterruptScope() {
  sigaction(SIGINT, &previous_int, nullptr);
  sigaction(SIGTERM, &previous_term, nullptr);
}

bool InterruptScope::Requested() { return requested; }
void InterruptScope::Request() { requested = true; }

}  // namespace minimo::bench
