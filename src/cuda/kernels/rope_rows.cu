// RoPE and the cache write of bf16 prompts whose heads come in eights of columns: a block takes a token, a thread eight
// columns of a head at a time, four from each half of the rotary part or eight in a row beyond it. What LaunchRope
// says.
#include "cuda/kernels/common.cuh"
#include "cuda/kernels/kv_address.cuh"
#include "cuda/kernels/kv_element.cuh"
#include "cuda/kernels/tokens.cuh"

namespace minimo::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kHeld = 4;  // eights a thread has in flight
constexpr int kMostAngles = 128;

__device__ __forceinline__ float4 scaled(float4 v, float4 w, float factor) {
  return {v.x * w.x * factor, v.y * w.y * factor, v.z * w.z * factor, v.w * w.w * factor};
}
__device__ __forceinline__ void store4(bf16* to, float4 v) {
  *reinterpret_cast<uint2*>(to) = {pack_bf16(v.x, v.y), pack_bf16(v.z, v.w)};
}
__device__ __forceinline__ uint32_t e4m3x4(float4 v) {
  const uint32_t low = __nv_cvt_float2_to_fp8x2({v.x, v.y}, __NV_SATFINITE, __NV_E4M3);
  const uint32_t high = __nv_cvt_float2_to_fp8x2({v.z, v.w}, __NV_SATFINITE, __NV_E4M3);
  return low | high << 16;
}
__device__ __forceinline__ void store4(e4m3* to, float4 v) { *reinterpret_cast<uint32_t*>(to) = e4m3x4(v); }
// What the cache holds then, as bf16.
__device__ __forceinline__ void store_wide4(void* wide, int64_t at, float4 v) {
  const uint4 bits = widen_e4m3({e4m3x4(v), 0});
  *reinterpret_cast<uint2*>(static_cast<bf16*>(wide) + at) = {bits.x, bits.y};
}

// Where a token's row of head 0 goes; heads are `pitch` elements apart.
template <typename Kv>
struct Row {
  Kv* first;
  int64_t pitch;
};
template <typename Kv>
__device__ __forceinline__ Row<Kv> row_of(const KvView& view, void* fresh, const TokenMeta& meta, int token,
                                          int position) {
  if (fresh != nullptr) return {static_cast<Kv*>(fresh) + int64_t{token} * view.kv_heads * view.dim, view.dim};
  return {static_cast<Kv*>(view.data) + cache_row(view, meta, token, position, 0), int64_t{view.rows} * view.dim};
}

// Four columns as the product left them.
__device__ __forceinline__ float4 widen4(float4 v) { return v; }
__device__ __forceinline__ float4 widen4(uint2 v) {
  return {__uint_as_float(v.x << 16), __uint_as_float(v.x & 0xffff0000), __uint_as_float(v.y << 16),
          __uint_as_float(v.y & 0xffff0000)};
}

// What a thread takes in its n-th turn: eight columns of a head of queries or, after those, of keys: i .. i + 3 and
// j .. j + 3, which are rotated with each other or stand side by side.
struct Item {
  int head, i, j;
  bool key, rotated;
};
// kHeadDim: 0 for any; of 128 a thread's columns are the same in every turn.
template <int kHeadDim>
__device__ __forceinline__ Item item_of(const RopeParams& p, int n) {
  const int half = p.rotary_dim / 2, eights = (kHeadDim > 0 ? kHeadDim : p.head_dim) / 8;
  Item item;
  int eight;
  if constexpr (kHeadDim > 0) {
    static_assert(kThreads * 8 % kHeadDim == 0);
    item.head = n * (kThreads / eights) + static_cast<int>(threadIdx.x) / eights, eight = threadIdx.x % eights;
  } else {
    const int at = n * kThreads + static_cast<int>(threadIdx.x);
    item.head = at / eights, eight = at % eights;
  }
  item.key = item.head >= p.heads, item.rotated = eight * 4 < half;
  item.i = item.rotated ? eight * 4 : eight * 8;
  item.j = item.rotated ? item.i + half : item.i + 4;
  return item;
}

