// The router for up to 256 tokens, one kernel. Near ties must fall as in the reference, so products are as exact as
// float32's: every factor is the sum of two tf32 numbers, three of the four products are taken (tf32_pairs.cuh).
// - Scores: a block has 32 experts and one of kBatchSplits runs of columns. Its weights, times the norm's, are in
//   registers as operands of mma before the step's tokens are there: a warp has 16 experts and a quarter of the
//   columns, and takes all tokens, whose part of the columns comes to shared memory once.
// - Choices: when all blocks have left their scores, which they count, a block a token. Meanwhile it has made the row
//   of its token for the experts (expert_rows.cuh). The last block to finish makes the lists (choice_lists.cuh).
// All blocks must run at once; where they cannot, scores and choices are two launches.
// Shared memory: tokens' rows of at most 256 columns, so far apart that what a quarter of a warp reads falls into
// distinct banks; sums take the place of rows that have been used.
#include "cuda/kernels/choice_lists.cuh"
#include "cuda/kernels/choose.cuh"
#include "cuda/kernels/common.cuh"
#include "cuda/kernels/expert_rows.cuh"
#include "cuda/kernels/router.cuh"
#include "cuda/kernels/tf32_pairs.cuh"

namespace minimo::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kExperts = 32;
constexpr int kQuarters = 4;        // of a block's columns
constexpr int kMostSixteens = 4;    // columns of a quarter, by 16
constexpr int kMostColumns = kQuarters * kMostSixteens * 16;
constexpr int kRun = 128;           // tokens in shared memory at a time
constexpr int kGroup = 32;          // of them, multiplied at a time
constexpr int kMostFours = 4;       // of a row, a thread: 4096 columns

// Of a block: columns of a quarter, and floats from one token's row to the next: 16 modulo 32, and room for the sums
// of kQuarters x kExperts.
struct Columns {
  int all, sixteens;
  __host__ __device__ constexpr int quarter() const { return sixteens * 16; }
  __host__ __device__ constexpr int pitch() const {
    const int row = kQuarters * quarter();
    return (row < kQuarters * kExperts ? kQuarters * kExperts : row) + 16;
  }
};

// A warp's weights, times the norm's: operands of mma for 16 experts x 8 columns, twice for each 16 columns. A lane's
// four neighbouring columns are k = t and t + 4 of the first, then of the second.
struct Weights {
  uint32_t high[kMostSixteens][2][4], low[kMostSixteens][2][4];

  __device__ __forceinline__ void load(const RouterParams& p, int expert, int column, int end, int sixteens) {
    const int t = threadIdx.x % 4;
    float4 rows[kMostSixteens][2], norm[kMostSixteens];
#pragma unroll
    for (int j = 0; j < kMostSixteens; ++j) {
      const int c = column + 16 * j + 4 * t;
      const bool inside = j < sixteens && c < end;
      norm[j] = inside ? __ldg(reinterpret_cast<const float4*>(p.norm_weight + c)) : float4{0, 0, 0, 0};
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float4* from = reinterpret_cast<const float4*>(p.weights + int64_t{expert + 8 * h} * p.hidden + c);
        rows[j][h] = inside && expert + 8 * h < p.experts ? __ldcs(from) : float4{0, 0, 0, 0};
      }
    }
#pragma unroll
    for (int j = 0; j < kMostSixteens; ++j) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float4 v = rows[j][h], n = norm[j];
        const float x[4] = {v.x * n.x, v.y * n.y, v.z * n.z, v.w * n.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const Tf32Pair s = split_tf32(x[i]);
          high[j][i / 2][i % 2 * 2 + h] = s.high, low[j][i / 2][i % 2 * 2 + h] = s.low;
        }
      }
    }
  }
};

// Rows [first, first + count) of the residual's columns [column, end) to shared memory, a group of copies for every
// kGroup of them; zeros beyond the columns.
__device__ __forceinline__ void request_rows(const RouterParams& p, const Columns& columns, int first, int count,
                                             int column, int end, float* to) {
  const int fours = kQuarters * columns.quarter() / 4;
#pragma unroll
  for (int from = 0; from < kRun; from += kGroup) {
    const int tokens = min(count - from, kGroup);
    for (int i = threadIdx.x; i < tokens * fours; i += kThreads) {
      const int row = from + i / fours, c = i % fours * 4;
      const bool inside = column + c < end;
      const float* source = p.residual + int64_t{first + row} * p.hidden + (inside ? column + c : 0);
      copy_async16_or_zero(to + row * columns.pitch() + c, source, inside);
    }
    copy_commit();
  }
}

