// A packet is 16 bytes, {value, epoch, value, epoch}, each half one 8-byte store that arrives whole: the data is its
// own flag, so one trip over NVLink and no fence. Epochs count exchanges, alternately in the two halves of an inbox:
// a rank writes into a half again only two exchanges later, when the one between has shown that its reader is done
// (that exchange needs a packet of every rank, sent after the rank had finished the one before).
//
// So a rank that has no part of any row sends zeros for one.
//
// Blocks all fit the device at once and walk their chunks in the same order on every rank, each sending before it
// waits: no rank can wait for one that waits for it.
#include <algorithm>

#include "cuda/kernels/exchange_device.cuh"

namespace minimo::cuda {
namespace {

constexpr int kThreads = kExchangeColumns / 4;
constexpr int kMostBlocks = 132 * 8;  // resident: 128 threads and few registers each
constexpr int kNormWarps = 4;
constexpr int kMostNormBlocks = 132 * 2;

__device__ __forceinline__ void send(uint8_t* packet, float a, float b, uint32_t epoch) {
  asm volatile("st.volatile.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(packet), "r"(__float_as_uint(a)), "r"(epoch),
               "r"(__float_as_uint(b)), "r"(epoch)
               : "memory");
}

// Zeros once a rank has been given up.
__device__ __forceinline__ float2 receive(const PeerView& p, const uint8_t* packet, uint32_t epoch) {
  uint32_t a, fa, b, fb;
  uint64_t begin = 0;
  for (int spins = 0;; ++spins) {
    asm volatile("ld.volatile.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(a), "=r"(fa), "=r"(b), "=r"(fb)
                 : "l"(packet));
    if (fa == epoch && fb == epoch) return {__uint_as_float(a), __uint_as_float(b)};
    if (spins % 1024 != 1023) continue;
    if (given_up(p, &begin)) return {0, 0};
  }
}

// Packet i of what `from` wrote for `to`.
__device__ __forceinline__ uint8_t* packet_at(const PeerView& p, int to, int from, uint32_t epoch, int64_t i) {
  return p.inbox[to] + (((epoch & 1) * p.ranks + from) * (p.values / 2) + i) * 16;
}

// kAll: every rank has a part of every row.
template <typename Act, bool kAll, int kSlots>
__global__ void __launch_bounds__(kThreads) sum_rows(const SumRowsParams p) {
  __shared__ float scratch[kThreads / 32];
  begin_exchange(p.peers);
  const bool alone = p.peers.ranks == 1;
  const uint32_t epoch = alone ? 0 : __ldcg(p.peers.state) + 1;
  const int parts = ExchangeParts(p.hidden), chunks = p.tokens * parts;
  for (int chunk = blockIdx.x; chunk < chunks; chunk += gridDim.x) {
    const int token = chunk / parts, part = chunk % parts;
    const int column = part * kExchangeColumns + static_cast<int>(threadIdx.x) * 4;
    const bool inside = column < p.hidden;
    float square = 0;
    if (inside) {
      const int64_t at = int64_t{token} * p.hidden + column;
      const float4 mine = own_part<kSlots>(p, token, column);
#pragma unroll
      for (int r = 0; r < kMaxPeers; ++r) {
        if (r >= p.peers.ranks || r == p.peers.rank || !(kAll || p.sent[p.peers.rank].have(token))) continue;
        uint8_t* packet = packet_at(p.peers, r, p.peers.rank, epoch, at / 2);
        send(packet, mine.x, mine.y, epoch);
        send(packet + 16, mine.z, mine.w, epoch);
      }
      float4 x = load_l2(reinterpret_cast<const float4*>(p.residual + at));
      const bool norms = p.next_norm != nullptr;
      const float4 w = norms ? __ldg(reinterpret_cast<const float4*>(p.next_norm + column)) : float4{0, 0, 0, 0};
      float4 sum = {0, 0, 0, 0};
#pragma unroll
      for (int r = 0; r < kMaxPeers; ++r) {
        if (r >= p.peers.ranks || !(kAll || r == p.peers.rank || p.sent[r].have(token))) continue;
        float4 y = mine;
        if (r != p.peers.rank) {
          const uint8_t* packet = packet_at(p.peers, p.peers.rank, r, epoch, at / 2);
          const float2 low = receive(p.peers, packet, epoch), high = receive(p.peers, packet + 16, epoch);
          y = {low.x, low.y, high.x, high.y};
        }
        sum.x += y.x, sum.y += y.y, sum.z += y.z, sum.w += y.w;
      }
      x.x += sum.x, x.y += sum.y, x.z += sum.z, x.w += sum.w;
      store4(p.residual + at, x);
      if (norms) {
        store4(static_cast<Act*>(p.next_x) + int64_t{token} * p.next_x_stride + column,
               {x.x * w.x, x.y * w.y, x.z * w.z, x.w * w.w});
      }
      square = x.x * x.x + x.y * x.y + x.z * x.z + x.w * x.w;
    }
    if (p.square_sums == nullptr) continue;
    const float squares = block_sum<kThreads / 32>(square, scratch);
    if (threadIdx.x == 0) p.square_sums[int64_t{token} * parts + part] = squares;
  }
  if (!alone) finish(p.peers, epoch);
}

// One warp a token.
__global__ void __launch_bounds__(kNormWarps * 32) sum_norms(const SumNormsParams p) {
  begin_exchange(p.peers);
  const int lane = threadIdx.x % 32;
  const bool alone = p.peers.ranks == 1;
  const uint32_t epoch = alone ? 0 : __ldcg(p.peers.state) + 1;
  for (int token = blockIdx.x * kNormWarps + threadIdx.x / 32; token < p.tokens; token += gridDim.x * kNormWarps) {
    const float* squares = p.tile_squares + int64_t{token - p.part.begin} * p.stride;
    const bool mine = p.part.have(token);
    float q = 0, k = 0;
#pragma unroll 8
    for (int i = lane; mine && i < p.q_tiles; i += 32) q += load_l2(squares + i);
#pragma unroll 4
    for (int i = lane; mine && i < p.k_tiles; i += 32) k += load_l2(squares + p.q_tiles + i);
    q = warp_sum(q);
    k = p.counts_k ? warp_sum(k) : 0.0f;
    if (lane < p.peers.ranks && lane != p.peers.rank) {
      send(packet_at(p.peers, lane, p.peers.rank, epoch, token), q, k, epoch);
    }
    float2 theirs = {q, k};
    if (lane < p.peers.ranks && lane != p.peers.rank) {
      theirs = receive(p.peers, packet_at(p.peers, p.peers.rank, lane, epoch, token), epoch);
    }
    float all_q = 0, all_k = 0;
    for (int r = 0; r < p.peers.ranks; ++r) {
      all_q += __shfl_sync(0xffffffffu, theirs.x, r);
      all_k += __shfl_sync(0xffffffffu, theirs.y, r);
    }
    if (lane == 0) p.sums[2 * token] = all_q, p.sums[2 * token + 1] = all_k;
  }
  if (!alone) finish(p.peers, epoch);
}

__global__ void __launch_bounds__(kThreads) write_own_part(const SumRowsParams p, float* out) {
  allow_next_kernel();
  wait_previous_kernel();
  const int column = blockIdx.x * kExchangeColumns + static_cast<int>(threadIdx.x) * 4, token = blockIdx.y;
  if (column >= p.hidden) return;
  store4(out + int64_t{token} * p.hidden + column, own_part<kSlotsAtOnce>(p, token, column));
}

// One block: the list is short (at most an entry for each expert or slot) and read before it is written.
__global__ void __launch_bounds__(1024) keep_local(const KeepLocalParams p) {
  __shared__ int kept_experts[1024], kept_offsets[1025], warp_counts[32];
  allow_next_kernel();
  wait_previous_kernel();
  const int i = threadIdx.x, warp = i / 32, lane = i % 32, active = load_l2(p.num_active);
  int expert = -1, begin = 0, end = 0;
  if (i < active) {
    expert = load_l2(p.active + i) - p.first;
    begin = load_l2(p.offsets + i), end = load_l2(p.offsets + i + 1);
  }
  const bool kept = expert >= 0 && expert < p.count;
  const unsigned votes = __ballot_sync(0xffffffffu, kept);
  if (lane == 0) warp_counts[warp] = __popc(votes);
  __syncthreads();
  int at = __popc(votes & ((1u << lane) - 1)), total = 0;
  for (int w = 0; w < 32; ++w) {
    if (w < warp) at += warp_counts[w];
    total += warp_counts[w];
  }
  if (kept) {
    kept_experts[at] = expert, kept_offsets[at] = begin;
    if (at == total - 1) kept_offsets[total] = end;
  }
  if (total == 0 && i == 0) kept_offsets[0] = 0;
  __syncthreads();
  if (i < total) p.active[i] = kept_experts[i];
  for (int n = i; n <= total; n += 1024) p.offsets[n] = kept_offsets[n];
  if (i == 0) *p.num_active = total;
  for (int n = i; n < p.entries; n += 1024) {
    const int chosen = load_l2(p.chosen + n) - p.first;
    if (chosen < 0 || chosen >= p.count) p.slot_of[n] = -1;
  }
}

__global__ void __launch_bounds__(256) place_columns(const float* part, int columns, float* all, int begin,
                                                     int stride) {
  allow_next_kernel();
  wait_previous_kernel();
  const int64_t row = blockIdx.y;
  for (int c = blockIdx.x * 256 + threadIdx.x; c < columns; c += gridDim.x * 256) {
    all[row * stride + begin + c] = load_l2(part + row * columns + c);
  }
}

template <typename Act>
cudaError_t LaunchRows(const SumRowsParams& p, cudaStream_t stream) {
  const int chunks = p.tokens * ExchangeParts(p.hidden);
  const dim3 grid(chunks < kMostBlocks ? chunks : kMostBlocks);
  const bool all = std::all_of(p.sent, p.sent + p.peers.ranks, [&](const RankRows& r) {
    return r.begin == 0 && r.end >= p.tokens;
  });
  const auto kernel = OneSlot(p) ? (all ? sum_rows<Act, true, 1> : sum_rows<Act, false, 1>)
                                 : (all ? sum_rows<Act, true, kSlotsAtOnce> : sum_rows<Act, false, kSlotsAtOnce>);
  return Launch(kernel, grid, dim3(kThreads), 0, stream, p);
}

}  // namespace

cudaError_t LaunchKeepLocal(const KeepLocalParams& p, cudaStream_t stream) {
  return Launch(keep_local, dim3(1), dim3(1024), 0, stream, p);
}

cudaError_t LaunchPlaceColumns(const float* part, int rows, int columns, float* all, int begin, int stride,
                               cudaStream_t stream) {
  return Launch(place_columns, dim3((columns + 1023) / 1024, rows), dim3(256), 0, stream, part, columns, all, begin,
                stride);
}

cudaError_t LaunchSumRows(const SumRowsParams& p, bool f32_activations, cudaStream_t stream) {
  return f32_activations ? LaunchRows<float>(p, stream) : LaunchRows<bf16>(p, stream);
}

cudaError_t LaunchSumNorms(const SumNormsParams& p, cudaStream_t stream) {
  const int blocks = (p.tokens + kNormWarps - 1) / kNormWarps;
  const dim3 grid(blocks < kMostNormBlocks ? blocks : kMostNormBlocks);
  return Launch(sum_norms, grid, dim3(kNormWarps * 32), 0, stream, p);
}

cudaError_t LaunchOwnPart(const SumRowsParams& p, float* out, cudaStream_t stream) {
  return Launch(write_own_part, dim3(ExchangeParts(p.hidden), p.tokens), dim3(kThreads), 0, stream, p, out);
}

}  // namespace minimo::cuda
