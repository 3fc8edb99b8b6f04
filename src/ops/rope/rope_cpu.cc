#include "base/thread_team.h"
#include "ops/rope/rope.h"

namespace minimo {

// The reference loop vectorises as it stands; the team only shares the tokens out.
void RopeCpu(const RopeArgs& a, ThreadTeam& team) {
  const int half = a.table->rotary_dim / 2;
  team.ParallelFor(a.tokens, 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float* __restrict cos = a.table->cos.data() + (a.first_token + t) * half;
      const float* __restrict sin = a.table->sin.data() + (a.first_token + t) * half;
      for (int h = 0; h < a.heads; ++h) {
        float* __restrict low = a.x + t * a.x_stride + int64_t{h} * a.head_dim;
        float* __restrict high = low + half;
        for (int i = 0; i < half; ++i) {
          const float x = low[i], y = high[i];
          low[i] = x * cos[i] - y * sin[i];
          high[i] = y * cos[i] + x * sin[i];
        }
      }
    }
  });
}

}  // namespace minimo
