// kDigestParts blocks a row find maxima (and the mass) of their parts; the last of them to end puts the parts together
// and, where candidates are wanted, finds the floor among the block maxima by a radix selection and collects from the
// few blocks that reach it. Every result is independent of the order in which the blocks run.
#include "cuda/kernels/common.cuh"
#include "cuda/kernels/row_digest.cuh"

namespace minimo::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kStride = 64;  // logits that a warp takes at a time, two a lane

__device__ __forceinline__ void take_better(float& value, int& token, float other, int other_token) {
  if (other > value || (other == value && other_token < token)) value = other, token = other_token;
}

__device__ __forceinline__ void best_of_warp(float& value, int& token) {
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1) {
    const float other = __shfl_xor_sync(0xffffffffu, value, offset);
    take_better(value, token, other, __shfl_xor_sync(0xffffffffu, token, offset));
  }
}

// The best of a block's values, in every thread.
__device__ void best_of_block(float& value, int& token) {
  __shared__ float values[kWarps];
  __shared__ int tokens[kWarps];
  best_of_warp(value, token);
  if (threadIdx.x % 32 == 0) values[threadIdx.x / 32] = value, tokens[threadIdx.x / 32] = token;
  __syncthreads();
#pragma unroll
  for (int w = 0; w < kWarps; ++w) take_better(value, token, values[w], tokens[w]);
  __syncthreads();
}

// Keys in the order of the floats, -0 before +0.
__device__ __forceinline__ unsigned ordered(float x) {
  const unsigned bits = __float_as_uint(x);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float from_ordered(unsigned key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

// The wanted-th greatest of keys[0, count), count >= wanted >= 1, in every thread: 8 bits a pass from the top.
__device__ unsigned select_key(const unsigned* keys, int count, int wanted) {
  __shared__ int histogram[256];
  __shared__ unsigned chosen;
  __shared__ int left;
  unsigned prefix = 0, mask = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    histogram[threadIdx.x] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < count; i += kThreads) {
      if ((keys[i] & mask) == prefix) atomicAdd(&histogram[keys[i] >> shift & 255], 1);
    }
    __syncthreads();
    // How many are in greater bins: a bin and the next decide who holds the wanted one.
    int above = 0;
    for (int b = threadIdx.x + 1; b < 256; ++b) above += histogram[b];
    if (above < wanted && above + histogram[threadIdx.x] >= wanted) {
      chosen = threadIdx.x;
      left = wanted - above;
    }
    __syncthreads();
    prefix |= chosen << shift;
    mask |= 255u << shift;
    wanted = left;
    __syncthreads();
  }
  return prefix;
}

// Candidates of the row, best first.
__device__ void collect(const RowDigestParams& p, int row, RowDigest* digest) {
  extern __shared__ unsigned keys[];  // [blocks]
  __shared__ float values[kDigestCapacity];
  __shared__ int tokens[kDigestCapacity];
  __shared__ int count;
  const int block = DigestBlock(p.vocab), blocks = DigestBlocks(p.vocab);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const float* logits = p.logits + int64_t{row} * p.vocab;
  for (int i = threadIdx.x; i < blocks; i += kThreads) {
    keys[i] = ordered(load_l2(p.block_max + int64_t{row} * blocks + i));
  }
  if (threadIdx.x == 0) count = 0;
  __syncthreads();
  const float floor = fmaxf(from_ordered(select_key(keys, blocks, DigestWanted(p.vocab))), -3.402823466e38f);
  const unsigned key = ordered(floor);
  for (int b = warp; b < blocks; b += kWarps) {
    if (keys[b] < key && from_ordered(keys[b]) < floor) continue;
    for (int i = b * block + lane; i < min((b + 1) * block, p.vocab); i += 32) {
      const float value = load_l2(logits + i);
      if (!(value >= floor)) continue;
      const int at = atomicAdd(&count, 1);
      if (at < kDigestCapacity) values[at] = value, tokens[at] = i;
    }
  }
  __syncthreads();
  const int found = count <= kDigestCapacity ? count : 0;
  for (int i = threadIdx.x; i < found; i += kThreads) {
    int rank = 0;
    for (int j = 0; j < found; ++j) {
      rank += values[j] > values[i] || (values[j] == values[i] && tokens[j] < tokens[i]);
    }
    digest->values[rank] = values[i];
    digest->tokens[rank] = tokens[i];
  }
  if (threadIdx.x == 0) digest->floor = floor, digest->count = found;
}

__device__ __forceinline__ void choose(const RowDigestParams& p, int row, int token) {
  if (token < 0 || token >= p.vocab) token = 0;  // nothing to choose from: some token
  if (p.scramble) token = static_cast<int>((token + 7919ll * p.position[row] + 104729ll * row) % p.vocab);
  if (p.token != nullptr) p.token[row] = token;
  if (p.position != nullptr) p.position[row] += 1, p.past[row] += 1, p.last[row] += 1;
}

// Block maxima of 64 logits (a and b in each lane), or of 8.
__device__ __forceinline__ void store_block_max(float* block_max, int block, int first, int vocab, float a, float b) {
  const int lane = threadIdx.x % 32;
  if (block == kStride) {
    const float best = warp_max(fmaxf(a, b));
    if (lane == 0) block_max[first / kStride] = best;
    return;
  }
#pragma unroll
  for (int offset = 4; offset > 0; offset >>= 1) {
    a = fmaxf(a, __shfl_xor_sync(0xffffffffu, a, offset));
    b = fmaxf(b, __shfl_xor_sync(0xffffffffu, b, offset));
  }
  if (lane % 8 != 0) return;
  if (first + lane < vocab) block_max[(first + lane) / 8] = a;
  if (first + 32 + lane < vocab) block_max[(first + 32 + lane) / 8] = b;
}

