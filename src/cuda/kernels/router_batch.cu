// The router for up to 256 tokens, float32 FMA throughout: near ties must fall as in the reference.
// - Scores: a block has 32 experts and one of kBatchSplits runs of columns; its weights, times the norm's, are in
//   shared memory before the step's tokens are there. 32 or 64 tokens at a time, a thread 2 experts x 2 or 4 tokens.
// - Choices: a block a token; the last block to finish makes the lists (choice_lists.cuh). Each then
//   writes its token's row for the experts (expert_rows.cuh).
// Shared memory: rows of at most 256 columns, 16 bytes apart so that neighbouring rows fall into other banks: 32 of
// weights, 33 KB, and twice 64 of tokens, 133 KB.
#include "cuda/kernels/choice_lists.cuh"
#include "cuda/kernels/choose.cuh"
#include "cuda/kernels/common.cuh"
#include "cuda/kernels/expert_rows.cuh"
#include "cuda/kernels/router.cuh"

namespace minimo::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kExperts = 32;
constexpr int kMostColumns = 256;

__host__ __device__ constexpr int Pitch(int columns) { return columns + 4; }  // floats

// kTokens: at a time.
template <int kTokens>
__global__ void __launch_bounds__(kThreads) router_scores(const RouterParams p, int columns) {
  constexpr int kMine = kTokens / 16;
  extern __shared__ __align__(16) float smem[];
  const int pitch = Pitch(columns), first_expert = blockIdx.x * kExperts, column0 = blockIdx.y * columns;
  const int fours = min(columns, max(p.hidden - column0, 0)) / 4;
  float* weights = smem;
  float* x = smem + kExperts * pitch;  // [2][kTokens][pitch]
  for (int i = threadIdx.x; i < kExperts * fours; i += kThreads) {
    const int row = i / fours, c = i - row * fours;
    float4 v = {0, 0, 0, 0};
    if (first_expert + row < p.experts) {
      v = __ldcs(reinterpret_cast<const float4*>(p.weights + int64_t{first_expert + row} * p.hidden + column0) + c);
      const float4 n = __ldg(reinterpret_cast<const float4*>(p.norm_weight + column0) + c);
      v = {v.x * n.x, v.y * n.y, v.z * n.z, v.w * n.w};
    }
    reinterpret_cast<float4*>(weights + row * pitch)[c] = v;
  }
  const auto request = [&](int first) {
    float* to = x + first / kTokens % 2 * kTokens * pitch;
    const int count = min(kTokens, p.tokens - first);
    for (int i = threadIdx.x; i < count * fours; i += kThreads) {
      const int row = i / fours, c = i - row * fours;
      copy_async16(to + row * pitch + 4 * c, p.residual + int64_t{first + row} * p.hidden + column0 + 4 * c);
    }
    copy_commit();
  };
  allow_next_kernel();
  wait_previous_kernel();
  request(0);
  const int ty = threadIdx.x / 16, tx = threadIdx.x % 16;
  for (int first = 0; first < p.tokens; first += kTokens) {
    if (first + kTokens < p.tokens) {
      request(first + kTokens);
      copy_wait<1>();
    } else {
      copy_wait<0>();
    }
    __syncthreads();
    const float4* rows = reinterpret_cast<const float4*>(x + (first / kTokens % 2 * kTokens + ty) * pitch);
    const float4* w = reinterpret_cast<const float4*>(weights + tx * pitch);
    float sum[kMine][2] = {};
#pragma unroll 2
    for (int c = 0; c < fours; ++c) {
      const float4 w0 = w[c], w1 = w[16 * pitch / 4 + c];
#pragma unroll
      for (int i = 0; i < kMine; ++i) {
        const float4 v = rows[i * 16 * pitch / 4 + c];
        sum[i][0] = fmaf(v.w, w0.w, fmaf(v.z, w0.z, fmaf(v.y, w0.y, fmaf(v.x, w0.x, sum[i][0]))));
        sum[i][1] = fmaf(v.w, w1.w, fmaf(v.z, w1.z, fmaf(v.y, w1.y, fmaf(v.x, w1.x, sum[i][1]))));
      }
    }
#pragma unroll
    for (int i = 0; i < kMine; ++i) {
      const int token = first + ty + 16 * i;
      if (token >= p.tokens) break;
      float* to = p.logits + (int64_t{blockIdx.y} * p.tokens + token) * p.experts + first_expert + tx;
      if (first_expert + tx < p.experts) to[0] = sum[i][0];
      if (first_expert + tx + 16 < p.experts) to[16] = sum[i][1];
    }
    __syncthreads();
  }
}

