// One thread makes one lane's 16-byte share of one chunk: it gathers 4 to 16 neighbouring columns of two rows (FP8: 16
// of one).
#include <cuda_fp16.h>

#include "cuda/kernels/common.cuh"
#include "cuda/kernels/dequant.cuh"
#include "cuda/kernels/repack.cuh"

namespace minimo::cuda {
namespace {

struct Source {
  const uint8_t* data;
  const uint8_t* scale;
  int row;  // < 0: padding
};

__device__ float read_element(const RepackParams& p, const Source& s, int col) {
  if (s.row < 0 || col >= p.cols) return 0;
  const int64_t at = int64_t{s.row} * p.cols + col;
  switch (p.source) {
    case SourceType::kF32: return reinterpret_cast<const float*>(s.data)[at];
    case SourceType::kF16: return __half2float(reinterpret_cast<const __half*>(s.data)[at]);
    case SourceType::kBf16: return to_float(reinterpret_cast<const bf16*>(s.data)[at]);
    case SourceType::kFp8: {
      const float scale = reinterpret_cast<const float*>(s.scale)[int64_t{s.row} * p.scale_cols + col / kUnitCols];
      return fp8_to_float(s.data[at]) * scale;
    }
    default: {
      const uint32_t word = reinterpret_cast<const uint32_t*>(s.data)[at / 8];
      const float scale = to_float(
          reinterpret_cast<const bf16*>(s.scale)[int64_t{s.row} * p.scale_cols + col / p.shape.group_cols]);
      return static_cast<float>(static_cast<int>((word >> (col % 8 * 4)) & 0xf) - 8) * scale;
    }
  }
}

__device__ uint32_t read_fp8(const RepackParams& p, const Source& s, int col) {
  return s.row < 0 || col >= p.cols ? 0 : s.data[int64_t{s.row} * p.cols + col];
}
__device__ uint32_t read_int4(const RepackParams& p, const Source& s, int col) {
  if (s.row < 0 || col >= p.cols) return 8;
  const int64_t at = int64_t{s.row} * p.cols + col;
  return (reinterpret_cast<const uint32_t*>(s.data)[at / 8] >> (col % 8 * 4)) & 0xf;
}

__device__ Source source_of(const RepackParams& p, int tile, int half, int g) {
  const int row = p.interleaved ? 8 * tile + g : 16 * tile + 8 * half + g;
  const void* data = half == 0 ? p.top : p.bottom;
  const void* scale = half == 0 ? p.top_scale : p.bottom_scale;
  return {static_cast<const uint8_t*>(data), static_cast<const uint8_t*>(scale), row < p.rows ? row : -1};
}

__device__ uint4 make_share(const RepackParams& p, const Source (&row)[2], int first_col, int chunk) {
  uint32_t out[4] = {};
  switch (p.shape.format) {
    case TileFormat::kF32: {  // chunk = 2 * step + half
      const int col = first_col + 4 * (chunk / 2);
      for (int i = 0; i < 4; ++i) out[i] = __float_as_uint(read_element(p, row[chunk % 2], col + i));
      break;
    }
    case TileFormat::kBf16:  // chunk = step
      for (int r = 0; r < 4; ++r) {
        const int col = first_col + 4 * chunk + r / 2 * 2;
        out[r] = pack_bf16(read_element(p, row[r % 2], col), read_element(p, row[r % 2], col + 1));
      }
      break;
    case TileFormat::kFp8:  // chunk = 2 * half + step / 4
      for (int i = 0; i < 16; ++i) {
        out[i / 4] |= read_fp8(p, row[chunk / 2], first_col + 16 * (chunk % 2) + i) << (8 * (i % 4));
      }
      break;
    default:  // chunk = step / 4
      for (int word = 0; word < 4; ++word) {
        const int col = first_col + 16 * chunk + 4 * word;
        for (int n = 0; n < 4; ++n) {
          out[word] |= read_int4(p, row[n % 2], col + n / 2 * 2) << (4 * n);
          out[word] |= read_int4(p, row[n % 2], col + n / 2 * 2 + 1) << (4 * n + 16);
        }
      }
  }
  return {out[0], out[1], out[2], out[3]};
}

__global__ void repack(const RepackParams p) {
  wait_previous_kernel();
  const int chunks = UnitBytes(p.shape.format) / 512;
  const int64_t count = int64_t{p.shape.tiles} * p.shape.units * chunks * 32;
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t at = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; at < count; at += step) {
    const int lane = at % 32, g = lane / 4, t = p.shape.format == TileFormat::kFp8 ? lane % 4 ^ (g / 2 % 4) : lane % 4;
    const int chunk = at / 32 % chunks;
    const int unit = at / 32 / chunks % p.shape.units, tile = at / 32 / chunks / p.shape.units;
    const Source row[2] = {source_of(p, tile, 0, g), source_of(p, tile, 1, g)};
    const int first_col = unit * kUnitCols + 32 * t;
    reinterpret_cast<uint4*>(p.weights)[at] = make_share(p, row, first_col, chunk);
    if (chunk != 0) continue;
    if (p.shape.format == TileFormat::kInt4 && 32 * t % p.shape.group_cols == 0) {
      const int groups = kUnitCols / p.shape.group_cols, group = 32 * t / p.shape.group_cols;
      bf16* to = reinterpret_cast<bf16*>(p.scales) +
                 (((int64_t{tile} * p.shape.units + unit) * groups + group) * 8 + g) * 2;
      for (int half = 0; half < 2; ++half) {
        const bool inside = row[half].row >= 0 && first_col < p.cols;
        to[half] = inside ? reinterpret_cast<const bf16*>(row[half].scale)[int64_t{row[half].row} * p.scale_cols +
                                                                           first_col / p.shape.group_cols]
                          : __float2bfloat16(0.0f);
      }
    }
    if (p.shape.format == TileFormat::kFp8 && lane == 0) {
      float* to = reinterpret_cast<float*>(p.scales) + (int64_t{tile} * p.shape.units + unit) * 2;
      for (int half = 0; half < 2; ++half) {
        const bool inside = row[half].row >= 0 && first_col < p.cols;
        const float* scales = reinterpret_cast<const float*>(row[half].scale);
        to[half] = inside ? scales[int64_t{row[half].row} * p.scale_cols + unit] : 0.0f;
      }
    }
  }
}

__device__ __forceinline__ uint64_t mix(uint64_t x) {  // splitmix64
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}
__device__ float uniform(uint64_t bits) { return (static_cast<float>(bits >> 40) * 0x1p-24f - 0.5f) * 3.4641016f; }

__global__ void random_tiles(TileFormat format, uint8_t* weights, int64_t weight_words, uint8_t* scales,
                             int64_t scale_words, float deviation, uint64_t seed) {
  wait_previous_kernel();
  const int64_t step = int64_t{gridDim.x} * blockDim.x, start = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  for (int64_t at = start; at < weight_words; at += step) {
    const uint64_t r = mix(seed + at);
    uint32_t word;
    if (format == TileFormat::kFp8) {
      word = static_cast<uint32_t>(r) & 0xf7f7f7f7;  // even exponents: never NaN
    } else if (format == TileFormat::kBf16) {
      word = pack_bf16(uniform(r) * deviation, uniform(mix(r)) * deviation);
    } else if (format == TileFormat::kF32) {
      word = __float_as_uint(uniform(r) * deviation);
    } else {
      word = static_cast<uint32_t>(r) | 0x11111111;  // odd codes: -7, -5 ... 7, so the mean is 0
    }
    reinterpret_cast<uint32_t*>(weights)[at] = word;
  }
  for (int64_t at = start; at < scale_words; at += step) {
    // Root mean square of a random code: FP8 without bit 3 is 68.5, 4 bits 4.58.
    const float s = deviation / (format == TileFormat::kFp8 ? 68.5f : 4.58f);
    reinterpret_cast<uint32_t*>(scales)[at] = format == TileFormat::kFp8 ? __float_as_uint(s) : pack_bf16(s, s);
  }
}

__global__ void random_floats(float* to, int64_t count, float mean, float deviation, uint64_t seed) {
  wait_previous_kernel();
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t at = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; at < count; at += step) {
    to[at] = mean + uniform(mix(seed + at)) * deviation;
  }
}
__global__ void random_bf16(bf16* to, int64_t count, float deviation, uint64_t seed) {
  wait_previous_kernel();
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t at = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; at < count; at += step) {
    to[at] = __float2bfloat16(uniform(mix(seed + at)) * deviation);
  }
}

