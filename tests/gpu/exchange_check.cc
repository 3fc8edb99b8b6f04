#include "tests/gpu/exchange_check.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

namespace minimo::cuda {
namespace {

constexpr int kHidden = 1544;  // not a multiple of kExchangeColumns
constexpr float kNorm = 2;     // of the next RMSNorm, each
const char* const kKernels[] = {"packets", "many rows", "many rows in bf16"};

// One sum over ranks. Values are multiples of 1/8 within 1, whose sums of few are exact in bf16.
struct Case {
  int ranks = 2, tokens = 1, top_k = 1;
  bool slots = false;  // of experts, some of them other ranks'; else partial sums
  bool bf16 = false;
  bool owned = false;  // a row is one rank's, none the first's
  bool f32_activations = false;

  static float Value(int rank, int64_t i) { return static_cast<float>((i * 7 + rank * 13) % 17 - 8) / 8.0f; }
  int64_t Slots() const { return int64_t{tokens} * top_k; }
  int SlotOf(int rank, int64_t i) const {
    return (i + rank) % 5 == 3 ? -1 : static_cast<int>((i * 11 + rank) % Slots());
  }
  RankRows RowsOf(int rank) const {
    if (!owned) return {};
    const int others = ranks - 1;
    return rank == 0 ? RankRows{0, 0} : RankRows{tokens * (rank - 1) / others, tokens * rank / others};
  }
  std::vector<float> Expected() const;
  std::string Name() const {
    return fmt::format("{} ranks, {} tokens, top {}{}{}{}", ranks, tokens, top_k, slots ? ", slots" : "",
                       bf16 ? ", bf16" : "", owned ? ", rows of one rank" : "");
  }
};

std::vector<float> Case::Expected() const {
  std::vector<float> sums(static_cast<size_t>(tokens) * kHidden, 0.0f);
  for (int r = 0; r < ranks; ++r) {
    const RankRows rows = RowsOf(r);
    for (int t = std::max(0, rows.begin); t < std::min(tokens, rows.end); ++t) {
      for (int k = 0; k < top_k; ++k) {
        const int64_t slot = slots ? SlotOf(r, int64_t{t} * top_k + k) : int64_t{k} * tokens + t;
        if (slot < 0) continue;
        for (int c = 0; c < kHidden; ++c) sums[int64_t{t} * kHidden + c] += Value(r, slot * kHidden + c);
      }
    }
  }
  return sums;
}

std::vector<Case> Cases(int ranks) {
  std::vector<Case> cases;
  for (const int tokens : {1, 5, 200}) {
    for (const int top_k : {1, 3, 8, 12}) {
      for (int kind = 0; kind < (ranks > 1 ? 8 : 4); ++kind) {
        cases.push_back({ranks, tokens, top_k, (kind & 1) != 0, (kind & 2) != 0, (kind & 4) != 0, top_k == 3});
      }
    }
  }
  return cases;
}

// What one rank gives to a case's sums and gets of them.
struct RankOfCase {
  DeviceMemory partial, slot_of, residual, norm, next_x, squares;
  SumRowsParams params;