constexpr int kMostFours = 4;  // of a row, a thread: 4096 columns

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
  __device__ __forceinline__ void write(const RouterParams& p, int token, float norm, unsigned* most) const {
    const ExpertRow shape = {p.row_units, p.rows_int4};
    uint8_t* row = p.rows + int64_t{token} * shape.bytes();
    uint32_t mine = 0;
#pragma unroll
    for (int i = 0; i < kMostFours; ++i) mine = max(mine, magnitude_bits(held[i]));
    mine = __reduce_max_sync(0xffffffffu, mine);
    if (threadIdx.x % 32 == 0) atomicMax(most, mine);
    __syncthreads();
    float down;
    const float up = half_scale(*most, down);
#pragma unroll
    for (int i = 0; i < kMostFours; ++i) {
      const int four = i * kThreads + static_cast<int>(threadIdx.x);
      if (four < p.row_units * kUnitCols / 4) put_four(shape, row, four, held[i], up);
    }
    if (threadIdx.x == 0) *reinterpret_cast<float*>(row + shape.factor()) = down * norm;
  }
};

// A block a token, a thread an expert.
__global__ void __launch_bounds__(kThreads) router_choices(const RouterParams p) {
  __shared__ ListScratch<kMostListTokens> scratch;
  __shared__ Choice choice;
  __shared__ bool last;
  __shared__ unsigned most;
  if (threadIdx.x == 0) most = 0;
  allow_next_kernel();
  const int token = blockIdx.x, expert = threadIdx.x, lane = threadIdx.x % 32;
  const float* biases = p.bias != nullptr ? p.bias + int64_t{token} * p.bias_stride : nullptr;
  const float bias = biases != nullptr && expert < p.experts ? __ldg(biases + expert) : 0.0f;
  wait_previous_kernel();
  float squares = 0, part[kBatchSplits] = {};
#pragma unroll 8
  for (int i = lane; i < p.square_sum_count; i += 32) {
    squares += load_l2(p.square_sums + int64_t{token} * p.square_sum_count + i);
  }
  float* logits = p.logits + int64_t{token} * p.experts;
  if (expert < p.experts) {
#pragma unroll
    for (int s = 0; s < kBatchSplits; ++s) part[s] = load_l2(logits + int64_t{s} * p.tokens * p.experts + expert);
  }
  RowMaker row;
  if (p.rows != nullptr) row.load(p, token);
  squares = warp_sum(squares);
  const float norm = rsqrtf(squares / static_cast<float>(p.hidden) + p.norm_eps);
  float logit = 0;
#pragma unroll
  for (int s = 0; s < kBatchSplits; ++s) logit += part[s];
  if (expert < p.experts) logits[expert] = logit * norm;
  if (threadIdx.x == 0) p.token_squares[token] = squares;
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
    __threadfence();
  }
  __syncthreads();
  if (threadIdx.x == 0) last = atomicAdd(p.counter, 1) == static_cast<int>(gridDim.x) - 1;
  __syncthreads();
  if (p.rows != nullptr) row.write(p, token, norm, &most);
  if (!last) return;
  __threadfence();
  if (threadIdx.x == 0) *p.counter = 0;
  list_choices(p, scratch);
}

int ColumnsOf(const RouterParams& p) { return (p.hidden + 4 * kBatchSplits - 1) / (4 * kBatchSplits) * 4; }

template <int kTokens>
cudaError_t LaunchScores(const RouterParams& p, cudaStream_t stream) {
  constexpr int kMostSmem = (kExperts + 2 * kTokens) * Pitch(kMostColumns) * 4;
  static const cudaError_t configured =
      cudaFuncSetAttribute(router_scores<kTokens>, cudaFuncAttributeMaxDynamicSharedMemorySize, kMostSmem);
  if (configured != cudaSuccess) return configured;
  const int columns = ColumnsOf(p), buffers = p.tokens > kTokens ? 2 : 1;
  return Launch(router_scores<kTokens>, dim3((p.experts + kExperts - 1) / kExperts, kBatchSplits), dim3(kThreads),
                (kExperts + buffers * kTokens) * Pitch(columns) * 4, stream, p, columns);
}

}  // namespace

bool CanRouteBatch(const RouterParams& p) {
  return p.tokens <= kMostListTokens && p.experts <= kThreads && ColumnsOf(p) <= kMostColumns &&
         p.hidden <= kMostFours * 4 * kThreads;
}

cudaError_t LaunchRouterBatch(const RouterParams& p, cudaStream_t stream) {
  if (cudaError_t e = p.tokens <= 32 ? LaunchScores<32>(p, stream) : LaunchScores<64>(p, stream)) return e;
  return Launch(router_choices, dim3(p.tokens), dim3(kThreads), 0, stream, p);
}

}  // namespace minimo::cuda
