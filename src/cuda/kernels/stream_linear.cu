// Matrix times few tokens, bound by memory (one token: stream_token.cu). One block owns one tile of 16 rows over all
// columns, its warps split the columns; every lane copies its own 16-byte shares of the weights into a ring of its own
// in shared memory, so the stream needs no barrier at all. Ideas:
// - Dense weights are requested before wait_previous_kernel: with programmatic dependent launch the memory stays busy
//   while the previous kernels drain. Expert weights are requested as soon as the router's choice is known.
// - bf16 activations: mma m16n8k16, weights as A (expanded in registers), tokens as the 8 columns of B. Scales of FP8
//   blocks multiply the float32 sums of a unit, so weights stay exact.
// - float32 activations: the same walk with FMA; slow, exact, for verification.
// - Up to 16 tokens a pass the next unit's x is in registers while this one's is used.
// Shared memory: warps * 32 lanes * stages * bytes a lane and unit (FP8 64, 4 bits 36, bf16 128, float32 256), 36 to
// 64 KB a block of 8 warps, half for experts (4 warps), so several blocks, of this kernel and of the next, share an SM.
#include "cuda/kernels/common.cuh"
#include "cuda/kernels/dequant.cuh"
#include "cuda/kernels/fp8_unit.cuh"
#include "cuda/kernels/linear_rows.cuh"

namespace minimo::cuda {
namespace {

constexpr int LaneBytes(TileFormat f) { return UnitBytes(f) / 32; }
constexpr int LaneScaleBytes(TileFormat f) { return f == TileFormat::kInt4 ? 4 : 0; }
constexpr int Stages(TileFormat f) {
  return f == TileFormat::kF32 ? 1 : f == TileFormat::kBf16 ? 2 : f == TileFormat::kFp8 ? 3 : 4;
}

// One warp's view of the weights of one unit in the ring, and the way there.
template <TileFormat kF, int kWarps>
struct Ring {
  static constexpr int kStageBytes = kWarps * 32 * (LaneBytes(kF) + LaneScaleBytes(kF));

  uint8_t* base;  // of this block
  __device__ uint8_t* chunk(int stage, int c) const {
    return base + stage * kStageBytes + (c * kWarps * 32 + threadIdx.x) * 16;
  }
  __device__ Fp8Steps steps(int stage, int c) const {  // FP8: 4 c .. 4 c + 3
    return {*reinterpret_cast<const uint4*>(chunk(stage, c)), *reinterpret_cast<const uint4*>(chunk(stage, 2 + c))};
  }
  __device__ uint8_t* scale(int stage) const {
    return base + stage * kStageBytes + kWarps * 32 * LaneBytes(kF) + threadIdx.x * 4;
  }
  __device__ void request(int stage, const uint8_t* weights, const uint8_t* scales, int group_cols) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int c = 0; c < LaneBytes(kF) / 16; ++c) copy_async16(chunk(stage, c), weights + c * 512 + lane_share<kF>());
    if constexpr (kF == TileFormat::kInt4) {
      const int group = (lane % 4) * 32 / group_cols;
      copy_async4(scale(stage), scales + (group * 8 + lane / 4) * 4);
    }
  }
};