// sums[n] += the warp's weights times tokens 8n .. 8n + 7 of a group. x: the lane's of token g.
__device__ __forceinline__ void multiply_group(const Weights& w, const float* x, int pitch, int sixteens,
                                               float (&sums)[kGroup / 8][4]) {
#pragma unroll
  for (int j = 0; j < kMostSixteens; ++j) {
    if (j >= sixteens) break;
#pragma unroll
    for (int n = 0; n < kGroup / 8; ++n) {
      const float4 v = *reinterpret_cast<const float4*>(x + 8 * n * pitch + 16 * j);
      const Tf32Pair s[4] = {split_tf32(v.x), split_tf32(v.y), split_tf32(v.z), split_tf32(v.w)};
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        mma_tf32(sums[n], w.low[j][k], s[2 * k].high, s[2 * k + 1].high);
        mma_tf32(sums[n], w.high[j][k], s[2 * k].low, s[2 * k + 1].low);
        mma_tf32(sums[n], w.high[j][k], s[2 * k].high, s[2 * k + 1].high);
      }
    }
  }
}

// Where the sum of a quarter for an expert stands in the row of a token: turned, so that a warp's stores fall into
// distinct banks.
__device__ __forceinline__ int sum_at(int token, int quarter, int expert) {
  return quarter * kExperts + (expert + 4 * token) % kExperts;
}

__device__ __forceinline__ void score(const RouterParams& p, const Columns& columns, float* smem) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int quarter = warp % kQuarters, half = warp / kQuarters * 16, pitch = columns.pitch();
  const int first_expert = blockIdx.x * kExperts, column = blockIdx.y * columns.all;
  const int end = min(column + columns.all, p.hidden), mine = quarter * columns.quarter();
  Weights weights;
  weights.load(p, first_expert + half + g, column + mine, end, columns.sixteens);
  allow_next_kernel();
  wait_previous_kernel();
  for (int first = 0; first < p.tokens; first += kRun) {
    const int count = min(kRun, p.tokens - first);
    request_rows(p, columns, first, count, column, end, smem);
#pragma unroll 1
    for (int from = 0; from < count; from += kGroup) {
      switch (from / kGroup) {
        case 0: copy_wait<3>(); break;
        case 1: copy_wait<2>(); break;
        case 2: copy_wait<1>(); break;
        default: copy_wait<0>();
      }
      __syncthreads();
      float sums[kGroup / 8][4] = {};
      multiply_group(weights, smem + (from + g) * pitch + mine + 4 * t, pitch, columns.sixteens, sums);
      __syncthreads();  // the group's rows have been read
#pragma unroll
      for (int n = 0; n < kGroup / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int token = from + 8 * n + 2 * t + i % 2;
          smem[token * pitch + sum_at(token, quarter, half + g + i / 2 * 8)] = sums[n][i];
        }
      }
    }
    __syncthreads();
    float* to = p.logits + (int64_t{blockIdx.y} * p.tokens + first) * p.experts + first_expert;
    for (int i = warp; i < count && first_expert + lane < p.experts; i += kThreads / 32) {
      float sum = 0;
#pragma unroll
      for (int q = 0; q < kQuarters; ++q) sum += smem[i * pitch + sum_at(i, q, lane)];
      to[int64_t{i} * p.experts + lane] = sum;
    }
    __syncthreads();
  }
}

// A token's residual, normed, as a row for the experts.
struct RowMaker {
  float4 held[kMostFours];

