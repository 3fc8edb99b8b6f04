// Activations for 4-bit weights: e4m3 with a scale for a chunk of 8 units (1,024 columns) of a row, so that what
// promotes a product every 64 columns (fp8_int4.cu) needs the weights' scales alone. e4m3 has exponents of its own:
// down to 2^-14 of the chunk's largest a value is as precise as with a scale of its own, but for the largest of 128
// columns, which with a scale of theirs is exact.
//
// A warp takes a chunk of a row, sixteen lanes a unit, two units at a time; a lane has a word (four columns) of each
// half of a unit: l and l + 16. In a unit's 128 bytes piece 4 h + j has the words 16 h + j + 0, 8, 4, 12, a word's
// bytes the columns 0, 2, 1, 3, as fp8_int4's lanes hold the weights. So lanes l and l ^ 8 exchange a word, and each
// writes two neighbours.
#include "cuda/kernels/quantise_common.cuh"

namespace minimo::cuda {
namespace {

constexpr int kWarps = kQuantiseThreads / 32;
constexpr int kPasses = kChunkUnits / 2;
constexpr float kLeastShare = 0x1p-20f;  // of the row's largest, for a chunk's scale

// Two words of the piece that this lane writes, and the sums of both halves' values.
struct Unit {
  uint2 words;
  float sums[2];
};

__device__ __forceinline__ Unit quantise(const float4 (&v)[2], float inverse) {
  uint32_t word[2];
  float sums[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const uint32_t low = to_e4m3x2(v[h].x * inverse, v[h].z * inverse);
    const uint32_t high = to_e4m3x2(v[h].y * inverse, v[h].w * inverse);
    word[h] = low | high << 16;
    sums[h] = sum_e4m3x2(low) + sum_e4m3x2(high);
  }
  const bool second = threadIdx.x / 8 % 2 != 0;  // writes a piece of the second half
  const uint32_t other = __shfl_xor_sync(0xffffffffu, second ? word[0] : word[1], 8);
  float sum = (second ? sums[1] : sums[0]) + __shfl_xor_sync(0xffffffffu, second ? sums[0] : sums[1], 8);
#pragma unroll
  for (int offset = 1; offset < 8; offset <<= 1) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  const float mate = __shfl_xor_sync(0xffffffffu, sum, 8);
  return {second ? uint2{other, word[1]} : uint2{word[0], other}, {second ? mate : sum, second ? sum : mate}};
}

// Loaded: uint2, four columns of bf16, or float4 of the residual.
template <typename Loaded>
__global__ void __launch_bounds__(kQuantiseThreads, 3) quantise_chunks(const QuantiseParams p) {
  constexpr bool kNormed = sizeof(Loaded) == 16;
  allow_next_kernel();
  wait_previous_kernel();
  if (p.tiles != nullptr && blockIdx.x == 0) return list_tiles(p);
  __shared__ float largest_of[kWarps];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, l = lane % 16;
  const int chunks = (p.units + kChunkUnits - 1) / kChunkUnits, rows = kWarps / chunks;
  const int row = (blockIdx.x - (p.tiles != nullptr ? 1 : 0)) * rows + warp / chunks;
  const int token = min(row, p.tokens - 1), chunk = warp < rows * chunks ? warp % chunks : chunks;  // none
  const int first = chunk * kChunkUnits + lane / 16;
  Loaded loaded[kPasses][2];
#pragma unroll
  for (int i = 0; i < kPasses; ++i) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int col = min((first + 2 * i) * kUnitCols + l * 4 + 64 * h, p.cols - 4);
      const void* from = kNormed ? static_cast<const void*>(p.residual + int64_t{token} * p.cols + col)
                                 : static_cast<const bf16*>(p.x) + int64_t{token} * p.x_stride + col;
      loaded[i][h] = __ldcg(static_cast<const Loaded*>(from));
    }
  }
  float squares = 0;
  if (p.square_sums != nullptr) {
    const float* sums = p.square_sums + int64_t{token} * p.square_sum_count;
    for (int s = lane; s < p.square_sum_count; s += 32) squares += load_l2(sums + s);
  }
  float4 v[kPasses][2];
  float most = 0;
#pragma unroll
  for (int i = 0; i < kPasses; ++i) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int col = (first + 2 * i) * kUnitCols + l * 4 + 64 * h;
      v[i][h] = widen(loaded[i][h]);
      if (kNormed) {
        v[i][h] = times(v[i][h], __ldg(reinterpret_cast<const float4*>(p.norm_weight + min(col, p.cols - 4))));
      }
      if (col >= p.cols) v[i][h] = {0, 0, 0, 0};
      most = fmaxf(most, largest(v[i][h]));
    }
  }