template <typename Kv, typename Qkv, typename Four, int kHeadDim>
__global__ void __launch_bounds__(kThreads, sizeof(Qkv) == 2 ? 5 : 3) rope_rows(const RopeParams p) {
  __shared__ float partial[2][kWarps];
  __shared__ __align__(16) float sine[kMostAngles], cosine[kMostAngles];
  const int token = blockIdx.x, warp = threadIdx.x / 32;
  allow_next_kernel();
  wait_previous_kernel();
  const void* rows = sizeof(Qkv) == 2 ? p.qkv_bf16 : p.qkv;
  const Qkv* row = static_cast<const Qkv*>(rows) + int64_t{token} * p.qkv_stride;
  const int position = load_l2(p.meta.position + token), half = p.rotary_dim / 2;
  const int head_dim = kHeadDim > 0 ? kHeadDim : p.head_dim, heads = p.heads + p.kv_heads;
  const bool norm = p.q_norm != nullptr;

  struct Held {
    Four a, b;
  };
  const auto load = [&](int n) {
    Held x = {};
    const Item at = item_of<kHeadDim>(p, n);
    if (at.head >= heads) return x;
    const Qkv* from = row + (at.key ? p.k_offset - p.heads * head_dim : 0) + at.head * head_dim;
    x.a = __ldcg(reinterpret_cast<const Four*>(from + at.i)), x.b = __ldcg(reinterpret_cast<const Four*>(from + at.j));
    return x;
  };
  Held held[kHeld];
#pragma unroll
  for (int n = 0; n < kHeld; ++n) held[n] = load(n);
  const Row<Kv> key = row_of<Kv>(p.k, p.fresh_k, p.meta, token, position);
  const Row<Kv> value = row_of<Kv>(p.v, p.fresh_v, p.meta, token, position);
  for (int c = threadIdx.x; c < half; c += kThreads) {
    sincosf(static_cast<float>(position) * __ldg(p.inverse_frequency + c), &sine[c], &cosine[c]);
  }
  float factor[2] = {1, 1};  // of the queries, of the keys
  if (norm && p.norm_sums != nullptr) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float columns = static_cast<float>(i == 0 ? p.whole_q : p.whole_k);
      factor[i] = rsqrtf(load_l2(p.norm_sums + 2 * token + i) / columns + p.norm_eps);
    }
  } else if (norm) {  // squares of 16 columns each, q's first
    const int q_parts = p.k_offset / 16, parts = p.v_offset / 16;
    float sums[2] = {};
    for (int i = threadIdx.x; i < parts; i += kThreads) {
      const float x = load_l2(p.square_sums + int64_t{token} * p.square_sum_count + i);
      sums[0] += i < q_parts ? x : 0.0f, sums[1] += i < q_parts ? 0.0f : x;
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      sums[i] = warp_sum(sums[i]);
      if (threadIdx.x % 32 == 0) partial[i][warp] = sums[i];
    }
  }
  __syncthreads();
  if (norm && p.norm_sums == nullptr) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float sum = 0;
      for (int w = 0; w < kWarps; ++w) sum += partial[i][w];
      factor[i] = rsqrtf(sum / static_cast<float>((i == 0 ? p.heads : p.kv_heads) * head_dim) + p.norm_eps);
    }
  }
  bf16* q = static_cast<bf16*>(p.q) + int64_t{token} * p.heads * head_dim;
  const auto put = [&](int n, const Held& x) {
    const Item at = item_of<kHeadDim>(p, n);
    if (at.head >= heads) return;
    float4 a = widen4(x.a), b = widen4(x.b);
    if (norm) {
      const float* weight = (at.key ? p.k_norm - p.heads * head_dim : p.q_norm) + at.head * head_dim;
      a = scaled(a, __ldg(reinterpret_cast<const float4*>(weight + at.i)), factor[at.key]);
      b = scaled(b, __ldg(reinterpret_cast<const float4*>(weight + at.j)), factor[at.key]);
    }
    if (at.rotated) {
      const float4 c = *reinterpret_cast<const float4*>(cosine + at.i);
      const float4 s = *reinterpret_cast<const float4*>(sine + at.i), u = a;
      a = {u.x * c.x - b.x * s.x, u.y * c.y - b.y * s.y, u.z * c.z - b.z * s.z, u.w * c.w - b.w * s.w};
      b = {b.x * c.x + u.x * s.x, b.y * c.y + u.y * s.y, b.z * c.z + u.z * s.z, b.w * c.w + u.w * s.w};
    }
    if (at.key) {
      Kv* to = key.first + (at.head - p.heads) * key.pitch;
      store4(to + at.i, a), store4(to + at.j, b);
      if constexpr (sizeof(Kv) == 1) {
        const int64_t wide = (int64_t{token} * p.kv_heads + at.head - p.heads) * head_dim;
        if (p.wide_k != nullptr) store_wide4(p.wide_k, wide + at.i, a), store_wide4(p.wide_k, wide + at.j, b);
      }
    } else {
      bf16* to = q + at.head * head_dim;
      store4(to + at.i, a), store4(to + at.j, b);
    }
  };
#pragma unroll
  for (int n = 0; n < kHeld; ++n) put(n, held[n]);
  for (int n = kHeld; n * kThreads < heads * (head_dim / 8); ++n) put(n, load(n));
  const int fours = p.v_head_dim / 4;
  for (int at = threadIdx.x; at < p.kv_heads * fours; at += kThreads) {
    const float4 v = widen4(__ldcg(reinterpret_cast<const Four*>(row + p.v_offset) + at));
    const float4 one = {1, 1, 1, 1}, x = scaled(v, one, p.value_scale);
    store4(value.first + at / fours * value.pitch + at % fours * 4, x);
    if constexpr (sizeof(Kv) == 1) {
      if (p.wide_v != nullptr) store_wide4(p.wide_v, (int64_t{token} * p.kv_heads * fours + at) * 4, x);
    }
  }
}

template <typename Kv, typename Qkv, typename Four>
cudaError_t LaunchShape(const RopeParams& p, cudaStream_t stream) {
  const auto kernel = p.head_dim == 128 ? rope_rows<Kv, Qkv, Four, 128> : rope_rows<Kv, Qkv, Four, 0>;
  return Launch(kernel, dim3(p.tokens), dim3(kThreads), 0, stream, p);
}
template <typename Kv>
cudaError_t LaunchProduct(const RopeParams& p, cudaStream_t stream) {
  return p.qkv_bf16 != nullptr ? LaunchShape<Kv, bf16, uint2>(p, stream) : LaunchShape<Kv, float, float4>(p, stream);
}

}  // namespace

bool HasRopeRows(const RopeParams& p) {
  if (p.tokens < kRopeRowsTokens || p.k.half) return false;
  return p.head_dim % 8 == 0 && p.v_head_dim % 8 == 0 && p.rotary_dim % 8 == 0 &&
         p.rotary_dim / 2 <= kMostAngles && p.qkv_stride % 4 == 0 && p.k_offset % 16 == 0 && p.v_offset % 16 == 0;
}

cudaError_t LaunchRopeRows(const RopeParams& p, cudaStream_t stream) {
  return p.k.element_bytes == 1 ? LaunchProduct<e4m3>(p, stream) : LaunchProduct<bf16>(p, stream);
}

}  // namespace minimo::cuda
