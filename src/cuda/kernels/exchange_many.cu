// Sums of many tokens over the GPUs of one host, whose links are the limit: the parts cross as they are, without the
// flags that packets of few tokens carry (exchange.cu), and one flag follows each chunk of them. Half of the blocks
// send (to themselves too), the others add what has arrived, so that links and memory are busy together.
//
// Why nobody waits for ever: block b of those that add waits for block b of those that send, on every rank, and blocks
// start in the order of their numbers, a sender before its reader.
// Why nothing is overwritten too early: data and flags lie in two halves by the epoch's parity, as packets do.
#include "cuda/kernels/exchange_device.cuh"

namespace minimo::cuda {
namespace {

constexpr int kWarps = kManyUnits;
constexpr int kMostPairs = 132 * 2;  // of blocks: all are resident, four an SM
constexpr int kFewTokens = 512;      // up to here chunks of kManyUnits units, one a warp; beyond of twice as many
constexpr int kLaneColumns = kExchangeColumns / 32;

// 16 bytes of a part: 8 columns in bf16 or 4 in float32.
template <typename Part>
struct Packet {
  static constexpr int kColumns = 16 / sizeof(Part);
};
template <typename Part>
constexpr int kPackets = kLaneColumns / Packet<Part>::kColumns;  // of a lane in a unit

struct Unit {
  int token, part;
  bool valid;
};
__device__ __forceinline__ Unit unit_of(const SumRowsParams& p, int first, int k) {
  const int parts = ExchangeParts(p.hidden);
  const int unit = first + k * kWarps + static_cast<int>(threadIdx.x) / 32;
  return {unit / parts, unit % parts, unit < p.tokens * parts};
}
// Neighbouring lanes have neighbouring packets.
template <typename Part>
__device__ __forceinline__ int column_of(const Unit& unit, int packet) {
  constexpr int kColumns = Packet<Part>::kColumns;
  return unit.part * kExchangeColumns + (packet * 32 + static_cast<int>(threadIdx.x) % 32) * kColumns;
}

__device__ __forceinline__ uint4 pack(const float (&x)[8], bf16) {
  return {pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7])};
}
__device__ __forceinline__ uint4 pack(const float (&x)[4], float) {
  return {__float_as_uint(x[0]), __float_as_uint(x[1]), __float_as_uint(x[2]), __float_as_uint(x[3])};
}
__device__ __forceinline__ void add(const uint4& v, float (&x)[8], bf16) {
  const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    x[2 * i] += __uint_as_float(words[i] << 16);
    x[2 * i + 1] += __uint_as_float(words[i] & 0xffff0000);
  }
}
__device__ __forceinline__ void add(const uint4& v, float (&x)[4], float) {
  x[0] += __uint_as_float(v.x), x[1] += __uint_as_float(v.y);
  x[2] += __uint_as_float(v.z), x[3] += __uint_as_float(v.w);
}

// kColumns of this rank's own part, summed over its slots.
template <int kSlots, int kColumns, typename Partial>
__device__ __forceinline__ void own_columns(const SumRowsParams& p, const Partial* partial, int token, int column,
                                            float (&x)[kColumns]) {
#pragma unroll
  for (float& v : x) v = 0;
  if (!p.part.have(token)) return;
  for (int first = 0; first < slots_end<kSlots>(p); first += kSlots) {
    int slots[kSlots];
    own_slots(p, token, first, slots);
    if constexpr (kColumns == 8 && sizeof(Partial) == 2) {
      uint4 y[kSlots];
#pragma unroll
      for (int k = 0; k < kSlots; ++k) {
        y[k] = {0, 0, 0, 0};
        const Partial* from = partial + int64_t{slots[k]} * p.hidden + column;
        if (slots[k] >= 0) y[k] = load_l2(reinterpret_cast<const uint4*>(from));
      }
#pragma unroll
      for (int k = 0; k < kSlots; ++k) add(y[k], x, bf16());
    } else {
#pragma unroll
      for (int c = 0; c < kColumns; c += 4) {
        float4 y[kSlots];
#pragma unroll
        for (int k = 0; k < kSlots; ++k) {
          y[k] = {0, 0, 0, 0};
          if (slots[k] >= 0) y[k] = load4(partial + int64_t{slots[k]} * p.hidden + column + c);
        }
#pragma unroll
        for (int k = 0; k < kSlots; ++k) x[c] += y[k].x, x[c + 1] += y[k].y, x[c + 2] += y[k].z, x[c + 3] += y[k].w;
      }
    }
  }
}

