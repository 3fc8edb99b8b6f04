// What one rendering may use up, and the things it must let go of at its end.
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "minimo/result.h"
#include "text/jinja/value.h"

namespace minimo::jinja {

struct Namespace final : Object {
  const char* TypeName() const override { return "jinja2.utils.Namespace object"; }
  std::string Repr() const override;
  Result<std::optional<Value>> GetAttr(Runtime&, std::string_view name) override;
  Dict attributes;
  mutable bool printing = false;  // a namespace may hold itself
};

class Runtime {
 public:
  // Evaluated nodes; 32 bytes of text made count as one. About a second of work.
  static constexpr int64_t kDefaultBudget = 20'000'000;
  static constexpr int kMaxDepth = 1500;                     // of the evaluation: nodes inside nodes inside macros
  static constexpr std::ptrdiff_t kMaxStackBytes = 2 << 20;  // of the thread's stack, where frames are large
  static constexpr size_t kMaxTextBytes = size_t{64} << 20;  // of one string

  Runtime(int64_t budget, std::chrono::system_clock::time_point now) : budget_(budget), now_(now) {}
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;
  ~Runtime();

  Status Charge(int64_t nodes = 1) {
    if ((budget_ -= nodes) >= 0) return {};
    return Error{"the template takes too many steps"};
  }
  // For text that is about to be made.
  Status ChargeText(size_t bytes) {
    if (bytes > kMaxTextBytes) return Error{"the template makes a text that is too long"};
    return Charge(static_cast<int64_t>(bytes / 32));
  }
  // For items that are about to be made or compared.
  Status ChargeItems(uint64_t items) {
    if (items > kMaxWeight) return Error{"the template makes a list that is too long"};
    return Charge(static_cast<int64_t>(items));
  }

  std::chrono::system_clock::time_point now() const { return now_; }

  // Counts the depth of evaluation while it lives.
  class Nest {
   public:
    explicit Nest(Runtime& runtime) : runtime_(runtime) { ++runtime_.depth_; }
    ~Nest() { --runtime_.depth_; }
    bool TooDeep() const {
      const auto* frame = static_cast<const char*>(__builtin_frame_address(0));
      return runtime_.depth_ > kMaxDepth || runtime_.base_ - frame > kMaxStackBytes;
    }

   private:
    Runtime& runtime_;
  };
  static Error TooDeepError() { return Error{"maximum recursion depth exceeded"}; }

  // The runtime empties every namespace at its end: they are the one way to make a cycle.
  std::shared_ptr<Namespace> NewNamespace();

 private:
  int64_t budget_;
  std::chrono::system_clock::time_point now_;
  int depth_ = 0;
  const char* base_ = static_cast<const char*>(__builtin_frame_address(0));
  std::vector<std::shared_ptr<Namespace>> namespaces_;
};

}  // namespace minimo::jinja