  Status Make(const Case& c, int rank);
  Status Clear(cudaStream_t stream) {
    for (const DeviceMemory* memory : {&residual, &next_x, &squares}) {
      MINIMO_CUDA_TRY(cudaMemsetAsync(memory->As(), 0, static_cast<size_t>(memory->bytes()), stream));
    }
    return {};
  }
  Status Launch(const Case& c, int kernel, cudaStream_t stream) const {
    return ToStatus(kernel == 0 ? LaunchSumRows(params, c.f32_activations, stream)
                                : LaunchSumManyRows(params, kernel == 2, c.f32_activations, stream), "sum of rows");
  }
  Result<int64_t> Wrong(const Case& c, const std::vector<float>& expected) const;
};

template <typename T>
Status Send(const std::vector<T>& values, DeviceMemory* memory) {
  const int64_t bytes = std::ssize(values) * static_cast<int64_t>(sizeof(T));
  MINIMO_TRY(memory->Allocate(bytes));
  return ToStatus(cudaMemcpy(memory->As(), values.data(), static_cast<size_t>(bytes), cudaMemcpyHostToDevice), "copy");
}

template <typename T>
Result<std::vector<T>> Fetch(const DeviceMemory& memory) {
  std::vector<T> values(static_cast<size_t>(memory.bytes()) / sizeof(T));
  MINIMO_CUDA_TRY(cudaMemcpy(values.data(), memory.As(), static_cast<size_t>(memory.bytes()), cudaMemcpyDeviceToHost));
  return values;
}

Status RankOfCase::Make(const Case& c, int rank) {
  std::vector<float> parts(static_cast<size_t>(c.Slots()) * kHidden);
  std::vector<uint16_t> halves(parts.size());
  for (size_t i = 0; i < parts.size(); ++i) {
    parts[i] = Case::Value(rank, static_cast<int64_t>(i));
    halves[i] = static_cast<uint16_t>(std::bit_cast<uint32_t>(parts[i]) >> 16);
  }
  std::vector<int> slots(static_cast<size_t>(c.Slots()));
  for (int64_t i = 0; i < c.Slots(); ++i) slots[i] = c.SlotOf(rank, i);
  MINIMO_TRY(c.bf16 ? Send(halves, &partial) : Send(parts, &partial));
  MINIMO_TRY(Send(slots, &slot_of));
  MINIMO_TRY(Send(std::vector<float>(kHidden, kNorm), &norm));
  const int64_t values = int64_t{c.tokens} * kHidden;
  MINIMO_TRY(residual.Allocate(values * 4));
  MINIMO_TRY(next_x.Allocate(values * (c.f32_activations ? 4 : 2)));
  MINIMO_TRY(squares.Allocate(int64_t{c.tokens} * ExchangeParts(kHidden) * 4));
  params.tokens = c.tokens;
  params.hidden = kHidden;
  params.partial = partial.As();
  params.partial_bf16 = c.bf16;
  params.slot_of = c.slots ? slot_of.As<int>() : nullptr;
  params.top_k = c.top_k;
  params.part = c.RowsOf(rank);
  for (int r = 0; r < c.ranks; ++r) {
    const RankRows rows = c.RowsOf(r);
    params.sent[r] = rows.begin < rows.end ? rows : RankRows{0, 1};
  }
  params.residual = residual.As<float>();
  params.next_norm = norm.As<float>();
  params.next_x = next_x.As();
  params.next_x_stride = kHidden;
  params.square_sums = squares.As<float>();
  return {};
}

// Sums and the next input that are off, and sums of squares.
Result<int64_t> RankOfCase::Wrong(const Case& c, const std::vector<float>& expected) const {
  MINIMO_ASSIGN(const auto sums, Fetch<float>(residual));
  MINIMO_ASSIGN(const auto found_squares, Fetch<float>(squares));
  std::vector<float> next(sums.size());
  if (c.f32_activations) {
    MINIMO_ASSIGN(next, Fetch<float>(next_x));
  } else {
    MINIMO_ASSIGN(const auto halves, Fetch<uint16_t>(next_x));
    for (size_t i = 0; i < next.size(); ++i) next[i] = std::bit_cast<float>(uint32_t{halves[i]} << 16);
  }
  std::vector<double> square_sums(found_squares.size());
  int64_t wrong = 0;
  for (size_t i = 0; i < sums.size(); ++i) {
    const float want = expected[i] * kNorm, bound = c.f32_activations ? 0 : std::fabs(want) / 256;
    wrong += sums[i] != expected[i];
    wrong += !(std::fabs(next[i] - want) <= bound);
    const size_t token = i / kHidden, part = i % kHidden / kExchangeColumns;
    square_sums[token * ExchangeParts(kHidden) + part] += double{expected[i]} * expected[i];
  }
  for (size_t i = 0; i < square_sums.size(); ++i) {
    wrong += !(std::fabs(found_squares[i] - square_sums[i]) <= 1e-5 * square_sums[i]);
  }
  return wrong;
}

void Report(const std::string& name, const char* kernel, int rank, int64_t wrong, bool fault, bool* ok) {
  if (wrong == 0 && !fault) return;
  *ok = false;
  std::printf("{\"case\": \"%s\", \"kernel\": \"%s\", \"rank\": %d, \"wrong\": %lld, \"fault\": %d}\n", name.c_str(),
              kernel, rank, static_cast<long long>(wrong), fault);
}

// Ranks of one GPU whose kernels run one after the other, twice: at first each reads what looks like parts of the others
// and leaves its own in their inboxes, then it finds those. Nothing is waited for, which a sanitizer makes endless.
class Turns {
 public:
  Status Create(int ranks, int64_t values, int tokens, int hidden);

