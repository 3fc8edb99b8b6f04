// Matrix times many tokens on the tensor cores, from the same weight tiles as stream_linear. A warp owns kRows tiles of
// 16 rows and expands their weights in registers once for all tokens of the block's tile; x is shared by the 8 warps.
// Both stream through a ring of units of 128 columns. FP8 block scales multiply the float32 sums of a unit.
//
// x in shared memory: [tokens][16 pieces of 16 bytes]; piece (t, p), columns 32 t + 8 p .., lies at
// 8 * (p / 2) + ((t + 4 * (p % 2)) ^ 4 * (row % 2)), so the 8 lanes (2 rows x 4 t) of a 16-byte read hit distinct
// banks.
// Shared memory a stage: x 8 or 16 KB + weights 8 * kRows * (4, 2 or 1.1 KB): at most 160 KB in all.
#include "cuda/kernels/common.cuh"
#include "cuda/kernels/dequant.cuh"
#include "cuda/kernels/fp8_unit.cuh"
#include "cuda/kernels/tile_linear.cuh"

namespace minimo::cuda {
namespace {

constexpr int kWarps = 8;

constexpr int Stages(TileFormat f) { return f == TileFormat::kBf16 ? 2 : f == TileFormat::kFp8 ? 3 : 4; }

template <TileFormat kF, int kRows, int kN>
struct Stage {
  static constexpr int kLaneBytes = UnitBytes(kF) / 32;
  static constexpr int kScaleBytes = kF == TileFormat::kInt4 ? 4 : 0;
  static constexpr int kXBytes = 8 * kN * 256;
  static constexpr int kBytes = kXBytes + kWarps * 32 * kRows * (kLaneBytes + kScaleBytes);

  uint8_t* base;
  __device__ uint8_t* x(int token, int t, int p) const {
    return base + token * 256 + (8 * (p / 2) + ((t + 4 * (p % 2)) ^ (4 * (token % 2)))) * 16;
  }
  __device__ uint8_t* chunk(int row, int c) const {
    return base + kXBytes + ((row * (kLaneBytes / 16) + c) * kWarps * 32 + threadIdx.x) * 16;
  }
  __device__ uint8_t* scale(int row) const {
    return base + kXBytes + kWarps * 32 * kRows * kLaneBytes + (row * kWarps * 32 + threadIdx.x) * 4;
  }
};

// One output, rows g (value) and, of gate/up tiles, g + 8 (up).
__device__ __forceinline__ void emit(const LinearParams& p, int slot, int row, float value) {
  if (row >= p.out_rows) return;
  if (p.epilogue == Epilogue::kSlot) value *= __ldcg(p.slot_weight + slot);
  p.out[int64_t{slot} * p.out_stride + row] = value;
}

// Rows g and g + 8 of one tile for one token; all 8 lanes of equal t call it together.
__device__ __forceinline__ void emit_pair(const LinearParams& p, int tile, int slot, bool live, float top, float bottom,
                                          float norm) {
  const int lane = threadIdx.x % 32, g = lane / 4;
  if (p.epilogue == Epilogue::kSwiGlu) {
    const int row = tile * 8 + g;
    if (!live || row >= p.out_rows) return;
    const float gate = top * norm, up = bottom * norm;
    store(static_cast<bf16*>(p.out_x) + int64_t{slot} * p.out_x_stride + row, gate / (1.0f + __expf(-gate)) * up);
    return;
  }
  float squares = 0;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = tile * kTileRows + g + 8 * half;
    float value = half == 0 ? top : bottom;
    if (!live || row >= p.out_rows) continue;
    if (p.epilogue == Epilogue::kResidual) {
      float* r = p.residual + int64_t{slot} * p.out_rows + row;
      value += __ldcg(r);
      *r = value;
      if (p.next_norm != nullptr) {
        store(static_cast<bf16*>(p.next_x) + int64_t{slot} * p.next_x_stride + row, value * __ldg(p.next_norm + row));
      }
    } else {
      value *= norm;
      emit(p, slot, row, value);
    }
    squares += value * value;
  }
  if (p.next_square_sums != nullptr) {
#pragma unroll
    for (int offset = 4; offset < 32; offset <<= 1) squares += __shfl_xor_sync(0xffffffffu, squares, offset);
    if (g == 0 && live) p.next_square_sums[int64_t{slot} * p.shape.tiles + tile] = squares;
  }
}

template <TileFormat kF, int kRows, int kN>
__global__ void __launch_bounds__(kWarps * 32, kRows == 1 ? 2 : 1) tile_linear(const LinearParams p) {
  using Stage = Stage<kF, kRows, kN>;
  constexpr int kStages = Stages(kF), kTokens = 8 * kN;
  constexpr int kUnit = UnitBytes(kF);
  extern __shared__ __align__(128) uint8_t smem[];
  __shared__ float norm[kTokens];
  __shared__ int rows[kTokens];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int units = p.shape.units, first_tile = (blockIdx.x * kWarps + warp) * kRows;
  const uint8_t* weights = p.weights;
  const uint8_t* scales = p.scales;
  const int scale_bytes = UnitScaleBytes(kF, p.shape.group_cols);
  const auto stage = [&](int u) { return Stage{smem + u % kStages * Stage::kBytes}; };
  const auto request_weights = [&](int u) {
    const Stage s = stage(u);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int64_t at = int64_t{min(first_tile + r, p.shape.tiles - 1)} * units + u;
#pragma unroll
      for (int c = 0; c < kUnit / 512; ++c) {
        copy_async16(s.chunk(r, c), weights + at * kUnit + c * 512 + lane_share<kF>());
      }
      if constexpr (kF == TileFormat::kInt4) {
        copy_async4(s.scale(r), scales + at * scale_bytes + (t * 32 / p.shape.group_cols * 8 + g) * 4);
      }
    }
  };

