// out = silu(gate) * up, silu(x) = x / (1 + exp(-x)); unclamped in both models (PITFALLS 52). float32: MiMo's layer 47
// reaches 84,000, beyond fp16 (PITFALLS 20).
#pragma once

#include <cstdint>

namespace minimo {

class ThreadTeam;

struct SiluMulArgs {
  const float* gate = nullptr;  // [count]
  const float* up = nullptr;    // [count]
  float* out = nullptr;         // [count], may be gate or up
  int64_t count = 0;
};

void SiluMulRef(const SiluMulArgs& args);
void SiluMulCpu(const SiluMulArgs& args, ThreadTeam& team);

}  // namespace minimo