  // launch(rank, its view). Whether ranks were given up.
  template <typename Launch>
  Result<bool> Run(Launch launch) {
    epoch_ += kEpochStep;
    MINIMO_CUDA_TRY(cudaMemset(as_if_sent_.As(), static_cast<int>(epoch_ % 256),
                               static_cast<size_t>(as_if_sent_.bytes())));
    for (const bool all_sent : {false, true}) {
      for (size_t r = 0; r < views_.size(); ++r) {
        const uint32_t state[kPeerStateWords] = {epoch_ - 1, 0, 0};
        MINIMO_CUDA_TRY(cudaMemcpy(views_[r].state, state, sizeof state, cudaMemcpyHostToDevice));
        *fault_.As<uint32_t>() = 0;
        PeerView view = views_[r];
        if (!all_sent) view.inbox[r] = as_if_sent_.As();
        MINIMO_TRY(launch(static_cast<int>(r), view));
        MINIMO_CUDA_TRY(cudaDeviceSynchronize());
        if (*fault_.As<uint32_t>() != 0) return true;
        MINIMO_CUDA_TRY(cudaMemcpy(&counted_, views_[r].state, 4, cudaMemcpyDeviceToHost));
        if (counted_ != epoch_) return Errorf("rank {} counts {} exchanges, there were {}", r, counted_, epoch_);
      }
    }
    return false;
  }

 private:
  static constexpr uint32_t kEpochStep = 0x01010101;  // an epoch is four times the same byte

