#include "cuda/fault_cuda.h"

#include <atomic>
#include <cstdlib>
#include <string_view>

namespace minimo::cuda {
namespace {

// 0: never.
long FaultNumber(std::string_view prefix) {
  const char* text = std::getenv("MINIMO_CUDA_FAULT");
  if (text == nullptr || !std::string_view(text).starts_with(prefix)) return 0;
  return std::atol(text + prefix.size());
}

}  // namespace

bool FaultDue(Fault kind) {
  static const long at[] = {FaultNumber("step:"), FaultNumber("allocation:")};
  static std::atomic<long> count[2] = {};
  const int i = static_cast<int>(kind);
  return at[i] > 0 && ++count[i] == at[i];
}

int PretendedGeneration() { return static_cast<int>(FaultNumber("generation:")); }

}  // namespace minimo::cuda