// Byte offset of a packet in what `from` writes for others.
template <typename Part>
__device__ __forceinline__ int64_t offset_of(const PeerView& p, int from, uint32_t epoch, int64_t column) {
  return p.many_at + ((epoch & 1) * p.ranks + from) * p.many_bytes + column * static_cast<int64_t>(sizeof(Part));
}
__device__ __forceinline__ uint32_t* flag_of(const PeerView& p, int to, int from, uint32_t epoch, int chunk) {
  return reinterpret_cast<uint32_t*>(p.inbox[to] + p.flags_at) + ((epoch & 1) * p.ranks + from) * p.many_chunks + chunk;
}

// Whether a rank sends a chunk: one that has rows of its part.
template <int kUnits>
__device__ __forceinline__ bool sends(const SumRowsParams& p, int rank, int chunk) {
  const int parts = ExchangeParts(p.hidden), first = chunk * kUnits * kWarps;
  return p.sent[rank].begin <= (first + kUnits * kWarps - 1) / parts && p.sent[rank].end > first / parts;
}

template <typename Part, int kUnits, int kSlots>
__device__ __forceinline__ void send_chunk(const SumRowsParams& p, int chunk, uint32_t epoch) {
  constexpr int kColumns = Packet<Part>::kColumns;
  if (!sends<kUnits>(p, p.peers.rank, chunk)) return;
#pragma unroll
  for (int k = 0; k < kUnits; ++k) {
    const Unit unit = unit_of(p, chunk * kUnits * kWarps, k);
#pragma unroll
    for (int i = 0; i < kPackets<Part>; ++i) {
      const int column = column_of<Part>(unit, i);
      if (!unit.valid || column >= p.hidden) continue;
      float x[kColumns];
      if (p.partial_bf16) {
        own_columns<kSlots>(p, static_cast<const bf16*>(p.partial), unit.token, column, x);
      } else {
        own_columns<kSlots>(p, static_cast<const float*>(p.partial), unit.token, column, x);
      }
      const uint4 packet = pack(x, Part());
      const int64_t at = offset_of<Part>(p.peers, p.peers.rank, epoch, int64_t{unit.token} * p.hidden + column);
      for (int r = 0; r < p.peers.ranks; ++r) *reinterpret_cast<uint4*>(p.peers.inbox[r] + at) = packet;
    }
  }
  __syncthreads();
  const int to = static_cast<int>(threadIdx.x);
  if (to >= p.peers.ranks) return;
  __threadfence_system();
  asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(flag_of(p.peers, to, p.peers.rank, epoch, chunk)), "r"(epoch)
               : "memory");
}

// Until all ranks' parts of the chunk are here, or one has been given up.
template <int kUnits>
__device__ __forceinline__ void await_chunk(const SumRowsParams& rows, int chunk, uint32_t epoch) {
  const PeerView& p = rows.peers;
  const int from = static_cast<int>(threadIdx.x);
  if (from < p.ranks && sends<kUnits>(rows, from, chunk)) {
    const uint32_t* flag = flag_of(p, p.rank, from, epoch, chunk);
    uint64_t begin = 0;
    for (int spins = 1;; ++spins) {
      uint32_t seen;
      asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(seen) : "l"(flag) : "memory");
      if (seen == epoch || (spins % 256 == 0 && given_up(p, &begin))) break;
    }
  }
  __syncthreads();
}

