// Sixteen lanes take 128 columns of a row (a unit), so a warp two units; a lane has a word (four columns) of each half:
// l and l + 16. In a unit's 128 bytes the columns stand as fp8_linear's lanes hold the weights. FP8: 16-byte piece
// 4 h + 2 c + e has the columns 64 h + 32 e + 16 c .. + 15 as they are. 4 bits: piece 4 h + j has the words
// 16 h + j + 0, 8, 4, 12, a word's bytes the columns 0, 2, 1, 3. So lanes l and l ^ 1, or l ^ 8, exchange a word, and
// each writes two neighbours.
#include <algorithm>

#include "cuda/kernels/common.cuh"
#include "cuda/kernels/e4m3_pairs.cuh"
#include "cuda/kernels/fp8_quantise.cuh"

namespace minimo::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

constexpr float kLeastUnit = 1e-30f;  // a unit with nothing above it is zero

struct Quantised {
  uint2 words;  // two of the piece that this lane writes
  float scale;  // of the unit
  float sum;    // of this lane's half: of lanes 0..7 the first
};

__device__ __forceinline__ float largest(float4 v) {
  return fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w)));
}
__device__ __forceinline__ float4 times(float4 v, float4 w) { return {v.x * w.x, v.y * w.y, v.z * w.z, v.w * w.w}; }

// v: this lane's words of the two halves.
__device__ __forceinline__ Quantised quantise(const float4 (&v)[2], bool int4) {
  float most = fmaxf(largest(v[0]), largest(v[1]));
#pragma unroll
  for (int offset = 1; offset < 16; offset <<= 1) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, offset));
  const float inverse = most > kLeastUnit ? __fdividef(kMostE4m3, most) : 0.0f;
  uint32_t word[2];
  float sums[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const uint32_t low = to_e4m3x2(v[h].x * inverse, (int4 ? v[h].z : v[h].y) * inverse);
    const uint32_t high = to_e4m3x2((int4 ? v[h].y : v[h].z) * inverse, v[h].w * inverse);
    word[h] = low | high << 16;
    sums[h] = int4 ? sum_e4m3x2(low) + sum_e4m3x2(high) : 0.0f;
  }
  const int partner = int4 ? 8 : 1;
  const bool second = (threadIdx.x & partner) != 0;  // writes a piece of the second half
  const uint32_t other = __shfl_xor_sync(0xffffffffu, second ? word[0] : word[1], partner);
  float sum = 0;
  if (int4) {
    sum = (second ? sums[1] : sums[0]) + __shfl_xor_sync(0xffffffffu, second ? sums[0] : sums[1], 8);
#pragma unroll
    for (int offset = 1; offset < 8; offset <<= 1) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  }
  return {second ? uint2{other, word[1]} : uint2{word[0], other}, most * (1.0f / kMostE4m3), sum};
}

__device__ __forceinline__ void put_values(const Fp8Activations& out, int unit, int row, uint2 words) {
  const bool int4 = out.offsets != nullptr;
  const int l = threadIdx.x % 16;
  const int piece = int4 ? l / 8 * 4 + l % 4 : l % 2 * 4 + l / 4 % 2 * 2 + l / 8, pair = int4 ? l / 4 % 2 : l / 2 % 2;
  uint8_t* to = out.values + (int64_t{unit} * out.rows + row) * 128;
  *reinterpret_cast<uint2*>(to + (piece ^ (row % 8)) * 16 + pair * 8) = words;
}
// What a unit's lanes hold of a row: `factor` multiplies what the row stands for.
struct Scales {
  float scale;
  uint2 offsets;
};
__device__ __forceinline__ Scales scales_of(const Fp8Activations& out, const Quantised& q, float factor) {
  const float scale = q.scale * factor;
  if (out.offsets == nullptr) return {scale, {0, 0}};
  const float mine = -8.0f * scale * q.sum;
  const float sum[2] = {__shfl_sync(0xffffffffu, mine, 0, 16), __shfl_sync(0xffffffffu, mine, 8, 16)};
  const float first[2] = {__bfloat162float(__float2bfloat16(sum[0])), __bfloat162float(__float2bfloat16(sum[1]))};
  return {scale * Fp8Activations::kInt4Scale,
          {pack_bf16(first[0], first[1]), pack_bf16(sum[0] - first[0], sum[1] - first[1])}};
}
__device__ __forceinline__ void put_scales(const Fp8Activations& out, int unit, int row, const Scales& s) {
  const int64_t at = int64_t{unit} * out.rows + row;
  out.scales[at] = s.scale;
  if (out.offsets != nullptr) out.offsets[at] = s.offsets;
}

__device__ __forceinline__ float4 widen(float4 v) { return v; }
__device__ __forceinline__ float4 widen(uint2 v) {
  return {__uint_as_float(v.x << 16), __uint_as_float(v.x & 0xffff0000), __uint_as_float(v.y << 16),
          __uint_as_float(v.y & 0xffff0000)};
}

// Tiles of an expert are of one width; those of 128 tokens are paid for in 64s (fp8_wide.cu), so they are as wide as
// they may be. The widest come first, then by expert: blocks take them in turns, so that each
// gets as many wide ones and what is left at the end is short.
__device__ void list_tiles(const QuantiseParams& p) {
  __shared__ int2 listed[kThreads];  // width, parts
  const int a = threadIdx.x, active = load_l2(p.num_active);
  int begin = 0, end = 0, first = 0, width = 0, parts = 0;
  if (a < active) {
    begin = load_l2(p.offsets + a), end = load_l2(p.offsets + a + 1);
    first = begin & ~7;
    parts = (end - first + p.tile_tokens - 1) / p.tile_tokens;
    if (parts > 0) width = p.tile_tokens % 64 == 0 ? p.tile_tokens : ((end - first + parts - 1) / parts + 7) / 8 * 8;
  }
  listed[a] = {width, parts};
  __syncthreads();
  int before = 0, all = 0;
#pragma unroll 8
  for (int b = 0; b < kThreads; ++b) {
    const int2 other = listed[b];
    all += other.y;
    if (other.x > width || (other.x == width && b < a)) before += other.y;
  }
  if (a == 0) *p.num_tiles = all;
  if (parts == 0) return;
  const int expert = load_l2(p.active + a);
  for (int i = 0; i < parts; ++i) {
    const int from = first + i * width;
    p.tiles[before + i] = {expert, from, max(from, begin), min(from + width, end)};
  }
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
    const Quantised q = quantise(v, p.out.offsets != nullptr);
    const Scales scales = scales_of(p.out, q, factor);
    const bool mine = unit < p.units;
    if (p.slot_of == nullptr) {
      if (mine) put_values(p.out, unit, token, q.words);
      if (mine && l == 0) put_scales(p.out, unit, token, scales);
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
      if (slot >= 0) put_scales(p.out, unit, slot, scales);
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
      held[i] = quantise(x, p.out.offsets != nullptr);
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
    const Scales scales = scales_of(p.out, held[i], factor);
    if (unit < units && l == 0) put_scales(p.out, unit, token, scales);
  }
}

}  // namespace

cudaError_t LaunchQuantise(const QuantiseParams& p, cudaStream_t stream) {
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
