// Sixteen lanes take 128 columns of a row (a unit), so a warp two units; a lane has a word (four columns) of each half:
// l and l + 16. In a unit's 128 bytes the columns stand as fp8_linear's lanes hold the weights: 16-byte piece
// 4 h + 2 c + e has the columns 64 h + 32 e + 16 c .. + 15 as they are. So lanes l and l ^ 1 exchange a word, and each
// writes two neighbours. For 4-bit weights: quantise_chunks.cu.
#include <algorithm>

#include "cuda/kernels/common.cuh"
#include "cuda/kernels/quantise_common.cuh"

namespace minimo::cuda {
namespace {

constexpr int kThreads = kQuantiseThreads;
constexpr int kWarps = kThreads / 32;

struct Quantised {
  uint2 words;  // two of the piece that this lane writes
  float scale;  // of the unit
};

// v: this lane's words of the two halves.
__device__ __forceinline__ Quantised quantise(const float4 (&v)[2]) {
  float most = fmaxf(largest(v[0]), largest(v[1]));
#pragma unroll
  for (int offset = 1; offset < 16; offset <<= 1) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, offset));
  const float inverse = most > kLeastUnit ? __fdividef(kMostE4m3, most) : 0.0f;
  uint32_t word[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    word[h] = to_e4m3x2(v[h].x * inverse, v[h].y * inverse) | to_e4m3x2(v[h].z * inverse, v[h].w * inverse) << 16;
  }
  const bool second = threadIdx.x % 2 != 0;  // writes a piece of the second half
  const uint32_t other = __shfl_xor_sync(0xffffffffu, second ? word[0] : word[1], 1);
  return {second ? uint2{other, word[1]} : uint2{word[0], other}, most * (1.0f / kMostE4m3)};
}

__device__ __forceinline__ void put_values(const Fp8Activations& out, int unit, int row, uint2 words) {
  const int l = threadIdx.x % 16, piece = l % 2 * 4 + l / 4 % 2 * 2 + l / 8, pair = l / 2 % 2;
  uint8_t* to = out.values + (int64_t{unit} * out.rows + row) * 128;
  *reinterpret_cast<uint2*>(to + (piece ^ (row % 8)) * 16 + pair * 8) = words;
}
__device__ __forceinline__ void put_scale(const Fp8Activations& out, int unit, int row, float scale) {
  out.scales[int64_t{unit} * out.rows + row] = scale;
}

constexpr int kHeld = 4;  // rows a warp has in flight