  int first = blockIdx.y * kTokens, last = min(first + kTokens, p.tokens);
  if (p.mode == LinearMode::kExperts) {
    wait_previous_kernel();
    allow_next_kernel();
    if (static_cast<int>(blockIdx.y) >= load_l2(p.num_active)) return;
    const int expert = load_l2(p.active + blockIdx.y);
    weights += expert * p.expert_weight_bytes;
    scales += expert * p.expert_scale_bytes;
    first = load_l2(p.offsets + blockIdx.y), last = load_l2(p.offsets + blockIdx.y + 1);
  } else {
    allow_next_kernel();
    wait_previous_kernel();
  }

  for (; first < last; first += kTokens) {
    const int count = min(last - first, kTokens);
    __syncthreads();  // the last pass is done with rows and the ring
    for (int n = threadIdx.x; n < kTokens; n += kWarps * 32) {
      rows[n] = n < count ? (p.slot_token != nullptr ? load_l2(p.slot_token + first + n) : first + n) : -1;
    }
    __syncthreads();
    const auto request = [&](int u) {
      if (u < units) {
        request_weights(u);
        const Stage s = stage(u);
#pragma unroll
        for (int i = 0; i < kTokens * 16 / (kWarps * 32); ++i) {
          const int at = i * kWarps * 32 + threadIdx.x, token = at / 16, piece = at % 16;
          const int row = rows[token];
          const uint8_t* from = static_cast<const uint8_t*>(p.x) +
                                (int64_t{max(row, 0)} * p.x_stride + u * kUnitCols + piece * 8) * 2;
          copy_async16_or_zero(s.x(token, piece / 4, piece % 4), from, row >= 0);
        }
      }
      copy_commit();
    };
#pragma unroll
    for (int u = 0; u < kStages - 1; ++u) request(u);
    for (int n = warp; n < kTokens; n += kWarps) {
      float factor = 1;
      if (p.square_sums != nullptr && n < count) {
        const float* squares = p.square_sums + int64_t{rows[n]} * p.square_sum_count;
        float sum = 0;
        for (int i = lane; i < p.square_sum_count; i += 32) sum += load_l2(squares + i);
        factor = rsqrtf(warp_sum(sum) / static_cast<float>(p.norm_cols) + p.norm_eps);
      }
      if (lane == 0) norm[n] = factor;
    }

    float sums[kRows][kN][4] = {};
    for (int u = 0; u < units; ++u) {
      copy_wait<kStages - 2>();
      __syncthreads();
      request(u + kStages - 1);
      const Stage s = stage(u);
      float part[kF == TileFormat::kFp8 ? kRows : 1][kF == TileFormat::kFp8 ? kN : 1][4] = {};
      float2 scale[kRows];
      uint32_t group_scale[kRows][2];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if constexpr (kF == TileFormat::kFp8) {
          const int64_t at = int64_t{min(first_tile + r, p.shape.tiles - 1)} * units + u;
          scale[r] = __ldg(reinterpret_cast<const float2*>(scales) + at);
        }
        if constexpr (kF == TileFormat::kInt4) {
          const uint32_t pair = *reinterpret_cast<const uint32_t*>(s.scale(r));
          group_scale[r][0] = __byte_perm(pair, pair, 0x1010), group_scale[r][1] = __byte_perm(pair, pair, 0x3232);
        }
      }
      Fp8Steps fp8[kRows];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        uint4 b[kN];
#pragma unroll
        for (int n = 0; n < kN; ++n) b[n] = *reinterpret_cast<const uint4*>(s.x(8 * n + g, t, i));
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          uint32_t a[2][4];
          if constexpr (kF == TileFormat::kBf16) {
#pragma unroll
            for (int h = 0; h < 2; ++h) {
              const uint4 w = *reinterpret_cast<const uint4*>(s.chunk(r, 2 * i + h));
              a[h][0] = w.x, a[h][1] = w.y, a[h][2] = w.z, a[h][3] = w.w;
            }
          } else if constexpr (kF == TileFormat::kFp8) {
            if (i % 2 == 0) {
              fp8[r] = {*reinterpret_cast<const uint4*>(s.chunk(r, i / 2)),
                        *reinterpret_cast<const uint4*>(s.chunk(r, 2 + i / 2))};
            }
#pragma unroll
            for (int h = 0; h < 2; ++h) {
              expand_fp8(word_of(fp8[r].top, i % 2 * 2 + h), word_of(fp8[r].bottom, i % 2 * 2 + h), a[h]);
            }
          } else {
            const uint2 w = *(reinterpret_cast<const uint2*>(s.chunk(r, i / 2)) + i % 2);
            expand_int4(w.x, group_scale[r][0], group_scale[r][1], a[0]);
            expand_int4(w.y, group_scale[r][0], group_scale[r][1], a[1]);
          }
#pragma unroll
          for (int n = 0; n < kN; ++n) {
            float(&d)[4] = kF == TileFormat::kFp8 ? part[kF == TileFormat::kFp8 ? r : 0][kF == TileFormat::kFp8 ? n : 0]
                                                  : sums[r][n];
            mma_bf16(d, a[0], b[n].x, b[n].y);
            mma_bf16(d, a[1], b[n].z, b[n].w);
          }
        }
      }
      if constexpr (kF == TileFormat::kFp8) {
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
#pragma unroll
          for (int n = 0; n < kN; ++n) {
            sums[r][n][0] += scale[r].x * part[r][n][0], sums[r][n][1] += scale[r].x * part[r][n][1];
            sums[r][n][2] += scale[r].y * part[r][n][2], sums[r][n][3] += scale[r].y * part[r][n][3];
          }
        }
      }
    }
    copy_wait<0>();
    __syncthreads();
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (first_tile + r >= p.shape.tiles) break;
#pragma unroll
      for (int n = 0; n < kN; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int token = 8 * n + 2 * t + i;
          emit_pair(p, first_tile + r, first + token, token < count, sums[r][n][i], sums[r][n][2 + i], norm[token]);
        }
      }
    }
  }
}

