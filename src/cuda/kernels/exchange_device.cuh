// Device code that the sums over GPUs share.
#pragma once

#include "cuda/kernels/common.cuh"
#include "cuda/kernels/exchange.cuh"

namespace minimo::cuda {

__device__ __forceinline__ uint64_t now_ns() {
  uint64_t t;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(t));
  return t;
}

__device__ __forceinline__ void begin_exchange(const PeerView& p) {
  if (!p.one_device) allow_next_kernel();
  wait_previous_kernel();
}

// To be asked now and then while waiting; begin: 0 at first. True once a rank has been given up.
__device__ __forceinline__ bool given_up(const PeerView& p, uint64_t* begin) {
  if (*static_cast<volatile uint32_t*>(p.state + 2) != 0) return true;
  if (*begin == 0) *begin = now_ns();
  if (now_ns() - *begin <= p.timeout_ns) return false;
  *static_cast<volatile uint32_t*>(p.state + 2) = 1;
  *static_cast<volatile uint32_t*>(p.host_fault) = 1;
  __threadfence_system();
  return true;
}

// The last block of the exchange counts it.
__device__ __forceinline__ void finish(const PeerView& p, uint32_t epoch) {
  __syncthreads();
  if (threadIdx.x == 0 && atomicAdd(p.state + 1, 1) == gridDim.x - 1) {
    p.state[1] = 0;
    p.state[0] = epoch;
  }
}

__device__ __forceinline__ float4 load4(const float* p) { return load_l2(reinterpret_cast<const float4*>(p)); }
__device__ __forceinline__ float4 load4(const bf16* p) {
  const uint2 v = __ldcg(reinterpret_cast<const uint2*>(p));
  return {__uint_as_float(v.x << 16), __uint_as_float(v.x & 0xffff0000), __uint_as_float(v.y << 16),
          __uint_as_float(v.y & 0xffff0000)};
}

// How many slots' loads go together: all that most tokens have. Where a part is one row, loads for eight would make the
// sum up to a quarter slower (an H200, 32 tokens and more).
constexpr int kSlotsAtOnce = 8;
inline bool OneSlot(const SumRowsParams& p) { return p.slot_of == nullptr && p.top_k == 1; }

// Slots of a token's part from `first` on; below 0: another rank's, or none. kSlots = 1: OneSlot(p).
template <int kSlots>
__device__ __forceinline__ void own_slots(const SumRowsParams& p, int token, int first, int (&slots)[kSlots]) {
  if constexpr (kSlots == 1) {
    slots[0] = token;
  } else {
#pragma unroll
    for (int k = 0; k < kSlots; ++k) slots[k] = first + k < p.top_k ? (first + k) * p.tokens + token : -1;
    if (p.slot_of == nullptr) return;
#pragma unroll
    for (int k = 0; k < kSlots; ++k) {
      if (slots[k] >= 0) slots[k] = load_l2(p.slot_of + token * p.top_k + first + k);
    }
  }
}
template <int kSlots>
__device__ __forceinline__ int slots_end(const SumRowsParams& p) {
  return kSlots == 1 ? 1 : p.top_k;
}

// kSlots loads are on their way before the first is added.
template <int kSlots, typename Part>
__device__ __forceinline__ float4 own_part(const SumRowsParams& p, const Part* partial, int token, int column) {
  float4 x = {0, 0, 0, 0};
  if (!p.part.have(token)) return x;
  for (int first = 0; first < slots_end<kSlots>(p); first += kSlots) {
    int slots[kSlots];
    float4 y[kSlots];
    own_slots(p, token, first, slots);
#pragma unroll
    for (int k = 0; k < kSlots; ++k) {
      y[k] = {0, 0, 0, 0};
      if (slots[k] >= 0) y[k] = load4(partial + int64_t{slots[k]} * p.hidden + column);
    }
#pragma unroll
    for (int k = 0; k < kSlots; ++k) x.x += y[k].x, x.y += y[k].y, x.z += y[k].z, x.w += y[k].w;
  }
  return x;
}
template <int kSlots>
__device__ __forceinline__ float4 own_part(const SumRowsParams& p, int token, int column) {
  return p.partial_bf16 ? own_part<kSlots>(p, static_cast<const bf16*>(p.partial), token, column)
                        : own_part<kSlots>(p, static_cast<const float*>(p.partial), token, column);
}

__device__ __forceinline__ void store4(float* p, float4 v) { *reinterpret_cast<float4*>(p) = v; }
__device__ __forceinline__ void store4(bf16* p, float4 v) {
  *reinterpret_cast<uint2*>(p) = {pack_bf16(v.x, v.y), pack_bf16(v.z, v.w)};
}

}  // namespace minimo::cuda
