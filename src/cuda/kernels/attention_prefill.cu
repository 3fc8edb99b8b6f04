// Many tokens a sequence, an FP8 cache (bf16: attention_wgmma.cu): a block takes 64 rows (token, head of the group) of
// one KV head of one sequence, 16 a warp, and walks the keys they may see in tiles of 64 shared by the warps, two tiles
// in flight. Shared memory: 2 * 64 * (272 or 400 + 272) bytes = 70 or 86 KB; registers about 200: two blocks an SM. An
// FP8 cache is copied as it is (2 * 64 * (128 or 192 + 128) bytes) and widened into one bf16 tile: 67 or 83 KB.
#include "cuda/kernels/attention.cuh"
#include "cuda/kernels/attention_store.cuh"
#include "cuda/kernels/attention_tile.cuh"
#include "cuda/kernels/kv_address.cuh"
#include "cuda/kernels/kv_element.cuh"

namespace minimo::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kRows = 64;
constexpr int kKeys = 64;
constexpr float kLog2E = 1.4426950408889634f;

template <int kKeyDim, int kValueDim, typename Kv>
struct Stage {
  using Tile = AttentionTile<kKeyDim, kValueDim>;
  static constexpr bool kWiden = sizeof(Kv) == 1;
  static constexpr int kKeyRow = kWiden ? kKeyDim : Tile::kKeyRow;  // of what is copied
  static constexpr int kValueRow = kWiden ? kValueDim : Tile::kValueRow;
  static constexpr int kBytes = kKeys * (kKeyRow + kValueRow);
  static constexpr int kAllBytes = 2 * kBytes + (kWiden ? kKeys * (Tile::kKeyRow + Tile::kValueRow) : 0);
};

