// See split_rows.cuh.
#include "cuda/kernels/split_unit.cuh"
#include "cuda/weight_tiles.h"

namespace minimo::cuda {
namespace {

constexpr int kTokens = 8;  // of a block, a warp each

__global__ void __launch_bounds__(kTokens * 32)
    split_rows(SplitRows to, int tokens, const bf16* x, int stride, const int* slot_token) {
  wait_previous_kernel();
  allow_next_kernel();
  const int token = blockIdx.y * kTokens + threadIdx.x / 32, lane = threadIdx.x % 32, unit = blockIdx.x;
  if (token >= tokens) return;
  const int64_t source = slot_token == nullptr ? token : load_l2(slot_token + token);
  const int column = unit * kUnitCols + lane * 4;
  uint2 bits = __ldcg(reinterpret_cast<const uint2*>(x + source * stride + column));
  // What lies beyond the columns may be of another product, and would share their power of two.
  const auto inside = [&](int i, uint32_t mask) { return column + i < to.cols ? mask : 0u; };
  bits.x &= inside(0, 0xffff) | inside(1, 0xffff0000), bits.y &= inside(2, 0xffff) | inside(3, 0xffff0000);
  put_split(to, tokens, token, unit, bits);
}

}  // namespace

cudaError_t LaunchSplitRows(const SplitRows& to, int tokens, const void* x, int stride, const int* slot_token,
                            cudaStream_t stream) {
  return Launch(split_rows, dim3(to.units, (tokens + kTokens - 1) / kTokens), dim3(kTokens * 32), 0, stream, to, tokens,
                static_cast<const bf16*>(x), stride, slot_token);
}

}  // namespace minimo::cuda
