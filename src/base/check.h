// CHECK: a programmer's mistake, never reachable from request data. Prints the place and aborts, in every build.
#pragma once

#include <cstdio>
#include <cstdlib>

namespace minimo {

[[noreturn]] inline void CheckFailed(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "%s:%d: CHECK failed: %s\n", file, line, condition);
  std::abort();
}

}  // namespace minimo

#define CHECK(condition) \
  (static_cast<bool>(condition) ? void(0) : ::minimo::CheckFailed(#condition, __FILE__, __LINE__))