// Loaded: uint2, four columns of bf16, or float4 of the residual. Loads stand in no branch and are not used before the
// last of them is under way.
template <typename Loaded>
__global__ void __launch_bounds__(kThreads, 4) quantise_rows(const QuantiseParams p) {
  constexpr bool kNormed = sizeof(Loaded) == 16;
  allow_next_kernel();
  wait_previous_kernel();
  if (p.tiles != nullptr && blockIdx.x == 0) return list_tiles(p);
  const int lane = threadIdx.x % 32, l = lane % 16, pairs = (p.units + 1) / 2;
  const int block = blockIdx.x - (p.tiles != nullptr ? 1 : 0), at = block * kWarps + threadIdx.x / 32;
  const int unit = at % pairs * 2 + lane / 16, first = at / pairs * kHeld;
  const int cols[2] = {unit * kUnitCols + l * 4, unit * kUnitCols + l * 4 + 64};
  Loaded loaded[kHeld][2];
  float squares[kHeld] = {};
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const int token = min(first + i, p.tokens - 1);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int col = min(cols[h], p.cols - 4);
      const void* from = kNormed ? static_cast<const void*>(p.residual + int64_t{token} * p.cols + col)
                                 : static_cast<const bf16*>(p.x) + int64_t{token} * p.x_stride + col;
      loaded[i][h] = __ldcg(static_cast<const Loaded*>(from));
    }
  }
  float4 norm[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    norm[h] = {1, 1, 1, 1};
    if (kNormed) norm[h] = __ldg(reinterpret_cast<const float4*>(p.norm_weight + min(cols[h], p.cols - 4)));
    if (cols[h] >= p.cols) norm[h] = {0, 0, 0, 0};
  }
  if (p.square_sums != nullptr) {
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      const float* sums = p.square_sums + int64_t{min(first + i, p.tokens - 1)} * p.square_sum_count;
      for (int s = lane; s < p.square_sum_count; s += 32) squares[i] += load_l2(sums + s);
    }
  }
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const int token = first + i;
    if (token >= p.tokens) return;
    float factor = 1;
    if (p.square_sums != nullptr) {
      const float sum = p.square_sum_count > 1 ? warp_sum(squares[i]) : __shfl_sync(0xffffffffu, squares[i], 0);
      factor = rsqrtf(sum / static_cast<float>(p.norm_cols) + p.norm_eps);
    }
    const float4 v[2] = {times(widen(loaded[i][0]), norm[0]), times(widen(loaded[i][1]), norm[1])};
    const Quantised q = quantise(v);
    const float scale = q.scale * factor;
    const bool mine = unit < p.units;
    if (p.slot_of == nullptr) {
      if (mine) put_values(p.out, unit, token, q.words);
      if (mine && l == 0) put_scale(p.out, unit, token, scale);
      continue;
    }
    for (int from = 0; from < p.top_k; from += 16) {  // a lane a slot
      const int count = min(16, p.top_k - from);
      const int slot = mine && l < count ? load_l2(p.slot_of + token * p.top_k + from + l) : -1;
#pragma unroll 8
      for (int k = 0; k < count; ++k) {
        const int row = __shfl_sync(0xffffffffu, slot, k, 16);
        if (row >= 0) put_values(p.out, unit, row, q.words);
      }
      if (slot >= 0) put_scale(p.out, unit, slot, scale);
    }
  }
}

// A warp takes four rows of a unit, a lane the columns 32 t + 4 j .. + 3, t = 0..3.
__global__ void __launch_bounds__(kThreads) arrange_rows(const ArrangeParams p) {
  allow_next_kernel();
  wait_previous_kernel();
  const int lane = threadIdx.x % 32, j = lane % 8, at = blockIdx.x * kWarps + threadIdx.x / 32;
  const int unit = at % p.units, token = at / p.units * 4 + lane / 8;
  if (token >= p.tokens) return;
  const bf16* row = static_cast<const bf16*>(p.x) + (int64_t{token} * p.units + unit) * kUnitCols + 4 * j;
  uint2 v[4];
#pragma unroll
  for (int t = 0; t < 4; ++t) v[t] = __ldcg(reinterpret_cast<const uint2*>(row + 32 * t));
  uint8_t* to = p.out.values + ((int64_t{unit} * 2 + j / 4) * p.out.rows + token) * 128;
  const int piece = j % 4 * 2;
  *reinterpret_cast<uint4*>(to + (piece ^ (token % 8)) * 16) = {v[0].x, v[1].x, v[2].x, v[3].x};
  *reinterpret_cast<uint4*>(to + ((piece + 1) ^ (token % 8)) * 16) = {v[0].y, v[1].y, v[2].y, v[3].y};
}

constexpr int kMostExperts = 32;
constexpr int kMostPasses = 4;  // each over two units a warp

