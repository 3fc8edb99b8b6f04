// How attention_wgmma.cu's keys and values come to shared memory: a ring of stages, each a tile of 64 keys, which a
// warpgroup gathers through the block table; the lists of rows that a block works on; the pieces of both.
//
// A stage: K as panels of 64 columns, 8 KB each, then V's two. 32 or 40 KB, four stages; of an FP8 cache three tiles as
// they are behind them.
#pragma once

#include "cuda/kernels/attention.cuh"
#include "cuda/kernels/kv_address.cuh"
#include "cuda/kernels/kv_element.cuh"
#include "cuda/kernels/wgmma.cuh"

namespace minimo::cuda::prompt_attention {

constexpr int kKeys = 64;
constexpr int kRows = 64;  // a warpgroup
constexpr int kGroups = 2;
constexpr int kThreads = kGroups * 128 + 128;
constexpr int kMultiprocessors = 132;
constexpr int kItems = 2;  // runs of rows that a block knows of
constexpr int kPanel = kKeys * 128;
constexpr int kStages = 4;
constexpr int kLag = 2;  // tiles whose copies are still under way when the next one's begin
constexpr int kRaw = 3;  // the same of an FP8 cache, whose tiles are widened when they are there

template <int kKeyDim>
struct Stage {
  static constexpr int kValues = kKeyDim / 64 * kPanel;  // V's panels follow K's
  static constexpr int kBytes = kValues + 2 * kPanel;
  static constexpr int kRawBytes = kBytes / 2;
  static constexpr int SharedBytes(bool fp8) { return kStages * kBytes + (fp8 ? kRaw * kRawBytes : 0) + 1024; }
};

struct Barriers {
  uint64_t full[kStages], empty[kStages];
  uint64_t item_full[kItems], item_empty[kItems];
  int items[kItems];  // a PrefillTile of a KV head, from the gathering warps to the others
};

// A place in a ring of kCount, and how often it was passed, by parity.
template <int kCount>
struct Place {
  int at = 0;
  uint32_t phase = 0;
  __device__ __forceinline__ void step() {
    if (++at == kCount) at = 0, phase ^= 1;
  }
};

// The block's rows, and the keys [begin, end) that they see.
struct Block {
  PrefillTile tile;
  int kv_head, group, rows, begin, end;
};

__device__ __forceinline__ int item_count(const AttentionParams& p) { return p.num_tiles * p.kv_heads; }

__device__ __forceinline__ Block block_of(const AttentionParams& p, int item) {
  const int at = p.num_tiles - 1 - item / p.kv_heads;  // of a sequence the longest first, of all heads
  const int4 raw = __ldcg(reinterpret_cast<const int4*>(p.tiles) + at);
  Block b;
  b.tile = {raw.x, raw.y, raw.z, raw.w};
  b.kv_head = item % p.kv_heads;
  b.group = p.heads / p.kv_heads;
  b.rows = b.tile.num_tokens * b.group;
  const int lowest = b.tile.past + b.tile.first_row / b.group;
  b.begin = p.window > 0 ? max(0, lowest - p.window + 1) : 0;
  b.end = b.tile.past + (min(b.tile.first_row + kGroups * kRows, b.rows) - 1) / b.group + 1;
  return b;
}

// Copies of the tile before the last kLag are there: they become the tensor cores' to read.
template <int kPending>
__device__ __forceinline__ void hand_over(uint64_t* full) {
  copy_wait<kPending>();
  fence_async_reads();
  barrier_arrive(full);
}

// Four warps gather, 16 keys each: lane i finds the row of key i % 16 (K: lanes 0..15, V: 16..31).
template <typename Kv>
struct Finder {
  const AttentionParams& p;
  const Block& b;
  int table, ring;
  KvView view;
  const Kv* fresh;