#pragma unroll
  for (int offset = 1; offset < 32; offset <<= 1) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, offset));
  if (lane == 0) largest_of[warp] = most;
  __syncthreads();
  if (chunk == chunks || row >= p.tokens) return;
  float row_most = most;
  for (int i = 0; i < chunks; ++i) row_most = fmaxf(row_most, largest_of[warp - chunk + i]);
  const float least = row_most > kLeastUnit ? row_most * kLeastShare : 1.0f;
  most = fmaxf(most, least);
  const float inverse = __fdividef(kMostE4m3, most);
  // What the chunk's sums are multiplied with: it gives them the next one's scale, in the end their own.
  float scale = most * (Fp8Activations::kInt4Scale / kMostE4m3);
  if (chunk + 1 < chunks) {
    scale = __fdividef(most, fmaxf(largest_of[warp + 1], least));
  } else if (p.square_sums != nullptr) {
    scale *= rsqrtf(warp_sum(squares) / static_cast<float>(p.norm_cols) + p.norm_eps);
  }
  // Lane l keeps the offsets of its units' pass l % 4: unit 4 step + t of the chunk is at 16 t + 8 step.
  Unit units[kPasses];
  uint2 offsets = {0, 0};
#pragma unroll
  for (int i = 0; i < kPasses; ++i) {
    units[i] = quantise(v[i], inverse);
    const float o[2] = {units[i].sums[0] * Fp8Activations::kOffset, units[i].sums[1] * Fp8Activations::kOffset};
    const float whole[2] = {__bfloat162float(__float2bfloat16(o[0])), __bfloat162float(__float2bfloat16(o[1]))};
    if (l % 4 == i) offsets = {pack_bf16(whole[0], whole[1]), pack_bf16(o[0] - whole[0], o[1] - whole[1])};
  }
  const int unit_in_chunk = l % 4 * 2 + lane / 16, offset_at = unit_in_chunk % 4 * 2 + unit_in_chunk / 4;
  const int piece = l / 8 * 4 + l % 4, pair = l / 4 % 2, top_k = p.slot_of != nullptr ? p.top_k : 1;
  const auto put = [&](int to_row) {
    if (to_row < 0) return;
#pragma unroll
    for (int i = 0; i < kPasses; ++i) {
      const int unit = first + 2 * i;
      uint8_t* to = p.out.values + (int64_t{unit} * p.out.rows + to_row) * 128;
      if (unit < p.units) *reinterpret_cast<uint2*>(to + (piece ^ (to_row % 8)) * 16 + pair * 8) = units[i].words;
    }
    const int64_t chunk_row = int64_t{chunk} * p.out.rows + to_row;
    if (l < 4) p.out.offsets[chunk_row * kChunkUnits + offset_at] = offsets;
    if (lane == 0) p.out.scales[chunk_row] = scale;
  };
  if (p.slot_of == nullptr) return put(token);
  for (int from = 0; from < top_k; from += 32) {  // a lane a slot
    const int count = min(32, top_k - from);
    const int slot = lane < count ? load_l2(p.slot_of + token * top_k + from + lane) : -1;
#pragma unroll 4
    for (int k = 0; k < count; ++k) put(__shfl_sync(0xffffffffu, slot, k));
  }
}

}  // namespace

cudaError_t LaunchQuantiseChunks(const QuantiseParams& p, cudaStream_t stream) {
  const int rows = kWarps / ((p.units + kChunkUnits - 1) / kChunkUnits);
  const auto kernel = p.x != nullptr ? quantise_chunks<uint2> : quantise_chunks<float4>;
  return Launch(kernel, dim3((p.tokens + rows - 1) / rows + (p.tiles != nullptr ? 1 : 0)), dim3(kQuantiseThreads), 0,
                stream, p);
}

}  // namespace minimo::cuda