__global__ void __launch_bounds__(kThreads) combine(const CombineParams p) {
  __shared__ float scratch[kWarps];
  __shared__ int slots[kMostExperts];
  allow_next_kernel();
  wait_previous_kernel();
  const int token = blockIdx.x, l = threadIdx.x % 16, stride = blockDim.x / 16;
  if (threadIdx.x < p.top_k) slots[threadIdx.x] = load_l2(p.slot_of + token * p.top_k + threadIdx.x);
  if (threadIdx.x < kWarps) scratch[threadIdx.x] = 0;  // a block may have fewer warps
  __syncthreads();
  float* residual = p.residual + int64_t{token} * p.hidden;
  const int units = (p.hidden + kUnitCols - 1) / kUnitCols;
  const auto busy = [&](int pass) { return static_cast<int>(threadIdx.x) / 32 * 2 + pass * stride < units; };
  Quantised held[kMostPasses];
  float squares = 0;
#pragma unroll
  for (int i = 0; i < kMostPasses; ++i) {
    if (!busy(i)) break;
    const int unit = threadIdx.x / 16 + i * stride, col = unit * kUnitCols + l * 4;
    const int cols[2] = {min(col, p.hidden - 4), min(col + 64, p.hidden - 4)};
    float4 x[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) x[h] = load_l2(reinterpret_cast<const float4*>(residual + cols[h]));
#pragma unroll 8
    for (int k = 0; k < p.top_k; ++k) {
      const bf16* from = static_cast<const bf16*>(p.expert_out) + int64_t{slots[k]} * p.hidden;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float4 y = widen(__ldcg(reinterpret_cast<const uint2*>(from + cols[h])));
        x[h].x += y.x, x[h].y += y.y, x[h].z += y.z, x[h].w += y.w;
      }
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int c = col + 64 * h;
      if (c >= p.hidden) {
        x[h] = {0, 0, 0, 0};
        continue;
      }
      *reinterpret_cast<float4*>(residual + c) = x[h];
      squares += x[h].x * x[h].x + x[h].y * x[h].y + x[h].z * x[h].z + x[h].w * x[h].w;
      x[h] = times(x[h], __ldg(reinterpret_cast<const float4*>(p.next_norm + c)));
      if (p.next_x != nullptr) {
        bf16* to = static_cast<bf16*>(p.next_x) + int64_t{token} * p.next_x_stride + c;
        *reinterpret_cast<uint2*>(to) = {pack_bf16(x[h].x, x[h].y), pack_bf16(x[h].z, x[h].w)};
      }
    }
    if (p.next_x == nullptr) {
      held[i] = quantise(x);
      if (unit < units) put_values(p.out, unit, token, held[i].words);
    }
  }
  const float sum = block_sum<kWarps>(squares, scratch);
  if (p.next_x != nullptr) {
    if (threadIdx.x < p.square_sum_count) {
      p.square_sums[token * p.square_sum_count + threadIdx.x] = threadIdx.x == 0 ? sum : 0.0f;
    }
    return;
  }
  const float factor = rsqrtf(sum / static_cast<float>(p.hidden) + p.norm_eps);
#pragma unroll
  for (int i = 0; i < kMostPasses; ++i) {
    if (!busy(i)) break;
    const int unit = threadIdx.x / 16 + i * stride;
    if (unit < units && l == 0) put_scale(p.out, unit, token, held[i].scale * factor);
  }
}

}  // namespace

cudaError_t LaunchQuantise(const QuantiseParams& p, cudaStream_t stream) {
  if (p.out.offsets != nullptr) return LaunchQuantiseChunks(p, stream);
  const int warps = (p.tokens + kHeld - 1) / kHeld * ((p.units + 1) / 2);
  const auto kernel = p.x != nullptr ? quantise_rows<uint2> : quantise_rows<float4>;
  return Launch(kernel, dim3((warps + kWarps - 1) / kWarps + (p.tiles != nullptr ? 1 : 0)), dim3(kThreads), 0,
                stream, p);
}

cudaError_t LaunchArrange(const ArrangeParams& p, cudaStream_t stream) {
  const int warps = (p.tokens + 3) / 4 * p.units;
  return Launch(arrange_rows, dim3((warps + kWarps - 1) / kWarps), dim3(kThreads), 0, stream, p);
}

cudaError_t LaunchCombine(const CombineParams& p, cudaStream_t stream) {
  const int pairs = (p.hidden + 2 * kUnitCols - 1) / (2 * kUnitCols);
  return Launch(combine, dim3(p.tokens), dim3(std::min((pairs + 1) / 2, kWarps) * 32), 0, stream, p);
}

}  // namespace minimo::cuda