int Blocks(int64_t threads) {
  const int64_t blocks = (threads + 255) / 256;
  return static_cast<int>(blocks < 4096 ? (blocks > 0 ? blocks : 1) : 4096);
}

}  // namespace

cudaError_t LaunchRepack(const RepackParams& p, cudaStream_t stream) {
  const int64_t threads = p.shape.WeightBytes() / 16;
  return Launch(repack, dim3(Blocks(threads)), dim3(256), 0, stream, p);
}

cudaError_t LaunchRandomTiles(const TileShape& shape, int64_t matrices, uint8_t* weights, uint8_t* scales,
                              float deviation, uint64_t seed, cudaStream_t stream) {
  const int64_t words = shape.WeightBytes() / 4 * matrices;
  return Launch(random_tiles, dim3(Blocks(words)), dim3(256), 0, stream, shape.format, weights, words, scales,
                shape.ScaleBytes() / 4 * matrices, deviation, seed);
}
cudaError_t LaunchRandomFloats(float* to, int64_t count, float mean, float deviation, uint64_t seed,
                               cudaStream_t stream) {
  return Launch(random_floats, dim3(Blocks(count)), dim3(256), 0, stream, to, count, mean, deviation, seed);
}
cudaError_t LaunchRandomBf16(void* to, int64_t count, float deviation, uint64_t seed, cudaStream_t stream) {
  return Launch(random_bf16, dim3(Blocks(count)), dim3(256), 0, stream, static_cast<bf16*>(to), count, deviation, seed);
}

}  // namespace minimo::cuda