// Sums of one unit for kN tiles of 8 tokens, bf16. b(n, p): this lane's columns 8p .. 8p + 7 of its 32 for token 8n +
// g.
template <TileFormat kF, int kN, int kWarps, typename Columns>
__device__ __forceinline__ void multiply_unit(const Ring<kF, kWarps>& ring, int stage, Columns columns,
                                              float (&part)[kN][4]) {
  uint32_t scale_g = 0, scale_g8 = 0;
  if constexpr (kF == TileFormat::kInt4) {
    const uint32_t pair = *reinterpret_cast<const uint32_t*>(ring.scale(stage));
    scale_g = __byte_perm(pair, pair, 0x1010);
    scale_g8 = __byte_perm(pair, pair, 0x3232);
  }
  Fp8Steps fp8 = {};
#pragma unroll
  for (int p = 0; p < 4; ++p) {  // 8 columns a lane, two steps of mma
    uint4 b[kN];
#pragma unroll
    for (int n = 0; n < kN; ++n) b[n] = columns(n, p);
    uint32_t a[2][4];
    if constexpr (kF == TileFormat::kBf16) {
#pragma unroll
      for (int s = 0; s < 2; ++s) {
        const uint4 w = *reinterpret_cast<const uint4*>(ring.chunk(stage, 2 * p + s));
        a[s][0] = w.x, a[s][1] = w.y, a[s][2] = w.z, a[s][3] = w.w;
      }
    } else if constexpr (kF == TileFormat::kFp8) {
      if (p % 2 == 0) fp8 = ring.steps(stage, p / 2);
#pragma unroll
      for (int s = 0; s < 2; ++s) {
        expand_fp8(word_of(fp8.top, p % 2 * 2 + s), word_of(fp8.bottom, p % 2 * 2 + s), a[s]);
      }
    } else {
      const uint2 w = *(reinterpret_cast<const uint2*>(ring.chunk(stage, p / 2)) + p % 2);
      expand_int4(w.x, scale_g, scale_g8, a[0]);
      expand_int4(w.y, scale_g, scale_g8, a[1]);
    }
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      mma_bf16(part[n], a[0], b[n].x, b[n].y);
      mma_bf16(part[n], a[1], b[n].z, b[n].w);
    }
  }
}

// The same with float32 activations: sums[n][half] of token n (0..7) over this lane's columns.
template <TileFormat kF, int kWarps>
__device__ __forceinline__ void multiply_unit_f32(const Ring<kF, kWarps>& ring, int stage, const uint8_t* const (&x)[8],
                                                  int tokens, float (&sums)[8][2]) {
  float scale[2] = {1, 1};
  if constexpr (kF == TileFormat::kInt4) {
    const bf16* pair = reinterpret_cast<const bf16*>(ring.scale(stage));
    scale[0] = to_float(pair[0]), scale[1] = to_float(pair[1]);
  }
  Fp8Steps fp8 = {};
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    float w[2][4];  // [row g, row g + 8][element]
    if constexpr (kF == TileFormat::kF32) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float4 v = *reinterpret_cast<const float4*>(ring.chunk(stage, 2 * j + half));
        w[half][0] = v.x, w[half][1] = v.y, w[half][2] = v.z, w[half][3] = v.w;
      }
    } else if constexpr (kF == TileFormat::kBf16) {
      exact_bf16(*reinterpret_cast<const uint4*>(ring.chunk(stage, j)), w);
    } else if constexpr (kF == TileFormat::kFp8) {
      if (j % 4 == 0) fp8 = ring.steps(stage, j / 4);
      exact_fp8(word_of(fp8.top, j % 4), word_of(fp8.bottom, j % 4), w);
    } else {
      exact_int4(*(reinterpret_cast<const uint32_t*>(ring.chunk(stage, j / 4)) + j % 4), scale, w);
    }
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      if (n >= tokens) break;
      const float4 v = load_l2(reinterpret_cast<const float4*>(x[n]) + j);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        sums[n][half] += w[half][0] * v.x + w[half][1] * v.y + w[half][2] * v.z + w[half][3] * v.w;
      }
    }
  }
}

