// Ctrl-C as a flag: the first one asks a run to stop and print what there is; a second one ends the process.
#pragma once

namespace minimo::bench {

class InterruptScope {
 public:
  InterruptScope();
  ~InterruptScope();
  InterruptScope(const InterruptScope&) = delete;
  InterruptScope& operator=(const InterruptScope&) = delete;

  static bool Requested();
  static void Request();  // as if Ctrl-C had been pressed; for tests
};

}  // namespace minimo::bench