  std::vector<DeviceMemory> inboxes_, states_;
  DeviceMemory as_if_sent_;  // an inbox that is full of the epoch
  HostMemory fault_;
  std::vector<PeerView> views_;
  uint32_t epoch_ = 0, counted_ = 0;
};

Status Turns::Create(int ranks, int64_t values, int tokens, int hidden) {
  const PeerMemory::Room room{values, int64_t{tokens} * hidden * 4, ManyChunks(tokens, hidden)};
  MINIMO_TRY(as_if_sent_.Allocate(PeerMemory::Bytes(ranks, room)));
  MINIMO_TRY(fault_.Allocate(4));
  for (int r = 0; r < ranks; ++r) {
    MINIMO_TRY(inboxes_.emplace_back().AllocateZeroed(PeerMemory::Bytes(ranks, room)));
    MINIMO_TRY(states_.emplace_back().AllocateZeroed(kPeerStateWords * 4));
  }
  for (int r = 0; r < ranks; ++r) {
    PeerView& v = views_.emplace_back(PeerMemory::Arrange(r, ranks, room));
    for (int i = 0; i < ranks; ++i) v.inbox[i] = inboxes_[i].As();
    v.state = states_[r].As<uint32_t>();
    v.host_fault = fault_.As<uint32_t>();
    v.timeout_ns = 2'000'000'000;
  }
  return {};
}

Status CheckCase(const Case& c, Turns& turns, bool* ok) {
  std::vector<RankOfCase> ranks(static_cast<size_t>(c.ranks));
  for (int r = 0; r < c.ranks; ++r) MINIMO_TRY(ranks[r].Make(c, r));
  const std::vector<float> expected = c.Expected();
  for (int kernel = c.tokens > 200 ? 1 : 0; kernel < 3; ++kernel) {
    const auto launch = [&](int r, const PeerView& view) -> Status {
      ranks[r].params.peers = view;
      MINIMO_TRY(ranks[r].Clear(nullptr));
      return ranks[r].Launch(c, kernel, nullptr);
    };
    MINIMO_ASSIGN(const bool fault, turns.Run(launch));
    for (int r = 0; r < c.ranks; ++r) {
      MINIMO_ASSIGN(const int64_t wrong, ranks[r].Wrong(c, expected));
      Report(c.Name(), kKernels[kernel], r, wrong, fault, ok);
    }
  }
  return {};
}

// Sums of squares of the flat query and key: tiles are whole numbers.
Status CheckNorms(int ranks, int tokens, bool owned, Turns& turns, bool* ok) {
  constexpr int kQTiles = 40, kKTiles = 9, kStride = 64;
  const Case rows{ranks, tokens, 1, false, false, owned};
  const auto tile = [](int rank, int64_t i) { return static_cast<float>((i * 3 + rank) % 11); };
  std::vector<float> expected(static_cast<size_t>(tokens) * 2, 0.0f);
  std::vector<DeviceMemory> squares(static_cast<size_t>(ranks)), sums(static_cast<size_t>(ranks));
  for (int r = 0; r < ranks; ++r) {
    const RankRows part = rows.RowsOf(r);
    std::vector<float> tiles(static_cast<size_t>(tokens) * kStride);
    for (size_t i = 0; i < tiles.size(); ++i) tiles[i] = tile(r, static_cast<int64_t>(i));
    MINIMO_TRY(Send(tiles, &squares[r]));
    MINIMO_TRY(sums[r].AllocateZeroed(int64_t{tokens} * 8));
    for (int t = part.begin; t < std::min(tokens, part.end); ++t) {
      const int64_t at = int64_t{t - part.begin} * kStride;
      for (int i = 0; i < kQTiles; ++i) expected[2 * t] += tile(r, at + i);
      for (int i = 0; r % 2 == 0 && i < kKTiles; ++i) expected[2 * t + 1] += tile(r, at + kQTiles + i);
    }
  }
  const auto launch = [&](int r, const PeerView& view) {
    const SumNormsParams p{view,    tokens,     squares[r].As<float>(), kStride,       kQTiles,
                           kKTiles, r % 2 == 0, sums[r].As<float>(),    rows.RowsOf(r)};
    return ToStatus(LaunchSumNorms(p, nullptr), "norms");
  };
  MINIMO_ASSIGN(const bool fault, turns.Run(launch));
  for (int r = 0; r < ranks; ++r) {
    MINIMO_ASSIGN(const auto found, Fetch<float>(sums[r]));
    Report(rows.Name(), "norms", r, found != expected, fault, ok);
  }
  return {};
}

}  // namespace

Status CheckSums(Communicator& host, const PeerMemory& peers, cudaStream_t stream, bool* ok) {
  for (const Case& c : Cases(host.size())) {
    RankOfCase mine;
    MINIMO_TRY(mine.Make(c, host.rank()));
    MINIMO_TRY(host.Barrier());  // on one GPU, to free memory waits for the other rank, which would wait for this one
    mine.params.peers = peers.view();
    const std::vector<float> expected = c.Expected();
    for (int kernel = 0; kernel < 3; ++kernel) {
      MINIMO_TRY(mine.Clear(stream));
      MINIMO_TRY(mine.Launch(c, kernel, stream));
      MINIMO_CUDA_TRY(cudaStreamSynchronize(stream));
      MINIMO_ASSIGN(const int64_t wrong, mine.Wrong(c, expected));
      Report(c.Name(), kKernels[kernel], host.rank(), wrong, peers.fault(), ok);
    }
  }
  if (host.rank() == 0) std::printf("{\"sums\": \"checked\", \"ok\": %s}\n", *ok ? "true" : "false");
  return {};
}

Status CheckSumsInTurns(const std::vector<int>& numbers_of_ranks, bool* ok) {
  constexpr int kManyTokens = 2300;  // more chunks than blocks
  for (const int ranks : numbers_of_ranks) {
    Turns turns;
    MINIMO_TRY(turns.Create(ranks, int64_t{256} * kHidden, kManyTokens, kHidden));
    int cases = 0;
    for (const Case& c : Cases(ranks)) {
      if (c.top_k == 8 || (ranks > 2 && !c.owned)) continue;  // few are enough for a sanitizer
      MINIMO_TRY(CheckCase(c, turns, ok));
      ++cases;
    }
    MINIMO_TRY(CheckCase({ranks, kManyTokens, 1, false, true, true}, turns, ok));
    for (const int tokens : {1, 9, 200}) {
      for (const bool owned : {false, true}) MINIMO_TRY(CheckNorms(ranks, tokens, owned, turns, ok));
    }
    std::printf("{\"sums_in_turns\": \"checked\", \"ranks\": %d, \"cases\": %d, \"ok\": %s}\n", ranks, cases,
                *ok ? "true" : "false");
    std::fflush(stdout);
  }
  return {};
}

Status CheckCollectives(Communicator& host, NcclCommunicator& nccl, cudaStream_t stream, bool* ok) {
  constexpr int64_t kCount = 300'001;
  const int ranks = host.size(), rank = host.rank();
  const int64_t all = kCount * ranks, bytes = all * 4;
  std::vector<float> mine(all), sum(all, 0.0f), got(all);
  for (int64_t i = 0; i < all; ++i) mine[i] = Case::Value(rank, i);
  for (int r = 0; r < ranks; ++r) {
    for (int64_t i = 0; i < all; ++i) sum[i] += Case::Value(r, i);
  }
  DeviceMemory from, to;
  MINIMO_TRY(from.Allocate(bytes));
  MINIMO_TRY(to.Allocate(bytes));
  MINIMO_TRY(host.Barrier());
  const auto fill = [&](DeviceMemory& memory) {
    return ToStatus(cudaMemcpy(memory.As(), mine.data(), bytes, cudaMemcpyHostToDevice), "copy");
  };
  const auto compare = [&](const char* name, int64_t count, const auto& expected) -> Status {
    MINIMO_CUDA_TRY(cudaStreamSynchronize(stream));
    MINIMO_CUDA_TRY(cudaMemcpy(got.data(), to.As(), bytes, cudaMemcpyDeviceToHost));
    int64_t wrong = 0;
    for (int64_t i = 0; i < count; ++i) wrong += got[i] != expected(i);
    if (rank == 0 || wrong != 0) {
      std::printf("{\"collective\": \"%s\", \"rank\": %d, \"values\": %lld, \"wrong\": %lld}\n", name, rank,
                  static_cast<long long>(count), static_cast<long long>(wrong));
    }
    *ok = *ok && wrong == 0;
    return {};
  };
  const auto type = nccl::DataType::kFloat32;
  const std::vector<int64_t> each(ranks, kCount * 4);
  const auto place = [](int64_t i) { return Case::Value(static_cast<int>(i / kCount), i % kCount); };
  MINIMO_TRY(fill(from));
  MINIMO_TRY(nccl.AllGather(from.As(), to.As(), kCount, type, stream));
  MINIMO_TRY(compare("all-gather", all, place));
  MINIMO_TRY(nccl.ReduceScatterSum(from.As(), to.As(), kCount, type, stream));
  MINIMO_TRY(compare("reduce-scatter", kCount, [&](int64_t i) { return sum[rank * kCount + i]; }));
  MINIMO_TRY(nccl.AllToAllV(from.As(), each, to.As(), each, stream));
  MINIMO_TRY(compare("all-to-all", all, [&](int64_t i) {
    return Case::Value(static_cast<int>(i / kCount), rank * kCount + i % kCount);
  }));
  MINIMO_TRY(fill(to));
  MINIMO_TRY(nccl.AllReduceSum(to.As(), all, type, stream));
  MINIMO_TRY(compare("all-reduce", all, [&](int64_t i) { return sum[i]; }));
  MINIMO_TRY(fill(to));
  MINIMO_TRY(nccl.Broadcast(to.As(), bytes, ranks - 1, stream));
  return compare("broadcast", all, [&](int64_t i) { return Case::Value(ranks - 1, i); });
}

}  // namespace minimo::cuda