// Writes one tile's outputs for `count` tokens from the warps' sums red[warp][token][16].
template <typename Act, int kTokens, int kWarps>
__device__ __forceinline__ void finish_tile(const LinearParams& p, int tile, int first, int count, const float* red,
                                            const float* norm) {
  for (int o = threadIdx.x; o < kTokens * 16; o += kWarps * 32) {
    const int n = o / 16, i = o % 16;
    const bool live = n < count;
    if (p.epilogue == Epilogue::kSwiGlu) {
      if (!live || i >= 8) continue;
      float gate = 0, up = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        gate += red[(w * kTokens + n) * 16 + i];
        up += red[(w * kTokens + n) * 16 + i + 8];
      }
      gate *= norm[n], up *= norm[n];
      const int row = tile * 8 + i;
      if (row < p.out_rows) {
        store(static_cast<Act*>(p.out_x) + int64_t{first + n} * p.out_x_stride + row,
              gate / (1.0f + __expf(-gate)) * up);
      }
      continue;
    }
    float y = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) y += red[(w * kTokens + n) * 16 + i];
    const int row = tile * kTileRows + i;
    const bool write = live && row < p.out_rows;
    float value = 0;  // whose squares are summed
    if (p.epilogue == Epilogue::kStore) {
      value = write ? y * norm[n] : 0.0f;
      if (write) p.out[int64_t{first + n} * p.out_stride + row] = value;
    } else if (p.epilogue == Epilogue::kSlot) {
      if (write) p.out[int64_t{first + n} * p.out_stride + row] = y * p.slot_weight[first + n];
    } else if (write) {
      float* r = p.residual + int64_t{first + n} * p.out_rows + row;
      const float weight = p.next_norm != nullptr ? __ldg(p.next_norm + row) : 0.0f;
      value = __ldcg(r) + y;
      *r = value;
      if (p.next_norm != nullptr) {
        store(static_cast<Act*>(p.next_x) + int64_t{first + n} * p.next_x_stride + row, value * weight);
      }
    }
    if (p.next_square_sums != nullptr) {  // 16 lanes hold the 16 rows of one token
      float square = value * value;
#pragma unroll
      for (int offset = 8; offset > 0; offset >>= 1) {
        square += __shfl_xor_sync(0xffffu << (threadIdx.x & 16), square, offset);
      }
      if (i == 0 && live) p.next_square_sums[int64_t{first + n} * p.shape.tiles + tile] = square;
    }
  }
}

// Scales of FP8 units: lane l holds those of unit from + l.
struct HeldScales {
  float first = 1, second = 1;
  int from = -64;

  __device__ __forceinline__ void load(const LinearParams& p, const uint8_t* scales, bool fused, int u, int end) {
    from = u;
    const int mine = u + static_cast<int>(threadIdx.x % 32);
    if (mine >= end) return;
    const int slot = fused ? mine / p.shape.units : 0;
    const int64_t expert = fused ? load_l2(p.active + slot) * p.expert_scale_bytes : 0;
    const float2 pair = *(reinterpret_cast<const float2*>(scales + expert) + (mine - slot * p.shape.units));
    first = pair.x, second = pair.y;
  }
};

