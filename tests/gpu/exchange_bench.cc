// The ladder of all-reduces between GPUs: bytes against microseconds, NCCL's and our own, each inside a CUDA graph of
// many; checks the sums first. One process a GPU under mpirun, or else one thread a GPU.
//   exchange_bench [RANKS [one]]   JSON lines on rank 0; exits 1 if a sum is off. one: all ranks on one GPU, with a
//                                  stand-in for NCCL, MINIMO_NCCL_LIBRARY=libnccl_one_gpu.so: the sums are checked, the
//                                  times are no exchange's
#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "comm/mpi.h"
#include "comm/nccl.h"
#include "comm/threads.h"
#include "cuda/peer_memory_cuda.h"

namespace minimo::cuda {
namespace {

constexpr int kInGraph = 50, kRepeats = 9;
constexpr int kMostTokens = 8192;
constexpr int kMostOnOneGpu = 64;  // more, and one rank's kernel and its next, which waits, leave the other's no room

// Work of one rank at one size.
struct Rows {
  int tokens = 0, hidden = 0;
  DeviceMemory partial, residual, norm, next_x, squares;
};

float PartOf(int rank, int64_t i) { return static_cast<float>((i * 7 + rank * 13) % 101 - 50) / 64.0f; }

Status Make(Communicator& host, int tokens, int hidden, Rows* rows) {
  rows->tokens = tokens;
  rows->hidden = hidden;
  const int64_t count = int64_t{tokens} * hidden;
  MINIMO_TRY(rows->partial.Allocate(count * 4));
  MINIMO_TRY(rows->residual.AllocateZeroed(count * 4));
  MINIMO_TRY(rows->norm.Allocate(hidden * 4));
  MINIMO_TRY(rows->next_x.Allocate(count * 2));
  MINIMO_TRY(rows->squares.AllocateZeroed(int64_t{tokens} * ExchangeParts(hidden) * 4));
  std::vector<float> values(count), ones(hidden, 1.0f);
  for (int64_t i = 0; i < count; ++i) values[i] = PartOf(host.rank(), i);
  MINIMO_CUDA_TRY(cudaMemcpy(rows->partial.As(), values.data(), count * 4, cudaMemcpyHostToDevice));
  MINIMO_CUDA_TRY(cudaMemcpy(rows->norm.As(), ones.data(), hidden * 4, cudaMemcpyHostToDevice));
  return host.Barrier();  // on one GPU, to free memory waits for the other rank, which would wait for this one
}

SumRowsParams Params(const PeerMemory& peers, const Rows& rows) {
  SumRowsParams p;
  p.peers = peers.view();
  p.tokens = rows.tokens;
  p.hidden = rows.hidden;
  p.partial = rows.partial.As<float>();
  p.residual = rows.residual.As<float>();
  p.next_norm = rows.norm.As<float>();
  p.next_x = rows.next_x.As();
  p.next_x_stride = rows.hidden;
  p.square_sums = rows.squares.As<float>();
  return p;
}

// Elements of residual that differ from the sum over ranks.
Result<int64_t> Wrong(const Rows& rows, int ranks, float scale) {
  const int64_t count = int64_t{rows.tokens} * rows.hidden;
  std::vector<float> got(count);
  MINIMO_CUDA_TRY(cudaMemcpy(got.data(), rows.residual.As(), count * 4, cudaMemcpyDeviceToHost));
  int64_t wrong = 0;
  for (int64_t i = 0; i < count; ++i) {
    float sum = 0;
    for (int r = 0; r < ranks; ++r) sum += PartOf(r, i);
    wrong += got[i] != sum * scale;
  }
  return wrong;
}

// Median and least of the microseconds of one of the operations that `enqueue` puts on the stream.
template <typename Enqueue>
Result<std::pair<double, double>> Time(Communicator& host, cudaStream_t stream, Enqueue enqueue) {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  MINIMO_CUDA_TRY(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < kInGraph; ++i) MINIMO_TRY(enqueue());
  MINIMO_CUDA_TRY(cudaStreamEndCapture(stream, &graph));
  MINIMO_CUDA_TRY(cudaGraphInstantiate(&exec, graph, 0));
  Event begin, end;
  MINIMO_TRY(begin.Create(true));
  MINIMO_TRY(end.Create(true));
  std::vector<double> us;
  for (int i = 0; i < kRepeats + 2; ++i) {
    MINIMO_TRY(host.Barrier());
    MINIMO_CUDA_TRY(cudaGraphLaunch(exec, stream));  // the ranks meet here; the second launch is timed
    MINIMO_CUDA_TRY(cudaEventRecord(begin.get(), stream));
    MINIMO_CUDA_TRY(cudaGraphLaunch(exec, stream));
    MINIMO_CUDA_TRY(cudaEventRecord(end.get(), stream));
    MINIMO_CUDA_TRY(cudaStreamSynchronize(stream));
    float ms = 0;
    MINIMO_CUDA_TRY(cudaEventElapsedTime(&ms, begin.get(), end.get()));
    if (i >= 2) us.push_back(ms * 1e3 / kInGraph);
  }
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  std::sort(us.begin(), us.end());
  return std::pair(us[us.size() / 2], us.front());
}

// The kernel for many rows, the parts in float32 and in bf16.
Status ManyRows(Communicator& host, const PeerMemory& peers, cudaStream_t stream, int most_tokens, bool* ok) {
  for (const int tokens : {1, 37, 64, 128, 256, 512, 900, 1024, 2048, kMostTokens}) {
    if (tokens > most_tokens) break;
    for (const bool bf16 : {false, true}) {
      Rows rows;
      MINIMO_TRY(Make(host, tokens, 3072, &rows));
      const SumRowsParams p = Params(peers, rows);
      const auto enqueue = [&] { return ToStatus(LaunchSumManyRows(p, bf16, false, stream), "many rows"); };
      for (int i = 0; i < 3; ++i) MINIMO_TRY(enqueue());
      MINIMO_CUDA_TRY(cudaStreamSynchronize(stream));
      MINIMO_ASSIGN(const int64_t wrong, Wrong(rows, host.size(), 3));  // the parts are exact in bf16
      *ok = *ok && wrong == 0 && !peers.fault();
      MINIMO_ASSIGN(const auto us, Time(host, stream, enqueue));
      if (host.rank() != 0 && wrong == 0) continue;
      std::printf("{\"rank\": %d, \"many_rows\": %d, \"parts\": \"%s\", \"wrong\": %lld, \"us\": %.2f, "
                  "\"least_us\": %.2f}\n",
                  host.rank(), tokens, bf16 ? "bf16" : "float32", static_cast<long long>(wrong), us.first, us.second);
      std::fflush(stdout);
    }
  }
  return {};
}

// What a rank's part is made of: every kernel over slots and partial sums of either type, others' slots left out.
// Values are multiples of 1/8 within 1, whose sums of eight are exact in bf16.
Status Parts(Communicator& host, const PeerMemory& peers, cudaStream_t stream, bool* ok) {
  constexpr int kHidden = 1544;  // not a multiple of kExchangeColumns
  const auto value = [](int rank, int64_t i) { return static_cast<float>((i * 7 + rank * 13) % 17 - 8) / 8.0f; };
  for (const int tokens : {1, 5, 200}) {
    for (const int top_k : {1, 3, 8, 12}) {
      for (const int kind : {0, 1, 2, 3, 4, 5}) {  // 1: slots, 2: in bf16, 4: a row is one rank's, none the first's
        const bool slots = (kind & 1) != 0, bf16 = (kind & 2) != 0, owned = (kind & 4) != 0 && host.size() > 1;
        const auto rows_of = [&](int rank) {
          const int others = host.size() - 1;
          return !owned ? RankRows{} : rank == 0 ? RankRows{0, 0}
                                                 : RankRows{tokens * (rank - 1) / others, tokens * rank / others};
        };
        const int64_t rows = int64_t{tokens} * top_k, count = int64_t{tokens} * kHidden;
        const auto slot_of = [&](int rank, int64_t i) {
          return (i + rank) % 5 == 3 ? -1 : static_cast<int>((i * 11 + rank) % rows);
        };
        std::vector<float> expected(count, 0.0f), partial(rows * kHidden);
        for (int r = 0; r < host.size(); ++r) {
          for (int64_t t = 0; t < tokens; ++t) {
            if (t < rows_of(r).begin || t >= rows_of(r).end) continue;
            for (int k = 0; k < top_k; ++k) {
              const int64_t slot = slots ? slot_of(r, t * top_k + k) : k * tokens + t;
              for (int c = 0; slot >= 0 && c < kHidden; ++c) expected[t * kHidden + c] += value(r, slot * kHidden + c);
            }
          }
        }
        std::vector<uint16_t> halves(partial.size());
        for (size_t i = 0; i < partial.size(); ++i) {
          partial[i] = value(host.rank(), static_cast<int64_t>(i));
          halves[i] = static_cast<uint16_t>(std::bit_cast<uint32_t>(partial[i]) >> 16);
        }
        std::vector<int> mine(rows);
        for (int64_t i = 0; i < rows; ++i) mine[i] = slot_of(host.rank(), i);
        DeviceMemory parts, list, residual;
        MINIMO_TRY(parts.Allocate(std::ssize(partial) * (bf16 ? 2 : 4)));
        MINIMO_TRY(list.Allocate(rows * 4));
        MINIMO_TRY(residual.Allocate(count * 4));
        MINIMO_CUDA_TRY(cudaMemcpy(parts.As(), bf16 ? static_cast<const void*>(halves.data()) : partial.data(),
                                   static_cast<size_t>(parts.bytes()), cudaMemcpyHostToDevice));
        MINIMO_CUDA_TRY(cudaMemcpy(list.As(), mine.data(), rows * 4, cudaMemcpyHostToDevice));
        MINIMO_TRY(host.Barrier());  // as in Make
        SumRowsParams p;
        p.peers = peers.view();
        p.tokens = tokens;
        p.hidden = kHidden;
        p.partial = parts.As();
        p.partial_bf16 = bf16;
        p.slot_of = slots ? list.As<int>() : nullptr;
        p.top_k = top_k;
        p.residual = residual.As<float>();
        p.part = rows_of(host.rank());
        for (int r = 0; r < host.size(); ++r) {
          p.sent[r] = rows_of(r).begin < rows_of(r).end ? rows_of(r) : RankRows{0, 1};
        }
        for (const int kernel : {0, 1, 2}) {  // packets, many rows, many rows in bf16
          MINIMO_CUDA_TRY(cudaMemsetAsync(residual.As(), 0, static_cast<size_t>(count) * 4, stream));
          MINIMO_CUDA_TRY(kernel == 0 ? LaunchSumRows(p, false, stream)
                                      : LaunchSumManyRows(p, kernel == 2, false, stream));
          MINIMO_CUDA_TRY(cudaStreamSynchronize(stream));
          std::vector<float> got(count);
          MINIMO_CUDA_TRY(cudaMemcpy(got.data(), residual.As(), count * 4, cudaMemcpyDeviceToHost));
          int64_t wrong = 0;
          for (int64_t i = 0; i < count; ++i) wrong += got[i] != expected[i];
          if (wrong == 0 && !peers.fault()) continue;
          *ok = false;
          std::printf("{\"rank\": %d, \"tokens\": %d, \"top_k\": %d, \"slots\": %d, \"bf16\": %d, \"owned\": %d, "
                      "\"kernel\": %d, \"wrong\": %lld, \"fault\": %d}\n",
                      host.rank(), tokens, top_k, slots, bf16, owned, kernel, static_cast<long long>(wrong), peers.fault());
        }
      }
    }
  }
  if (host.rank() == 0) std::printf("{\"parts\": \"checked\", \"ok\": %s}\n", *ok ? "true" : "false");
  return {};
}

// Every collective of NCCL's: what each rank gives tells rank and place.
Status Collectives(Communicator& host, NcclCommunicator& nccl, cudaStream_t stream, bool* ok) {
  constexpr int64_t kCount = 300'001;
  const int ranks = host.size(), rank = host.rank();
  const int64_t all = kCount * ranks, bytes = all * 4;
  std::vector<float> mine(all), sum(all, 0.0f), got(all);
  for (int64_t i = 0; i < all; ++i) mine[i] = PartOf(rank, i);
  for (int r = 0; r < ranks; ++r) {
    for (int64_t i = 0; i < all; ++i) sum[i] += PartOf(r, i);
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
  const auto of_sum = [&](int64_t i) { return sum[i]; };
  MINIMO_TRY(fill(from));
  MINIMO_TRY(nccl.AllGather(from.As(), to.As(), kCount, type, stream));
  MINIMO_TRY(compare("all-gather", all, [](int64_t i) { return PartOf(static_cast<int>(i / kCount), i % kCount); }));
  MINIMO_TRY(nccl.ReduceScatterSum(from.As(), to.As(), kCount, type, stream));
  MINIMO_TRY(compare("reduce-scatter", kCount, [&](int64_t i) { return sum[rank * kCount + i]; }));
  MINIMO_TRY(nccl.AllToAllV(from.As(), each, to.As(), each, stream));
  MINIMO_TRY(compare("all-to-all", all, [&](int64_t i) {
    return PartOf(static_cast<int>(i / kCount), rank * kCount + i % kCount);
  }));
  MINIMO_TRY(fill(to));
  MINIMO_TRY(nccl.AllReduceSum(to.As(), all, type, stream));
  MINIMO_TRY(compare("all-reduce", all, of_sum));
  MINIMO_TRY(fill(to));
  MINIMO_TRY(nccl.Broadcast(to.As(), bytes, ranks - 1, stream));
  return compare("broadcast", all, [&](int64_t i) { return PartOf(ranks - 1, i); });
}

Status Ladder(Communicator& host, int device, bool one_gpu, bool* ok) {
  MINIMO_CUDA_TRY(cudaSetDevice(device));
  const bool first = host.rank() == 0;
  for (int other = 0; first && other < host.size(); ++other) {
    int can = 0, rank = 0;
    if (other == device) continue;
    cudaDeviceCanAccessPeer(&can, device, other);
    cudaDeviceGetP2PAttribute(&rank, cudaDevP2PAttrPerformanceRank, device, other);
    std::printf("{\"peer_access\": [%d, %d], \"can\": %d, \"performance_rank\": %d}\n", device, other, can, rank);
  }
  Stream stream;
  MINIMO_TRY(stream.Create());
  auto nccl = NcclCommunicator::Create(host);
  if (first) {
    const auto version = NcclCommunicator::Version();
    std::printf("{\"nccl\": \"%s\", \"version\": %d}\n", nccl.ok() ? "ok" : nccl.error().message.c_str(),
                version.ok() ? *version : 0);
  }
  if (nccl.ok()) MINIMO_TRY(Collectives(host, **nccl, stream.get(), ok));
  PeerMemory peers;
  const PeerMemory::Room room{int64_t{256} * 4096, int64_t{kMostTokens} * 3072 * 4, ManyChunks(kMostTokens, 3072)};
  const Status reachable = peers.Create(host, room);
  if (first) std::printf("{\"peer_memory\": \"%s\"}\n", reachable.ok() ? "ok" : reachable.error().message.c_str());
  std::fflush(stdout);
  for (const auto& [tokens, hidden] : {std::pair{1, 4}, {1, 64}, {1, 1536}, {1, 3072}, {2, 3072}, {4, 3072}, {8, 3072},
                                       {16, 3072}, {32, 3072}, {64, 3072}, {128, 3072}, {256, 3072}, {512, 3072},
                                       {1024, 3072}, {2048, 3072}}) {
    Rows rows;
    MINIMO_TRY(Make(host, tokens, hidden, &rows));
    const int64_t bytes = int64_t{tokens} * hidden * 4;
    double ours = 0, ours_least = 0, theirs = 0, theirs_least = 0;
    if (one_gpu && tokens > kMostOnOneGpu) break;
    if (reachable.ok() && int64_t{tokens} * hidden <= peers.view().values) {
      const SumRowsParams p = Params(peers, rows);
      const auto enqueue = [&] { return ToStatus(LaunchSumRows(p, false, stream.get()), "rows"); };
      for (int i = 0; i < 3; ++i) MINIMO_TRY(enqueue());
      MINIMO_CUDA_TRY(cudaStreamSynchronize(stream.get()));
      MINIMO_ASSIGN(const int64_t wrong, Wrong(rows, host.size(), 3));
      *ok = *ok && wrong == 0 && !peers.fault();
      if (wrong != 0 || peers.fault()) {
        std::printf("{\"rank\": %d, \"bytes\": %lld, \"wrong\": %lld, \"fault\": %d}\n", host.rank(),
                    static_cast<long long>(bytes), static_cast<long long>(wrong), peers.fault());
      }
      MINIMO_ASSIGN(const auto us, Time(host, stream.get(), enqueue));
      ours = us.first, ours_least = us.second;
    }
    if (nccl.ok() && !one_gpu) {
      const auto enqueue = [&] {
        return (*nccl)->AllReduceSum(rows.partial.As(), int64_t{tokens} * hidden, nccl::DataType::kFloat32,
                                     stream.get());
      };
      MINIMO_TRY(enqueue());
      MINIMO_CUDA_TRY(cudaStreamSynchronize(stream.get()));
      std::swap(rows.partial, rows.residual);
      MINIMO_ASSIGN(const int64_t wrong, Wrong(rows, host.size(), 1));
      std::swap(rows.partial, rows.residual);
      *ok = *ok && wrong == 0;
      if (wrong != 0) std::printf("{\"rank\": %d, \"nccl_wrong\": %lld}\n", host.rank(), static_cast<long long>(wrong));
      MINIMO_CUDA_TRY(cudaMemset(rows.partial.As(), 0, static_cast<size_t>(bytes)));  // sums of sums would overflow
      MINIMO_ASSIGN(const auto us, Time(host, stream.get(), enqueue));
      theirs = us.first, theirs_least = us.second;
    }
    if (first) {
      std::printf("{\"bytes\": %lld, \"ranks\": %d, \"processes\": %s, \"nccl_us\": %.2f, \"nccl_least_us\": %.2f, "
                  "\"ours_with_residual_and_norm_us\": %.2f, \"ours_least_us\": %.2f}\n",
                  static_cast<long long>(bytes), host.size(), host.backend()[0] == 'm' ? "true" : "false", theirs,
                  theirs_least, ours, ours_least);
      std::fflush(stdout);
    }
  }
  if (!reachable.ok()) return {};
  MINIMO_TRY(Parts(host, peers, stream.get(), ok));
  MINIMO_TRY(ManyRows(host, peers, stream.get(), one_gpu ? kMostOnOneGpu : kMostTokens, ok));
  // One token whose product is in partial sums, as the kernels of one token leave it.
  for (const int splits : {1, 2, 4, 8}) {
    Rows rows;
    MINIMO_TRY(Make(host, splits, 3072, &rows));
    SumRowsParams p = Params(peers, rows);
    p.tokens = 1;
    p.top_k = splits;
    MINIMO_ASSIGN(const auto us, Time(host, stream.get(), [&] {
                    return ToStatus(LaunchSumRows(p, false, stream.get()), "partial sums");
                  }));
    if (!first) continue;
    std::printf("{\"one_token_in_partial_sums\": %d, \"us\": %.2f, \"least_us\": %.2f}\n", splits, us.first, us.second);
  }
  // The two sums of the QK norm.
  DeviceMemory squares, sums;
  MINIMO_TRY(squares.AllocateZeroed(256 * 256 * 4));
  MINIMO_TRY(sums.AllocateZeroed(256 * 8));
  MINIMO_TRY(host.Barrier());
  for (const int tokens : {1, 32, 256}) {
    const SumNormsParams p{peers.view(), tokens, squares.As<float>(), 256, 192, 32, true, sums.As<float>()};
    MINIMO_ASSIGN(const auto us, Time(host, stream.get(), [&] {
                    return ToStatus(LaunchSumNorms(p, stream.get()), "norms");
                  }));
    if (!first) continue;
    std::printf("{\"norm_sums_of_tokens\": %d, \"us\": %.2f, \"least_us\": %.2f}\n", tokens, us.first, us.second);
  }
  return {};
}

int Main(int argc, char** argv) {
  bool ok = true;
  const bool one = argc > 2 && std::string(argv[2]) == "one";
  const auto run = [&](Communicator& host, int device) {
    const Status status = Ladder(host, device, one, &ok);
    if (status.ok()) return;
    std::fprintf(stderr, "rank %d: %s\n", host.rank(), status.error().message.c_str());
    host.Abort(status.error().message);
    ok = false;
  };
  if (one) setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 1);  // streams that share a queue would wait for each other
  if (one) setenv("CUDA_MODULE_LOADING", "EAGER", 1);
  if (StartedByMpi()) {
    auto world = OpenMpiWorld();
    if (!world.ok()) {
      std::fprintf(stderr, "%s\n", world.error().message.c_str());
      return 1;
    }
    run(**world, (*world)->rank());
  } else {
    auto ranks = MakeThreadRanks(argc > 1 ? std::atoi(argv[1]) : 2);
    std::vector<std::thread> threads;
    for (auto& rank : ranks) threads.emplace_back([&run, &rank, one] { run(*rank, one ? 0 : rank->rank()); });
    for (std::thread& thread : threads) thread.join();
  }
  return ok ? 0 : 1;
}

}  // namespace
}  // namespace minimo::cuda

int main(int argc, char** argv) { return minimo::cuda::Main(argc, argv); }