  __device__ Finder(const AttentionParams& params, const Block& block, const void* fresh_k, const void* fresh_v)
      : p(params),
        b(block),
        table(p.k.ring ? 0 : load_l2(p.meta.block_table + b.tile.first_token)),
        ring(p.k.ring ? load_l2(p.meta.ring + b.tile.first_token) : 0),
        view(threadIdx.x % 32 < 16 ? p.k : p.v),
        fresh(static_cast<const Kv*>(threadIdx.x % 32 < 16 ? fresh_k : fresh_v)) {}
  __device__ const Kv* at(int first) const {
    const int key = min(first + static_cast<int>(threadIdx.x / 32 % 4 * 16 + threadIdx.x % 16), b.end - 1);
    return fresh != nullptr && key >= b.tile.past
               ? fresh + (int64_t{b.tile.first_token + key - b.tile.past} * p.kv_heads + b.kv_head) * view.dim
               : static_cast<const Kv*>(view.data) + cache_row(view, table, p.meta.block_tables, ring, key, b.kv_head);
  }
};
template <typename T>
__device__ __forceinline__ const T* of_lane(const T* pointer, int lane) {
  return reinterpret_cast<const T*>(__shfl_sync(0xffffffffu, reinterpret_cast<unsigned long long>(pointer), lane));
}

// The keys [from_key, b.end), which are some. 8 lanes copy 128 bytes.
template <int kKeyDim>
__device__ __forceinline__ void gather_bf16(const Block& b, const Finder<bf16>& find, int from_key, uint8_t* stages,
                                            Barriers& barriers, Place<kStages>& place) {
  const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  const bf16* next = find.at(from_key);
  int tiles = 0;
  const auto full = [&](int lag) { return &barriers.full[(place.at + kStages - lag) % kStages]; };
  for (int first = from_key; first < b.end; first += kKeys, ++tiles) {
    const bf16* row = next;
    if (first + kKeys < b.end) next = find.at(first + kKeys);
    barrier_wait(&barriers.empty[place.at], place.phase ^ 1);
    uint8_t* to = stages + place.at * Stage<kKeyDim>::kBytes;
#pragma unroll
    for (int i = 0; i < 8; ++i) {  // four keys, then their values
      const int r = warp * 16 + i % 4 * 4 + lane / 8, piece = lane % 8;
      const bf16* from = of_lane(row, i / 4 * 16 + i % 4 * 4 + lane / 8);
      uint8_t* there = to + (i / 4 == 0 ? 0 : Stage<kKeyDim>::kValues) + r * 128 + (piece ^ (r % 8)) * 16;
      const bool inside = first + r < b.end;
#pragma unroll
      for (int panel = 0; panel < (i / 4 == 0 ? kKeyDim / 64 : 2); ++panel) {
        copy_async16_or_zero(there + panel * kPanel, from + panel * 64 + piece * 8, inside);
      }
    }
    copy_commit();
    if (tiles >= kLag) hand_over<kLag>(full(kLag));
    place.step();
  }
  static_assert(kLag == 2);
  if (tiles >= 2) hand_over<1>(full(2));
  hand_over<0>(full(1));
}

// e4m3, the tiles before key `to_key`: 4 lanes copy 64 values of a row as they are, kRaw tiles ahead, each later widens
// what it has copied into 128 bytes of a panel. `raw`: [kRaw][2 * panels][128 threads][16 bytes], behind the stages.
template <int kKeyDim>
__device__ __forceinline__ void gather_e4m3(const Block& b, const Finder<e4m3>& find, int to_key, uint8_t* stages,
                                            Barriers& barriers, Place<kStages>& place) {
  constexpr int kKeyPanels = kKeyDim / 64, kPanels = kKeyPanels + 2;
  const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32, key = warp * 16 + lane / 4;
  uint8_t* raw = stages + kStages * Stage<kKeyDim>::kBytes + threadIdx.x % 128 * 16;
  const auto request = [&](int tile, int slot, const e4m3* row) {
    const int first = b.begin + tile * kKeys;
#pragma unroll
    for (int i = 0; i < 2 * kPanels && first < to_key; ++i) {  // of keys `key` and `key` + 8
      const int panel = i / 2, k = i % 2;
      const bool value = panel >= kKeyPanels;
      const e4m3* from = of_lane(row, value * 16 + k * 8 + lane / 4) + (panel - value * kKeyPanels) * 64;
      copy_async16_or_zero(raw + slot * Stage<kKeyDim>::kRawBytes + i * 2048, from + lane % 4 * 16,
                           first + key + 8 * k < b.end);
    }
    copy_commit();
  };
#pragma unroll
  for (int i = 0; i < kRaw; ++i) request(i, i, find.at(b.begin + i * kKeys));
  const e4m3* next = find.at(b.begin + kRaw * kKeys);
  int slot = 0;
  for (int tile = 0; b.begin + tile * kKeys < to_key; ++tile) {
    copy_wait<kRaw - 1>();
    barrier_wait(&barriers.empty[place.at], place.phase ^ 1);
    uint8_t* to = stages + place.at * Stage<kKeyDim>::kBytes + key * 128;
#pragma unroll
    for (int i = 0; i < 2 * kPanels; ++i) {
      const uint4 v = *reinterpret_cast<const uint4*>(raw + slot * Stage<kKeyDim>::kRawBytes + i * 2048);
      uint8_t* there = to + i / 2 * kPanel + i % 2 * 8 * 128;
      *reinterpret_cast<uint4*>(there + ((lane % 4 * 2) ^ (lane / 4)) * 16) = widen_e4m3({v.x, v.y});
      *reinterpret_cast<uint4*>(there + ((lane % 4 * 2 + 1) ^ (lane / 4)) * 16) = widen_e4m3({v.z, v.w});
    }
    fence_async_reads();
    barrier_arrive(&barriers.full[place.at]);
    request(tile + kRaw, slot, next);
    next = find.at(b.begin + (tile + kRaw + 1) * kKeys);
    place.step();
    if (++slot == kRaw) slot = 0;
  }
}

template <int kKeyDim>
__device__ void gather(const AttentionParams& p, const Block& b, uint8_t* stages, Barriers& barriers,
                       Place<kStages>& place, bf16) {
  gather_bf16<kKeyDim>(b, Finder<bf16>(p, b, p.fresh_k, p.fresh_v), b.begin, stages, barriers, place);
}
// Tiles of new tokens alone need no widening where these are at hand in bf16.
template <int kKeyDim>
__device__ void gather(const AttentionParams& p, const Block& b, uint8_t* stages, Barriers& barriers,
                       Place<kStages>& place, e4m3) {
  const int old_tiles = (max(b.tile.past - b.begin, 0) + kKeys - 1) / kKeys;
  const int to_key = p.wide_k == nullptr ? b.end : min(b.begin + old_tiles * kKeys, b.end);
  if (to_key > b.begin) {
    gather_e4m3<kKeyDim>(b, Finder<e4m3>(p, b, p.fresh_k, p.fresh_v), to_key, stages, barriers, place);
  }
  if (to_key < b.end) {
    gather_bf16<kKeyDim>(b, Finder<bf16>(p, b, p.wide_k, p.wide_v), to_key, stages, barriers, place);
  }
}

}  // namespace minimo::cuda::prompt_attention