// kN: tiles of 8 tokens a pass.
template <typename Act, TileFormat kF, int kN, int kWarps>
__global__ void __launch_bounds__(kWarps * 32) stream_linear(const LinearParams p) {
  constexpr bool kExact = sizeof(Act) == 4;
  constexpr int kTokens = 8 * kN;
  constexpr int kStages = Stages(kF);
  extern __shared__ __align__(16) uint8_t smem[];
  __shared__ float norm[kTokens];
  const Ring<kF, kWarps> ring{smem};
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int tile = blockIdx.x, units = p.shape.units;
  const bool fused = p.mode == LinearMode::kFusedDown;
  const int all_units = fused ? units * p.top_k : units;
  const int begin = all_units * warp / kWarps, end = all_units * (warp + 1) / kWarps;

  const uint8_t* weights = p.weights + int64_t{tile} * units * UnitBytes(kF);
  const uint8_t* scales = p.scales + int64_t{tile} * units * UnitScaleBytes(kF, p.shape.group_cols);
  const auto request = [&](int u) {
    if (u < end) {
      const uint8_t* w = weights;
      const uint8_t* s = scales;
      int column_unit = u;
      if (fused) {
        const int slot = u / units, expert = load_l2(p.active + slot);
        column_unit = u - slot * units;
        w += expert * p.expert_weight_bytes;
        s += expert * p.expert_scale_bytes;
      }
      ring.request((u - begin) % kStages, w + int64_t{column_unit} * UnitBytes(kF),
                   s + int64_t{column_unit} * UnitScaleBytes(kF, p.shape.group_cols), p.shape.group_cols);
    }
    copy_commit();
  };
  const auto fill = [&] {
#pragma unroll
    for (int i = 0; i < kStages; ++i) request(begin + i);
  };

  int first = 0, last = p.tokens;
  HeldScales held;
  float slot_weight = 1;  // kFusedDown: lane k has that of slot k
  if (p.mode == LinearMode::kExperts) {
    wait_previous_kernel();
    allow_next_kernel();
    const int expert = load_l2(p.active + blockIdx.y);
    const int active = load_l2(p.num_active);
    first = load_l2(p.offsets + blockIdx.y), last = load_l2(p.offsets + blockIdx.y + 1);
    if (static_cast<int>(blockIdx.y) >= active) return;
    weights += expert * p.expert_weight_bytes;
    scales += expert * p.expert_scale_bytes;
    fill();
    if (kF == TileFormat::kFp8) held.load(p, scales, fused, begin, end);
  } else {
    // kFusedDown reads the router's choice here: the gate/up kernel let us start only after the router had finished.
    fill();
    if (kF == TileFormat::kFp8) held.load(p, scales, fused, begin, end);
    if (fused && lane < p.top_k) slot_weight = load_l2(p.slot_weight + lane);
    allow_next_kernel();
    wait_previous_kernel();
  }

  for (; first < last; first += kTokens) {
    const int count = min(last - first, kTokens);
    const auto row_of = [&](int n) {
      return p.slot_token == nullptr || fused ? first + n : load_l2(p.slot_token + first + n);
    };
    for (int n = kWarps - 1 - warp; n < kTokens; n += kWarps) {
      const float factor = n < count ? norm_factor(p, row_of(n)) : 1;
      if (lane == 0) norm[n] = factor;
    }

    constexpr int kRows = kExact ? 8 : kN;
    const uint8_t* x[kRows];
    bool valid[kRows];
    float sums[kRows][kExact ? 2 : 4];
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
      const int token = kExact ? n : 8 * n + g;
      valid[n] = token < count;
      const int row = valid[n] && !fused ? row_of(token) : 0;
      x[n] = static_cast<const uint8_t*>(p.x) + (int64_t{row} * p.x_stride + 32 * t) * sizeof(Act);
#pragma unroll
      for (int i = 0; i < (kExact ? 2 : 4); ++i) sums[n][i] = 0;
    }
    constexpr bool kHeld = !kExact && kN <= 2;  // the next unit's x waits in registers
    uint4 next[kHeld ? kN : 1][4] = {};
    const auto load_next = [&](int u) {
      if constexpr (kHeld) {
#pragma unroll
        for (int n = 0; n < kN; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            if (valid[n]) next[n][i] = load_l2(reinterpret_cast<const uint4*>(x[n] + int64_t{u} * kUnitCols * 2) + i);
          }
        }
      }
    };
    if (begin < end) load_next(begin);

    for (int u = begin; u < end; ++u) {
      const int slot = fused ? u / units : 0, column_unit = u - slot * units;
      float scale0 = 1, scale1 = 1;
      if constexpr (kF == TileFormat::kFp8) {
        if (u >= held.from + 32 || u < held.from) held.load(p, scales, fused, u, end);
        scale0 = __shfl_sync(0xffffffffu, held.first, u - held.from);
        scale1 = __shfl_sync(0xffffffffu, held.second, u - held.from);
      }
      if (fused) {
        const float weight = __shfl_sync(0xffffffffu, slot_weight, slot);
        scale0 *= weight, scale1 *= weight;
      }
      const int stage = (u - begin) % kStages;
      copy_wait<kStages - 1>();
      if constexpr (kExact) {
        const uint8_t* unit_x[kRows];
#pragma unroll
        for (int n = 0; n < kRows; ++n) {
          unit_x[n] = x[n] + (int64_t{slot} * p.x_stride + column_unit * kUnitCols) * sizeof(Act);
        }
        float part[8][2] = {};
        multiply_unit_f32<kF, kWarps>(ring, stage, unit_x, count, part);
#pragma unroll
        for (int n = 0; n < 8; ++n) sums[n][0] += scale0 * part[n][0], sums[n][1] += scale1 * part[n][1];
      } else {
        float part[kN][4] = {};
        if constexpr (kHeld) {
          uint4 now[kN][4];
#pragma unroll
          for (int n = 0; n < kN; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) now[n][i] = next[n][i];
          }
          if (u + 1 < end) load_next(u + 1);
          multiply_unit<kF, kN, kWarps>(ring, stage, [&](int n, int i) { return now[n][i]; }, part);
        } else {
          multiply_unit<kF, kN, kWarps>(ring, stage, [&](int n, int i) {
            return valid[n] ? load_l2(reinterpret_cast<const uint4*>(x[n] + int64_t{u} * kUnitCols * 2) + i)
                            : uint4{0, 0, 0, 0};
          }, part);
        }
#pragma unroll
        for (int n = 0; n < kRows; ++n) {
          sums[n][0] += scale0 * part[n][0], sums[n][1] += scale0 * part[n][1];
          sums[n][2] += scale1 * part[n][2], sums[n][3] += scale1 * part[n][3];
        }
      }
      request(u + kStages);
    }

    __syncthreads();  // the ring becomes the place of the sums
    float* red = reinterpret_cast<float*>(smem);
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
      if constexpr (kExact) {
        float a = sums[n][0], b = sums[n][1];
        a += __shfl_xor_sync(0xffffffffu, a, 1), b += __shfl_xor_sync(0xffffffffu, b, 1);
        a += __shfl_xor_sync(0xffffffffu, a, 2), b += __shfl_xor_sync(0xffffffffu, b, 2);
        if (t == 0) {
          red[(warp * kTokens + n) * 16 + g] = a;
          red[(warp * kTokens + n) * 16 + g + 8] = b;
        }
      } else {
        float* to = red + (warp * kTokens + 8 * n + 2 * t) * 16 + g;
        to[0] = sums[n][0], to[16] = sums[n][1], to[8] = sums[n][2], to[24] = sums[n][3];
      }
    }
    __syncthreads();
    finish_tile<Act, kTokens, kWarps>(p, tile, first, count, red, norm);
    if (first + kTokens < last) {
      __syncthreads();
      fill();
    }
  }
}

