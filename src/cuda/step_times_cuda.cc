#include "cuda/step_times_cuda.h"

#include "base/log.h"

namespace minimo::cuda {
namespace {

constexpr float kNothingToDoMs = 50;  // a device that waits longer had no requests

}  // namespace

Status StepTimes::Create() {
  for (Event* events : {begin_, end_}) {
    for (int slot = 0; slot < 2; ++slot) MINIMO_TRY(events[slot].Create(true));
  }
  return {};
}

Status StepTimes::Begin(int slot, bool decode, int tokens, cudaStream_t stream) {
  decode_[slot] = decode;
  tokens_[slot] = tokens;
  return ToStatus(cudaEventRecord(begin_[slot].get(), stream), "a step");
}

void StepTimes::Ended(int slot) {
  Sum& sum = sums_[decode_[slot]];
  float busy = 0, idle = 0;
  if (cudaEventElapsedTime(&busy, begin_[slot].get(), end_[slot].get()) != cudaSuccess) return;
  ++sum.steps;
  sum.tokens += tokens_[slot];
  sum.busy_ms += busy;
  const bool known = follows_ && cudaEventElapsedTime(&idle, end_[slot ^ 1].get(), begin_[slot].get()) == cudaSuccess;
  if (known && idle < kNothingToDoMs) sum.idle_ms += idle;
  follows_ = true;
}

void StepTimes::Log() const {
  for (const bool decode : {true, false}) {
    const Sum& s = sums_[decode];
    if (s.steps == 0) continue;
    const auto n = static_cast<double>(s.steps);
    LogInfo("{} {} on the GPU: {:.1f} tokens and {:.3f} ms each, {:.3f} ms of waiting for the host before each",
            s.steps, decode ? "decode steps" : "steps with prompts", static_cast<double>(s.tokens) / n, s.busy_ms / n,
            s.idle_ms / n);
  }
}

}  // namespace minimo::cuda
