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
__device__ __forceinline__ void store4(e4m3* to, float4 v) {
  const uint32_t low = __nv_cvt_float2_to_fp8x2({v.x, v.y}, __NV_SATFINITE, __NV_E4M3);
  const uint32_t high = __nv_cvt_float2_to_fp8x2({v.z, v.w}, __NV_SATFINITE, __NV_E4M3);
  *reinterpret_cast<uint32_t*>(to) = low | high << 16;
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

template <typename Kv, typename Qkv, typename Four>
__global__ void __launch_bounds__(kThreads, sizeof(Qkv) == 2 ? 5 : 3) rope_rows(const RopeParams p) {
  __shared__ float partial[2][kWarps];
  __shared__ __align__(16) float sine[kMostAngles], cosine[kMostAngles];
  const int token = blockIdx.x, warp = threadIdx.x / 32;
  allow_next_kernel();
  wait_previous_kernel();
  const void* rows = sizeof(Qkv) == 2 ? p.qkv_bf16 : p.qkv;
  const Qkv* row = static_cast<const Qkv*>(rows) + int64_t{token} * p.qkv_stride;
  const int position = load_l2(p.meta.position + token), half = p.rotary_dim / 2;
  const int eights = p.head_dim / 8, key_heads = p.heads + p.kv_heads, all = key_heads * eights;
  const bool norm = p.q_norm != nullptr;

  struct Item {
    Four a, b;
  };
  // Eight columns of a head: i .. i + 3 and j .. j + 3.
  const auto columns_of = [&](int at, int& head, int& i, int& j) {
    head = at / eights;
    const int eight = at % eights;
    i = eight * 4 < half ? eight * 4 : eight * 8;
    j = eight * 4 < half ? i + half : i + 4;
  };
  const auto load = [&](int at) {
    Item x = {};
    if (at >= all) return x;
    int head, i, j;
    columns_of(at, head, i, j);
    const bool key = head >= p.heads;
    const int start = (key ? head - p.heads : head) * p.head_dim;
    const Qkv* from = row + (key ? p.k_offset : 0) + start;
    x.a = __ldcg(reinterpret_cast<const Four*>(from + i)), x.b = __ldcg(reinterpret_cast<const Four*>(from + j));
    return x;
  };
  Item held[kHeld];
#pragma unroll
  for (int n = 0; n < kHeld; ++n) held[n] = load(n * kThreads + static_cast<int>(threadIdx.x));
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
      factor[i] = rsqrtf(sum / static_cast<float>((i == 0 ? p.heads : p.kv_heads) * p.head_dim) + p.norm_eps);
    }
  }
  bf16* q = static_cast<bf16*>(p.q) + int64_t{token} * p.heads * p.head_dim;
  const auto put = [&](int at, const Item& x) {
    if (at >= all) return;
    int head, i, j;
    columns_of(at, head, i, j);
    const bool is_key = head >= p.heads;
    float4 a = widen4(x.a), b = widen4(x.b);
    if (norm) {
      const float* weight = is_key ? p.k_norm + (head - p.heads) * p.head_dim : p.q_norm + head * p.head_dim;
      a = scaled(a, __ldg(reinterpret_cast<const float4*>(weight + i)), factor[is_key]);
      b = scaled(b, __ldg(reinterpret_cast<const float4*>(weight + j)), factor[is_key]);
    }
    if (i < half) {
      const float4 c = *reinterpret_cast<const float4*>(cosine + i), s = *reinterpret_cast<const float4*>(sine + i);
      const float4 u = a;
      a = {u.x * c.x - b.x * s.x, u.y * c.y - b.y * s.y, u.z * c.z - b.z * s.z, u.w * c.w - b.w * s.w};
      b = {b.x * c.x + u.x * s.x, b.y * c.y + u.y * s.y, b.z * c.z + u.z * s.z, b.w * c.w + u.w * s.w};
    }
    if (is_key) {
      Kv* to = key.first + (head - p.heads) * key.pitch;
      store4(to + i, a), store4(to + j, b);
    } else {
      store4(q + head * p.head_dim + i, a), store4(q + head * p.head_dim + j, b);
    }
  };
#pragma unroll
  for (int n = 0; n < kHeld; ++n) put(n * kThreads + static_cast<int>(threadIdx.x), held[n]);
  for (int at = kHeld * kThreads + static_cast<int>(threadIdx.x); at < all; at += kThreads) put(at, load(at));
  const int fours = p.v_head_dim / 4;
  for (int at = threadIdx.x; at < p.kv_heads * fours; at += kThreads) {
    const float4 v = widen4(__ldcg(reinterpret_cast<const Four*>(row + p.v_offset) + at));
    const float4 one = {1, 1, 1, 1};
    store4(value.first + at / fours * value.pitch + at % fours * 4, scaled(v, one, p.value_scale));
  }
}

}  // namespace

bool HasRopeRows(const RopeParams& p) {
  if (p.tokens < kRopeRowsTokens || p.k.half) return false;
  return p.head_dim % 8 == 0 && p.v_head_dim % 8 == 0 && p.rotary_dim % 8 == 0 &&
         p.rotary_dim / 2 <= kMostAngles && p.qkv_stride % 4 == 0 && p.k_offset % 16 == 0 && p.v_offset % 16 == 0;
}

cudaError_t LaunchRopeRows(const RopeParams& p, cudaStream_t stream) {
  const bool fp8 = p.k.element_bytes == 1;
  const auto kernel = p.qkv_bf16 != nullptr ? (fp8 ? rope_rows<e4m3, bf16, uint2> : rope_rows<bf16, bf16, uint2>)
                                            : (fp8 ? rope_rows<e4m3, float, float4> : rope_rows<bf16, float, float4>);
  return Launch(kernel, dim3(p.tokens), dim3(kThreads), 0, stream, p);
}

}  // namespace minimo::cuda
