#include "cuda/kernels/common.cuh"
#include "cuda/kernels/kv_address.cuh"
#include "cuda/kernels/kv_element.cuh"
#include "cuda/kernels/split_unit.cuh"
#include "cuda/kernels/tokens.cuh"

namespace minimo::cuda {
namespace {

constexpr int kThreads = kRowColumns / 4;

__device__ __forceinline__ void store4(float* p, float4 v) { *reinterpret_cast<float4*>(p) = v; }
__device__ __forceinline__ void store4(bf16* p, float4 v) {
  *reinterpret_cast<uint2*>(p) = {pack_bf16(v.x, v.y), pack_bf16(v.z, v.w)};
}

constexpr int kMostExperts = 32;  // a token

// A block has 4 kThreads columns of a row, so that all its loads are on their way at once.
template <typename Act>
__global__ void __launch_bounds__(kThreads) start_row(const RowParams p) {
  __shared__ float scratch[kThreads / 32];
  __shared__ int slots[kMostExperts];
  const int token = blockIdx.y, c = blockIdx.x * kThreads + threadIdx.x, columns = p.hidden / 4;
  const bool mine = c < columns;
  float4* residual = reinterpret_cast<float4*>(p.residual + int64_t{token} * p.hidden);
  Act* next_x = static_cast<Act*>(p.next_x) + int64_t{token} * p.next_x_stride;
  const float4 w = mine ? __ldg(reinterpret_cast<const float4*>(p.next_norm) + c) : float4{0, 0, 0, 0};
  wait_previous_kernel();
  float4 x = {0, 0, 0, 0};
  if (p.embedding == nullptr) {
    if (mine) x = load_l2(residual + c);
    if (threadIdx.x < p.top_k) slots[threadIdx.x] = load_l2(p.slot_of + token * p.top_k + threadIdx.x);
    __syncthreads();
#pragma unroll 8
    for (int k = 0; k < p.top_k && mine; ++k) {
      const float4 y = load_l2(reinterpret_cast<const float4*>(p.expert_out + int64_t{slots[k]} * p.hidden) + c);
      x.x += y.x, x.y += y.y, x.z += y.z, x.w += y.w;
    }
  } else if (mine) {
    const int64_t at = int64_t{load_l2(p.token_ids + token)} * columns + c;
    if (p.embedding_f32) {
      x = __ldg(static_cast<const float4*>(p.embedding) + at);
    } else {
      const uint2 v = __ldg(static_cast<const uint2*>(p.embedding) + at);
      x = {__uint_as_float(v.x << 16), __uint_as_float(v.x & 0xffff0000), __uint_as_float(v.y << 16),
           __uint_as_float(v.y & 0xffff0000)};
    }
  }
  const float sum = block_sum<kThreads / 32>(x.x * x.x + x.y * x.y + x.z * x.z + x.w * x.w, scratch);
  // After the wait: kernels that start early read the step's positions, which the kernel before a step's first may
  // write. After the loads: the next kernel's requests for weights would hold them up.
  allow_next_kernel();
  if (threadIdx.x == 0) p.square_sums[token * gridDim.x + blockIdx.x] = sum;
  const float4 y = {x.x * w.x, x.y * w.y, x.z * w.z, x.w * w.w};
  if (p.split.data != nullptr && c / 32 < p.split.units) {
    put_split(p.split, p.tokens, token, c / 32, {pack_bf16(y.x, y.y), pack_bf16(y.z, y.w)});
  }
  if (!mine) return;
  residual[c] = x;
  store4(next_x + 4 * c, y);
}

// One block a token and KV head: its query heads, its key, its value. All loads come before the first store.
template <typename Act, typename Key, typename Value>
__global__ void __launch_bounds__(kThreads) rope_cache(const RopeParams p) {
  constexpr int kHeld = 4;  // pairs of columns a thread and round
  __shared__ float sums[2];
  const int token = blockIdx.x, kv_head = blockIdx.y, group = p.heads / p.kv_heads;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  allow_next_kernel();
  wait_previous_kernel();
  const float* row = p.qkv + int64_t{token} * p.qkv_stride;
  const int position = load_l2(p.meta.position + token);
  if (p.norm_sums != nullptr && p.q_norm != nullptr) {
    if (threadIdx.x < 2) {
      const float columns = static_cast<float>(threadIdx.x == 0 ? p.whole_q : p.whole_k);
      sums[threadIdx.x] = rsqrtf(load_l2(p.norm_sums + 2 * token + threadIdx.x) / columns + p.norm_eps);
    }
  } else if (p.q_norm != nullptr && warp < 2) {  // tiles of 16 rows, q's first
    const int q_tiles = p.k_offset / 16, end = warp == 0 ? q_tiles : p.v_offset / 16;
    float sum = 0;
#pragma unroll 4
    for (int i = (warp == 0 ? 0 : q_tiles) + lane; i < end; i += 32) {
      sum += load_l2(p.square_sums + int64_t{token} * p.square_sum_count + i);
    }
    sum = warp_sum(sum);
    const int columns = (warp == 0 ? p.heads : p.kv_heads) * p.head_dim;
    if (lane == 0) sums[warp] = rsqrtf(sum / static_cast<float>(columns) + p.norm_eps);
  }
  // A pair is columns (i, i + rotary_dim / 2) of a head, or two neighbours beyond the rotary part; the group's query
  // heads first, then the key.
  const int half = p.rotary_dim / 2, pairs = p.head_dim / 2, all = (group + 1) * pairs;
  const auto columns_of = [&](int pair, int& i, int& j) {
    i = pair < half ? pair : 2 * pair;
    j = pair < half ? pair + half : 2 * pair + 1;
  };
  Key* key = p.fresh_k != nullptr ? static_cast<Key*>(p.fresh_k) + (int64_t{token} * p.kv_heads + kv_head) * p.head_dim
                                  : static_cast<Key*>(p.k.data) + cache_row(p.k, p.meta, token, position, kv_head);
  Value* value = p.fresh_v != nullptr
                     ? static_cast<Value*>(p.fresh_v) + (int64_t{token} * p.kv_heads + kv_head) * p.v_head_dim
                     : static_cast<Value*>(p.v.data) + cache_row(p.v, p.meta, token, position, kv_head);
  Act* q = static_cast<Act*>(p.q) + (int64_t{token} * p.heads + kv_head * group) * p.head_dim;
  for (int from = 0; from < all; from += kHeld * kThreads) {
    float a[kHeld], b[kHeld], wa[kHeld], wb[kHeld], sine[kHeld], cosine[kHeld];
#pragma unroll
    for (int n = 0; n < kHeld; ++n) {
      const int at = from + n * kThreads + static_cast<int>(threadIdx.x);
      if (at >= all) continue;
      const int head = at / pairs, pair = at % pairs;
      const bool is_key = head == group;
      int i, j;
      columns_of(pair, i, j);
      const int start = (is_key ? kv_head : kv_head * group + head) * p.head_dim;
      const float* source = row + (is_key ? p.k_offset : 0) + start;
      a[n] = load_l2(source + i), b[n] = load_l2(source + j);
      const float* norm = is_key ? p.k_norm : p.q_norm;
      wa[n] = norm != nullptr ? __ldg(norm + start + i) : 1.0f;
      wb[n] = norm != nullptr ? __ldg(norm + start + j) : 1.0f;
      sine[n] = 0, cosine[n] = 1;
      if (pair < half) sincosf(static_cast<float>(position) * __ldg(p.inverse_frequency + pair), &sine[n], &cosine[n]);
    }
    if (p.q_norm != nullptr) __syncthreads();
#pragma unroll
    for (int n = 0; n < kHeld; ++n) {
      const int at = from + n * kThreads + static_cast<int>(threadIdx.x);
      if (at >= all) continue;
      const int head = at / pairs;
      int i, j;
      columns_of(at % pairs, i, j);
      const float factor = p.q_norm != nullptr ? sums[head == group] : 1.0f;
      const float x = a[n] * factor * wa[n], y = b[n] * factor * wb[n];
      const float u = x * cosine[n] - y * sine[n], v = y * cosine[n] + x * sine[n];
      if (head == group) {
        store(key + i, u), store(key + j, v);
      } else {
        store(q + head * p.head_dim + i, u), store(q + head * p.head_dim + j, v);
      }
    }
  }
  for (int c = threadIdx.x; c < p.v_head_dim; c += kThreads) {
    store(value + c, load_l2(row + p.v_offset + kv_head * p.v_head_dim + c) * p.value_scale);
  }
}

template <typename Kv>
__global__ void write_ring(const KvView v, const Kv* fresh, const TokenMeta meta) {
  allow_next_kernel();
  wait_previous_kernel();
  const int token = blockIdx.x, position = load_l2(meta.position + token);
  if (position + v.rows <= load_l2(meta.last + token)) return;
  for (int c = threadIdx.x; c < v.kv_heads * v.dim; c += blockDim.x) {
    const int head = c / v.dim;
    static_cast<Kv*>(v.data)[cache_row(v, meta, token, position, head) + c % v.dim] =
        fresh[int64_t{token} * v.kv_heads * v.dim + c];
  }
}

__global__ void copy_cache(uint8_t* data, int64_t bytes, const int* from, const int* to) {
  allow_next_kernel();
  wait_previous_kernel();
  const uint8_t* source = data + load_l2(from + blockIdx.y) * bytes;
  uint8_t* target = data + load_l2(to + blockIdx.y) * bytes;
  const int64_t first = int64_t{blockIdx.x} * blockDim.x + threadIdx.x, stride = int64_t{gridDim.x} * blockDim.x;
  if (bytes % 16 == 0) {
    for (int64_t i = first; i < bytes / 16; i += stride) {
      reinterpret_cast<uint4*>(target)[i] = load_l2(reinterpret_cast<const uint4*>(source) + i);
    }
  } else {  // odd heads in blocks of a token or two
    for (int64_t i = first; i < bytes; i += stride) target[i] = __ldcg(source + i);
  }
}

}  // namespace

cudaError_t LaunchRow(const RowParams& p, bool f32_activations, cudaStream_t stream) {
  const dim3 grid(RowParts(p.hidden), p.tokens);
  return Launch(f32_activations ? start_row<float> : start_row<bf16>, grid, dim3(kThreads), 0, stream, p);
}

cudaError_t LaunchRope(const RopeParams& p, bool f32_activations, cudaStream_t stream) {
  if (!f32_activations && HasRopeRows(p)) return LaunchRopeRows(p, stream);
  const bool fp8 = p.k.element_bytes == 1;
  const auto exact = fp8 ? rope_cache<float, e4m3, e4m3> : rope_cache<float, float, float>;
  const auto kernel = f32_activations ? exact
                      : fp8           ? rope_cache<bf16, e4m3, e4m3>
                      : p.k.half      ? rope_cache<bf16, __half, bf16>
                                      : rope_cache<bf16, bf16, bf16>;
  return Launch(kernel, dim3(p.tokens, p.kv_heads), dim3(kThreads), 0, stream, p);
}

namespace {

template <typename Kv>
cudaError_t WriteRing(const KvView& view, const void* fresh, int tokens, const TokenMeta& meta, cudaStream_t stream) {
  return Launch(write_ring<Kv>, dim3(tokens), dim3(kThreads), 0, stream, view, static_cast<const Kv*>(fresh), meta);
}

}  // namespace

cudaError_t LaunchRingWrite(const KvView& view, const void* fresh, int tokens, const TokenMeta& meta,
                            cudaStream_t stream) {
  const auto write = view.element_bytes == 1   ? WriteRing<e4m3>
                     : view.element_bytes == 2 ? WriteRing<bf16>
                                               : WriteRing<float>;
  return write(view, fresh, tokens, meta, stream);
}

cudaError_t LaunchCacheCopy(const KvView& view, const int* from, const int* to, int count, cudaStream_t stream) {
  const int64_t bytes = int64_t{view.kv_heads} * view.rows * view.dim * view.element_bytes;
  return Launch(copy_cache, dim3(8, count), dim3(kThreads), 0, stream, static_cast<uint8_t*>(view.data), bytes, from,
                to);
}

}  // namespace minimo::cuda