template <TileFormat kF, int kRows, int kN>
cudaError_t LaunchOne(const LinearParams& p, cudaStream_t stream) {
  constexpr int kSmem = Stages(kF) * Stage<kF, kRows, kN>::kBytes;
  static const cudaError_t configured =
      cudaFuncSetAttribute(tile_linear<kF, kRows, kN>, cudaFuncAttributeMaxDynamicSharedMemorySize, kSmem);
  if (configured != cudaSuccess) return configured;
  const int down = p.mode == LinearMode::kExperts ? p.max_active : (p.tokens + 8 * kN - 1) / (8 * kN);
  const dim3 grid((p.shape.tiles + kWarps * kRows - 1) / (kWarps * kRows), down);
  return Launch(tile_linear<kF, kRows, kN>, grid, dim3(kWarps * 32), kSmem, stream, p);
}

template <TileFormat kF>
cudaError_t LaunchFormat(const LinearParams& p, cudaStream_t stream) {
  if (p.mode == LinearMode::kExperts) {
    const bool few = static_cast<int64_t>(p.tokens) * p.top_k <= 36 * int64_t{p.max_active};  // most fit 32 tokens
    return few ? LaunchOne<kF, 1, 4>(p, stream) : LaunchOne<kF, 1, 8>(p, stream);
  }
  return LaunchOne<kF, 1, 8>(p, stream);
}

}  // namespace

cudaError_t LaunchTileLinear(const LinearParams& p, cudaStream_t stream) {
  switch (p.shape.format) {
    case TileFormat::kBf16: return LaunchFormat<TileFormat::kBf16>(p, stream);
    case TileFormat::kFp8: return LaunchFormat<TileFormat::kFp8>(p, stream);
    case TileFormat::kInt4: return LaunchFormat<TileFormat::kInt4>(p, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace minimo::cuda