template <int kKeyDim, int kValueDim, typename Kv>
__global__ void __launch_bounds__(kWarps * 32) attention_prefill(const AttentionParams p) {
  using Tile = AttentionTile<kKeyDim, kValueDim>;
  using Rows = Stage<kKeyDim, kValueDim, Kv>;
  extern __shared__ __align__(16) uint8_t smem[];
  allow_next_kernel();
  wait_previous_kernel();
  const int kv_head = blockIdx.y, group = p.heads / p.kv_heads;
  const int at = gridDim.x - 1 - blockIdx.x;  // longest first; two blocks a tile
  const int4 raw = __ldcg(reinterpret_cast<const int4*>(p.tiles) + at / 2);
  const PrefillTile tile = {raw.x, raw.y, raw.z + at % 2 * kRows, raw.w};
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int table = p.k.ring ? 0 : load_l2(p.meta.block_table + tile.first_token);
  const int ring = p.k.ring ? load_l2(p.meta.ring + tile.first_token) : 0;
  const int rows = tile.num_tokens * group;
  if (tile.first_row >= rows) return;
  const int lowest = tile.past + tile.first_row / group;  // position of the first row, of the last row
  const int highest = tile.past + (min(tile.first_row + kRows, rows) - 1) / group;
  const int begin = p.window > 0 ? max(0, lowest - p.window + 1) : 0, end = highest + 1;

  // Rows of the next tile: threads 0..63 find its keys, 64..127 its values; pages are looked up once a row.
  __shared__ const Kv* row_of[2][kKeys];
  const auto find_rows = [&](int first) {
    const bool key = threadIdx.x < kKeys;
    const KvView& view = key ? p.k : p.v;
    const void* fresh = key ? p.fresh_k : p.fresh_v;
    const int at = min(first + static_cast<int>(threadIdx.x % kKeys), end - 1);
    row_of[!key][threadIdx.x % kKeys] =
        fresh != nullptr && at >= tile.past
            ? static_cast<const Kv*>(fresh) +
                  (int64_t{tile.first_token + at - tile.past} * p.kv_heads + kv_head) * view.dim
            : static_cast<const Kv*>(view.data) + cache_row(view, table, p.meta.block_tables, ring, at, kv_head);
  };
  const auto request = [&](int first, int stage) {
    constexpr int kPiece = kKvPiece<Kv>, kKeyPieces = kKeyDim / kPiece, kValuePieces = kValueDim / kPiece;
    uint8_t* keys = smem + stage * Rows::kBytes;
    uint8_t* values = keys + kKeys * Rows::kKeyRow;
#pragma unroll
    for (int i = 0; i < kKeys * kKeyPieces / (kWarps * 32); ++i) {
      const int at = i * kWarps * 32 + threadIdx.x, r = at / kKeyPieces, piece = at % kKeyPieces;
      copy_async16_or_zero(keys + r * Rows::kKeyRow + 16 * piece, row_of[0][r] + kPiece * piece, first + r < end);
    }
#pragma unroll
    for (int i = 0; i < kKeys * kValuePieces / (kWarps * 32); ++i) {
      const int at = i * kWarps * 32 + threadIdx.x, r = at / kValuePieces, piece = at % kValuePieces;
      copy_async16_or_zero(values + r * Rows::kValueRow + 16 * piece, row_of[1][r] + kPiece * piece, first + r < end);
    }
  };

  const int my_row[2] = {tile.first_row + 16 * warp + g, tile.first_row + 16 * warp + g + 8};
  int position[2], first_key[2];
  const bf16* q[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const bool live = my_row[r] < rows;
    const int token = my_row[r] / group, head = kv_head * group + my_row[r] % group;
    position[r] = live ? tile.past + token : -1;
    first_key[r] = p.window > 0 ? position[r] - p.window + 1 : 0;
    q[r] = live ? static_cast<const bf16*>(p.q) +
                      (int64_t{tile.first_token + token} * p.heads + head) * kKeyDim
                : nullptr;
  }
  find_rows(begin);
  __syncthreads();
  request(begin, 0);
  copy_commit();
  __syncthreads();
  find_rows(begin + kKeys);
  Tile a;
  a.clear();
  a.load_query(q[0], q[1]);
  int stage = 0;
  for (int first = begin; first < end; first += kKeys) {
    __syncthreads();  // the next tile's rows are found, the other stage is free
    if (first + kKeys < end) request(first + kKeys, stage ^ 1);
    copy_commit();
    copy_wait<1>();
    __syncthreads();
    find_rows(first + 2 * kKeys);
    uint8_t* keys = smem + stage * Rows::kBytes;
    if constexpr (Rows::kWiden) {
      const uint8_t* copied = keys;
      keys = smem + 2 * Rows::kBytes;
      widen_rows<kKeyDim>(copied, kKeys, keys, Tile::kKeyRow, threadIdx.x, kWarps * 32);
      widen_rows<kValueDim>(copied + kKeys * kKeyDim, kKeys, keys + kKeys * Tile::kKeyRow, Tile::kValueRow, threadIdx.x,
                            kWarps * 32);
      __syncthreads();
    }
    const uint8_t* values = keys + kKeys * Tile::kKeyRow;
    float scores[kKeys / 8][4];
    a.score(keys, scores);
    const bool inside = first + kKeys - 1 <= lowest && first >= highest - (p.window > 0 ? p.window - 1 : highest);
    if (!inside) {  // the tile crosses some row's border
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int at = first + 8 * n + 2 * t + i % 2;
          if (at > position[i / 2] || at < first_key[i / 2]) scores[n][i] = -INFINITY;
        }
      }
    }
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) scores[n][i] *= p.scale * kLog2E;
    }
    a.add(scores, values);
    stage ^= 1;
  }
  a.finish();
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    static_assert(kValueDim == 128);
    float2 v[kValueDim / 8];
#pragma unroll
    for (int i = 0; i < kValueDim / 8; ++i) v[i] = {a.out[i][2 * r], a.out[i][2 * r + 1]};
    store_attended(p, tile.first_token + my_row[r] / group, kv_head * group + my_row[r] % group, my_row[r] < rows,
                   a.most[r], a.sum[r], v);
  }
}

template <int kKeyDim, int kValueDim, typename Kv>
cudaError_t LaunchOne(const AttentionParams& p, cudaStream_t stream) {
  constexpr int kSmem = Stage<kKeyDim, kValueDim, Kv>::kAllBytes;
  const auto kernel = attention_prefill<kKeyDim, kValueDim, Kv>;
  static const cudaError_t configured =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSmem);
  if (configured != cudaSuccess) return configured;
  return Launch(kernel, dim3(2 * p.num_tiles, p.kv_heads), dim3(kWarps * 32), kSmem, stream, p);
}

}  // namespace

cudaError_t LaunchAttentionPrefill(const AttentionParams& p, cudaStream_t stream) {
  if (p.k.element_bytes == 1) {
    return p.head_dim == 128 ? LaunchOne<128, 128, e4m3>(p, stream) : LaunchOne<192, 128, e4m3>(p, stream);
  }
  return LaunchAttentionWgmma(p, stream);
}

}  // namespace minimo::cuda