template <typename Part, typename Act, int kUnits>
__device__ __forceinline__ void add_chunk(const SumRowsParams& p, int chunk, uint32_t epoch) {
  constexpr int kColumns = Packet<Part>::kColumns;
#pragma unroll
  for (int k = 0; k < kUnits; ++k) {
    const Unit unit = unit_of(p, chunk * kUnits * kWarps, k);
    float square = 0;
#pragma unroll
    for (int i = 0; i < kPackets<Part>; ++i) {
      const int column = column_of<Part>(unit, i);
      if (!unit.valid || column >= p.hidden) continue;
      const int64_t at = int64_t{unit.token} * p.hidden + column;
      float sum[kColumns] = {};
      for (int r = 0; r < p.peers.ranks; ++r) {
        if (!sends<kUnits>(p, r, chunk)) continue;
        const uint8_t* part = p.peers.inbox[p.peers.rank] + offset_of<Part>(p.peers, r, epoch, at);
        add(load_l2(reinterpret_cast<const uint4*>(part)), sum, Part());
      }
#pragma unroll
      for (int c = 0; c < kColumns; c += 4) {
        float4 x = load_l2(reinterpret_cast<const float4*>(p.residual + at + c));
        x.x += sum[c], x.y += sum[c + 1], x.z += sum[c + 2], x.w += sum[c + 3];
        store4(p.residual + at + c, x);
        square += x.x * x.x + x.y * x.y + x.z * x.z + x.w * x.w;
        if (p.next_norm == nullptr) continue;
        const float4 w = __ldg(reinterpret_cast<const float4*>(p.next_norm + column + c));
        store4(static_cast<Act*>(p.next_x) + int64_t{unit.token} * p.next_x_stride + column + c,
               {x.x * w.x, x.y * w.y, x.z * w.z, x.w * w.w});
      }
    }
    if (p.square_sums == nullptr) continue;
    square = warp_sum(square);
    if (unit.valid && threadIdx.x % 32 == 0) {
      p.square_sums[int64_t{unit.token} * ExchangeParts(p.hidden) + unit.part] = square;
    }
  }
}

template <typename Part, typename Act, int kUnits, int kSlots>
__global__ void __launch_bounds__(kWarps * 32, 4) sum_many_rows(const SumRowsParams p, int chunks) {
  begin_exchange(p.peers);
  const uint32_t epoch = __ldcg(p.peers.state) + 1;
  const int pair = blockIdx.x / 2, pairs = gridDim.x / 2;
  for (int chunk = pair; chunk < chunks; chunk += pairs) {
    if (blockIdx.x % 2 == 0) {
      send_chunk<Part, kUnits, kSlots>(p, chunk, epoch);
    } else {
      await_chunk<kUnits>(p, chunk, epoch);
      add_chunk<Part, Act, kUnits>(p, chunk, epoch);
    }
  }
  finish(p.peers, epoch);
}

template <typename Part, typename Act, int kUnits>
cudaError_t LaunchUnits(const SumRowsParams& p, cudaStream_t stream) {
  const int units = p.tokens * ExchangeParts(p.hidden), chunks = (units + kUnits * kWarps - 1) / (kUnits * kWarps);
  const dim3 grid(2 * (chunks < kMostPairs ? chunks : kMostPairs));
  const auto kernel =
      OneSlot(p) ? sum_many_rows<Part, Act, kUnits, 1> : sum_many_rows<Part, Act, kUnits, kSlotsAtOnce>;
  return Launch(kernel, grid, dim3(kWarps * 32), 0, stream, p, chunks);
}

template <typename Part, typename Act>
cudaError_t LaunchMany(const SumRowsParams& p, cudaStream_t stream) {
  return p.tokens <= kFewTokens ? LaunchUnits<Part, Act, 1>(p, stream) : LaunchUnits<Part, Act, 2>(p, stream);
}

}  // namespace

cudaError_t LaunchSumManyRows(const SumRowsParams& p, bool parts_bf16, bool f32_activations, cudaStream_t stream) {
  if (f32_activations) return parts_bf16 ? LaunchMany<bf16, float>(p, stream) : LaunchMany<float, float>(p, stream);
  return parts_bf16 ? LaunchMany<bf16, bf16>(p, stream) : LaunchMany<float, bf16>(p, stream);
}

}  // namespace minimo::cuda