  __device__ __forceinline__ void load(const RouterParams& p, int token) {
    const float4* x = reinterpret_cast<const float4*>(p.residual + int64_t{token} * p.hidden);
#pragma unroll
    for (int i = 0; i < kMostFours; ++i) {
      const int four = i * kThreads + static_cast<int>(threadIdx.x);
      held[i] = four < p.hidden / 4 ? load_l2(x + four) : float4{0, 0, 0, 0};
    }
#pragma unroll
    for (int i = 0; i < kMostFours; ++i) {
      const int four = i * kThreads + static_cast<int>(threadIdx.x);
      if (four >= p.hidden / 4) continue;
      const float4 n = __ldg(reinterpret_cast<const float4*>(p.norm_weight) + four);
      held[i] = {held[i].x * n.x, held[i].y * n.y, held[i].z * n.z, held[i].w * n.w};
    }
  }
  // scratch: a number a warp.
  __device__ __forceinline__ void write(const RouterParams& p, int token, float norm, uint32_t* scratch) const {
    const ExpertRow shape = {p.row_units, p.rows_int4};
    uint8_t* row = p.rows + int64_t{token} * shape.bytes();
    uint32_t most = 0;
#pragma unroll
    for (int i = 0; i < kMostFours; ++i) most = max(most, magnitude_bits(held[i]));
    most = __reduce_max_sync(0xffffffffu, most);
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = most;
    __syncthreads();
#pragma unroll
    for (int w = 0; w < kThreads / 32; ++w) most = max(most, scratch[w]);
    float down;
    const float up = half_scale(most, down);
#pragma unroll
    for (int i = 0; i < kMostFours; ++i) {
      const int four = i * kThreads + static_cast<int>(threadIdx.x);
      if (four < p.row_units * kUnitCols / 4) put_four(shape, row, four, held[i], up);
    }
    if (threadIdx.x == 0) *reinterpret_cast<float*>(row + shape.factor()) = down * norm;
  }
};

// Token `token`, a thread an expert. `scores_there`: returns when all scores are.
template <typename Wait>
__device__ __forceinline__ void choose(const RouterParams& p, int token, Choice& choice, uint32_t* scratch,
                                       Wait scores_there) {
  const int expert = threadIdx.x, lane = threadIdx.x % 32;
  const float* biases = p.bias != nullptr ? p.bias + int64_t{token} * p.bias_stride : nullptr;
  const float bias = biases != nullptr && expert < p.experts ? __ldg(biases + expert) : 0.0f;
  float squares = 0, part[kBatchSplits] = {};
#pragma unroll 8
  for (int i = lane; i < p.square_sum_count; i += 32) {
    squares += load_l2(p.square_sums + int64_t{token} * p.square_sum_count + i);
  }
  RowMaker row;
  if (p.rows != nullptr) row.load(p, token);
  squares = warp_sum(squares);
  const float norm = rsqrtf(squares / static_cast<float>(p.hidden) + p.norm_eps);
  if (threadIdx.x == 0) p.token_squares[token] = squares;
  if (p.rows != nullptr) row.write(p, token, norm, scratch);
  scores_there();
  float* logits = p.logits + int64_t{token} * p.experts;
  if (expert < p.experts) {
#pragma unroll
    for (int s = 0; s < kBatchSplits; ++s) part[s] = load_l2(logits + int64_t{s} * p.tokens * p.experts + expert);
  }
  float logit = 0;
#pragma unroll
  for (int s = 0; s < kBatchSplits; ++s) logit += part[s];
  if (expert < p.experts) logits[expert] = logit * norm;
  ChoiceParams c;
  c.experts = p.experts, c.top_k = p.top_k, c.groups = p.groups, c.top_groups = p.top_groups;
  c.logits = logits, c.bias = biases;
  c.renormalise = p.renormalise, c.renormalise_epsilon = p.renormalise_epsilon, c.scale = p.scale;
  __syncthreads();
  choose_one<kThreads>(c, logit * norm, bias, choice);
  const float weight = weight_of(c, choice);
  if (threadIdx.x < p.top_k) {
    p.chosen[int64_t{token} * p.top_k + threadIdx.x] = choice.expert[threadIdx.x];
    p.chosen_weight[int64_t{token} * p.top_k + threadIdx.x] = weight;
  }
  __syncthreads();
}