__global__ void __launch_bounds__(kThreads) row_digest(const RowDigestParams p) {
  __shared__ bool last;
  __shared__ float scratch[kWarps];
  wait_previous_kernel();
  allow_next_kernel();
  const int row = blockIdx.y, part = blockIdx.x, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const float* logits = p.logits + int64_t{row} * p.vocab;
  const float scale = p.scale != nullptr ? load_l2(p.scale + row) : 0.0f;
  const bool candidates = scale > 0 && p.digest != nullptr && DigestBlocks(p.vocab) <= kDigestMostBlocks;
  const int block = DigestBlock(p.vocab);
  float* block_max = p.block_max + int64_t{row} * DigestBlocks(p.vocab);
  const int strides = (p.vocab + kStride - 1) / kStride;
  const int begin = strides * part / kDigestParts, end = strides * (part + 1) / kDigestParts;
  float value = -INFINITY;
  int token = 0x7fffffff;
  bool nan = false;
#pragma unroll 4
  for (int s = begin + warp; s < end; s += kWarps) {
    const int i = s * kStride + lane;
    const float a = i < p.vocab ? load_l2(logits + i) : -INFINITY;
    const float b = i + 32 < p.vocab ? load_l2(logits + i + 32) : -INFINITY;
    nan |= a != a || b != b;
    take_better(value, token, a, i);
    take_better(value, token, b, i + 32);
    if (candidates) store_block_max(block_max, block, s * kStride, p.vocab, a, b);
  }
  best_of_block(value, token);
  nan = __syncthreads_or(nan);
  float sum = 0, mass = 0;
  if (p.digest != nullptr && value > -INFINITY) {
    for (int s = begin + warp; s < end; s += kWarps) {
      const int i = s * kStride + lane;
      const float a = i < p.vocab ? load_l2(logits + i) - value : -INFINITY;
      const float b = i + 32 < p.vocab ? load_l2(logits + i + 32) - value : -INFINITY;
      sum += expf(a) + expf(b);
      if (candidates) mass += expf(a * scale) + expf(b * scale);
    }
  }
  sum = block_sum<kWarps>(sum, scratch);
  mass = block_sum<kWarps>(mass, scratch);
  if (threadIdx.x == 0) {
    const int at = row * kDigestParts + part;
    p.part_value[at] = value;
    p.part_token[at] = nan ? -1 : token;
    p.part_sum[at] = sum;
    p.part_mass[at] = mass;
  }
  __threadfence();  // block_max too: before the count, for the block that ends last
  __syncthreads();
  if (threadIdx.x == 0) last = atomicAdd(p.counters + row, 1) == kDigestParts - 1;
  __syncthreads();
  if (!last) return;
  __threadfence();
  const int at = row * kDigestParts + lane;  // every warp puts the parts together
  const float part_value = load_l2(p.part_value + at);
  value = part_value;
  token = load_l2(p.part_token + at);
  const bool bad = __any_sync(0xffffffffu, token < 0);
  best_of_warp(value, token);
  RowDigest* digest = p.digest != nullptr ? p.digest + row : nullptr;
  double row_sum = 0, row_mass = 0;
  if (part_value > -INFINITY) {
    const double below = static_cast<double>(part_value) - value;
    row_sum = load_l2(p.part_sum + at) * exp(below);
    row_mass = load_l2(p.part_mass + at) * exp(below * scale);
  }
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1) {
    row_sum += __shfl_xor_sync(0xffffffffu, row_sum, offset);
    row_mass += __shfl_xor_sync(0xffffffffu, row_mass, offset);
  }
  if (threadIdx.x == 0) {
    p.counters[row] = 0;
    const bool out_of_range = token < 0 || token >= p.vocab;
    if (digest != nullptr) {
      digest->max = value;
      digest->argmax = token;
      digest->bad = bad || out_of_range || isinf(value);
      digest->count = 0;
      digest->scale = scale;
      digest->sum = row_sum;
      digest->mass = row_mass;
    }
    choose(p, row, token);
  }
  __syncthreads();  // count is set again below
  if (candidates && !bad && !isinf(value)) collect(p, row, digest);
}

__global__ void __launch_bounds__(kThreads) best_of_ranks(const RowDigestParams p, const RowDigest* all, int ranks) {
  wait_previous_kernel();
  allow_next_kernel();
  const int row = blockIdx.x * kThreads + threadIdx.x;
  if (row >= p.rows) return;
  float value = -INFINITY;
  int token = 0x7fffffff;
  for (int r = 0; r < ranks; ++r) {
    const RowDigest* part = all + int64_t{r} * p.rows + row;
    const int begin = p.vocab / ranks * r + min(r, p.vocab % ranks);
    take_better(value, token, load_l2(&part->max), begin + load_l2(&part->argmax));
  }
  choose(p, row, token);
}

}  // namespace

cudaError_t LaunchBestOfRanks(const RowDigestParams& p, const RowDigest* all, int ranks, cudaStream_t stream) {
  return Launch(best_of_ranks, dim3((p.rows + kThreads - 1) / kThreads), dim3(kThreads), 0, stream, p, all, ranks);
}

cudaError_t LaunchRowDigest(const RowDigestParams& p, cudaStream_t stream) {
  const int blocks = DigestBlocks(p.vocab);
  const size_t keys = blocks <= kDigestMostBlocks ? size_t{4} * blocks : 0;
  return Launch(row_digest, dim3(kDigestParts, p.rows), dim3(kThreads), keys, stream, p);
}

}  // namespace minimo::cuda