template <typename Act, TileFormat kF, int kN, int kWarps = 8>
cudaError_t LaunchOne(const LinearParams& p, cudaStream_t stream) {
  constexpr int kRing = Stages(kF) * Ring<kF, kWarps>::kStageBytes, kSums = kWarps * 8 * kN * 16 * 4;
  constexpr int kSmem = kRing > kSums ? kRing : kSums;
  static const cudaError_t configured = cudaFuncSetAttribute(
      stream_linear<Act, kF, kN, kWarps>, cudaFuncAttributeMaxDynamicSharedMemorySize, kSmem);
  if (configured != cudaSuccess) return configured;
  const dim3 grid(p.shape.tiles, p.mode == LinearMode::kExperts ? p.max_active : 1);
  return Launch(stream_linear<Act, kF, kN, kWarps>, grid, dim3(kWarps * 32), kSmem, stream, p);
}

template <TileFormat kF>
cudaError_t LaunchBf16(const LinearParams& p, cudaStream_t stream) {
  // Experts are many short blocks: with 4 warps each has work enough to be worth its start. A pass over more than 8
  // slots of an expert reads its tile again, mostly from L2.
  if (p.mode == LinearMode::kExperts) {
    return p.tokens <= 256 ? LaunchOne<bf16, kF, 1, 4>(p, stream) : LaunchOne<bf16, kF, 2, 4>(p, stream);
  }
  const int tokens = p.tokens;
  if (tokens <= 8) return LaunchOne<bf16, kF, 1>(p, stream);
  if (tokens <= 16) return LaunchOne<bf16, kF, 2>(p, stream);
  if (tokens <= 32) return LaunchOne<bf16, kF, 4>(p, stream);
  return LaunchOne<bf16, kF, 8>(p, stream);
}

}  // namespace

cudaError_t LaunchStreamLinear(const LinearParams& p, bool f32_activations, cudaStream_t stream) {
  const TileFormat format = p.shape.format;
  if (f32_activations) {
    if (format == TileFormat::kF32) return LaunchOne<float, TileFormat::kF32, 1>(p, stream);
    if (format == TileFormat::kBf16) return LaunchOne<float, TileFormat::kBf16, 1>(p, stream);
    if (format == TileFormat::kFp8) return LaunchOne<float, TileFormat::kFp8, 1>(p, stream);
    return LaunchOne<float, TileFormat::kInt4, 1>(p, stream);
  }
  if (format == TileFormat::kBf16) return LaunchBf16<TileFormat::kBf16>(p, stream);
  if (format == TileFormat::kFp8) return LaunchBf16<TileFormat::kFp8>(p, stream);
  if (format == TileFormat::kInt4) return LaunchBf16<TileFormat::kInt4>(p, stream);
  return cudaErrorInvalidValue;  // float32 weights are rounded to bf16 at load for bf16 activations
}

}  // namespace minimo::cuda
