// Sums over the GPUs of one host through each other's memory, in one shot: every rank writes its part into every
// other's inbox and adds what it finds in its own, in the order of the ranks, so all hold the same bits.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace minimo::cuda {

inline constexpr int kMaxPeers = 8;
inline constexpr int kExchangeColumns = 512;  // of a row that one block exchanges: a partial sum of squares each

constexpr int ExchangeParts(int hidden) { return (hidden + kExchangeColumns - 1) / kExchangeColumns; }

// Sums of many rows: units of kExchangeColumns of a token, a flag for so many of them or more.
inline constexpr int kManyUnits = 8;
constexpr int ManyChunks(int tokens, int hidden) {
  return (tokens * ExchangeParts(hidden) + kManyUnits - 1) / kManyUnits;
}

// What the ranks know of each other. An inbox is, one after the other:
//   [2 parities][ranks][values / 2] packets of 16 bytes,
//   from many_at [2 parities][ranks][many_bytes], parts of many rows,
//   from flags_at [2 parities][ranks][many_chunks] uint32, the epochs of what has arrived there.
struct PeerView {
  int rank = 0, ranks = 1;
  uint8_t* inbox[kMaxPeers] = {};  // by rank, as this device addresses them
  int64_t values = 0;              // float32 that fit one rank's part of an inbox
  int64_t many_at = 0, many_bytes = 0, flags_at = 0;
  int many_chunks = 0;
  // Own memory: exchanges done, blocks done in the running one, whether a rank was given up.
  uint32_t* state = nullptr;
  uint32_t* host_fault = nullptr;  // mapped host memory: set with state[2]
  uint64_t timeout_ns = 0;         // how long a packet is waited for
  // Ranks are threads that share a device (checks on a machine with one): the next kernels, if they came early and
  // waited, would take the room of another rank's that this one waits for.
  bool one_device = false;
};
inline constexpr int kPeerStateWords = 3;

// Rows [begin, end).
struct RankRows {
  int begin = 0, end = 1 << 30;
#ifdef __CUDACC__
  __device__ __forceinline__ bool have(int row) const { return row >= begin && row < end; }
#endif
};

// residual += the sum over ranks of their parts; next_x = residual * next_norm; sums of squares of each
// kExchangeColumns columns. A rank's part of row t is the sum over k < top_k of partial[slot_of[t][k]] (slots below 0
// are other ranks'), without slot_of of partial[k * tokens + t].
struct SumRowsParams {
  PeerView peers;  // ranks == 1: partial is the sum already
  int tokens = 0;
  int hidden = 0;                    // in fours
  const void* partial = nullptr;     // [top_k * tokens or slots, hidden] float32, or
  bool partial_bf16 = false;         // bf16
  const int* slot_of = nullptr;      // [tokens, top_k]
  int top_k = 1;
  RankRows part;                     // rows of which this rank has a part; of others it has none and reads nothing
  RankRows sent[kMaxPeers];          // rows that each rank sends: those of its part, in every exchange at least one
  float* residual = nullptr;         // [tokens, hidden]
  const float* next_norm = nullptr;  // [hidden]; null: no next_x
  void* next_x = nullptr;            // [tokens, next_x_stride]
  int next_x_stride = 0;
  float* square_sums = nullptr;      // [tokens, ExchangeParts(hidden)]; null: not wanted
};
cudaError_t LaunchSumRows(const SumRowsParams& params, bool f32_activations, cudaStream_t stream);
// The same of many rows, whose parts cross as they are or rounded to bf16; hidden in eights where they are.
cudaError_t LaunchSumManyRows(const SumRowsParams& params, bool parts_bf16, bool f32_activations, cudaStream_t stream);

// sums[t] = over all ranks, the squares of the whole flat query and key (M2's QK norm): [tokens, 2].
struct SumNormsParams {
  PeerView peers;                      // ranks == 1: this rank's own sums alone, which NCCL then adds up
  int tokens = 0;
  const float* tile_squares = nullptr;  // [tokens, stride]: q's 16-column tiles, then k's
  int stride = 0, q_tiles = 0, k_tiles = 0;
  bool counts_k = true;                // false: another holder of these KV heads counts them
  float* sums = nullptr;
  RankRows part;                       // tokens whose squares these are, the first at tile_squares; of others none
};
cudaError_t LaunchSumNorms(const SumNormsParams& params, cudaStream_t stream);

// This rank's part of each row, before NCCL's sum: out [tokens, hidden].
cudaError_t LaunchOwnPart(const SumRowsParams& params, float* out, cudaStream_t stream);

// Expert parallelism, after a router that listed all chosen experts: leaves those in [first, first + count), as indices
// from 0, in `active`, `offsets` and `num_active`, and marks the others' slots with -1 in slot_of. A list in another
// order than the slots (one token) leaves others' slots inside the runs: they are computed and not added.
struct KeepLocalParams {
  int first = 0, count = 0;
  int entries = 0;  // tokens * top_k
  const int* chosen = nullptr;  // [entries] experts
  int* num_active = nullptr;
  int* active = nullptr;
  int* offsets = nullptr;
  int* slot_of = nullptr;
};
cudaError_t LaunchKeepLocal(const KeepLocalParams& params, cudaStream_t stream);

// all[row][begin + c] = part[row][c]: a rank's logits [rows, columns] into those of the whole vocabulary
// [rows, stride].
cudaError_t LaunchPlaceColumns(const float* part, int rows, int columns, float* all, int begin, int stride,
                               cudaStream_t stream);

}  // namespace minimo::cuda