// The barrier of all blocks, one thread of each: the word's highest bit changes with the last to arrive, the others are
// zero again then.
__device__ __forceinline__ uint32_t arrive_grid(int* word, bool first, int blocks) {
  __threadfence();
  return atomicAdd(reinterpret_cast<unsigned*>(word), first ? 0x80000000u - (blocks - 1) : 1u);
}
__device__ __forceinline__ void wait_grid(const int* word, uint32_t arrived) {
  uint32_t now;
  do {
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(now) : "l"(word) : "memory");
  } while (((now ^ arrived) & 0x80000000u) == 0);
}

// Which of the two this launch does.
enum class Part { kBoth, kScores, kChoices };

template <Part kPart>
__global__ void __launch_bounds__(kThreads) router_batch(const RouterParams p, const Columns columns) {
  extern __shared__ __align__(16) float smem[];
  __shared__ ListScratch<kMostListTokens> scratch;
  __shared__ Choice choice;
  __shared__ uint32_t most[kThreads / 32];
  __shared__ bool last;
  const int blocks = gridDim.x * gridDim.y, block = blockIdx.y * gridDim.x + blockIdx.x;
  const int choosers = min(blocks, p.tokens);
  uint32_t arrived = 0;
  if constexpr (kPart == Part::kChoices) {
    allow_next_kernel();
    wait_previous_kernel();
  } else {
    score(p, columns, smem);  // ends with a barrier
    if constexpr (kPart == Part::kScores) return;
    if (threadIdx.x == 0) arrived = arrive_grid(p.counter + 1, block == 0, blocks);
    if (block >= choosers) return;
  }
  const auto scores_there = [&] {
    if constexpr (kPart == Part::kBoth) {
      if (threadIdx.x == 0) wait_grid(p.counter + 1, arrived);
      __syncthreads();
    }
  };
  for (int token = block; token < p.tokens; token += choosers) choose(p, token, choice, most, scores_there);
  if (p.choices_only) return;
  if (threadIdx.x == 0) {
    __threadfence();
    last = atomicAdd(p.counter, 1) == choosers - 1;
  }
  __syncthreads();
  if (!last) return;
  __threadfence();
  if (threadIdx.x == 0) *p.counter = 0;
  list_choices(p, scratch);
}

Columns ColumnsOf(const RouterParams& p) {
  Columns c;
  c.all = (p.hidden + 4 * kBatchSplits - 1) / (4 * kBatchSplits) * 4;
  c.sixteens = (c.all + kQuarters * 16 - 1) / (kQuarters * 16);
  return c;
}

}  // namespace

bool CanRouteBatch(const RouterParams& p) {
  return p.tokens <= kMostListTokens && p.experts <= kThreads && ColumnsOf(p).all <= kMostColumns &&
         p.hidden <= kMostFours * 4 * kThreads;
}

cudaError_t LaunchRouterBatch(const RouterParams& p, cudaStream_t stream, bool apart) {
  constexpr int kMostShared = kRun * (kMostColumns + 16) * 4;
  static const cudaError_t configured = [] {
    const cudaError_t e = cudaFuncSetAttribute(router_batch<Part::kScores>,
                                               cudaFuncAttributeMaxDynamicSharedMemorySize, kMostShared);
    return e != cudaSuccess ? e
                            : cudaFuncSetAttribute(router_batch<Part::kBoth>,
                                                   cudaFuncAttributeMaxDynamicSharedMemorySize, kMostShared);
  }();
  if (configured != cudaSuccess) return configured;
  static const int multiprocessors = [] {
    int device = 0, count = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
    return count;
  }();
  const Columns columns = ColumnsOf(p);
  const dim3 grid((p.experts + kExperts - 1) / kExperts, kBatchSplits), threads(kThreads);
  const int rows = p.tokens < kRun ? (p.tokens + kGroup - 1) / kGroup * kGroup : kRun;
  const size_t shared = rows * columns.pitch() * 4;
  if (!apart && static_cast<int>(grid.x * grid.y) <= multiprocessors) {
    return Launch(router_batch<Part::kBoth>, grid, threads, shared, stream, p, columns);
  }
  const cudaError_t e = Launch(router_batch<Part::kScores>, grid, threads, shared, stream, p, columns);
  if (e != cudaSuccess) return e;
  return Launch(router_batch<Part::kChoices>, dim3(p.tokens), threads, 0, stream, p, columns);
}

}  // namespace minimo::cuda
