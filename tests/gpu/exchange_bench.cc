// The ladder of all-reduces between GPUs: bytes against microseconds, NCCL's and our own, each inside a CUDA graph of
// many; checks the sums first. One process a GPU under mpirun, or else one thread a GPU.
//   exchange_bench [RANKS [one]]   JSON lines on rank 0; exits 1 if a sum is off. one: all ranks on one GPU, with a
//                                  stand-in for NCCL, MINIMO_NCCL_LIBRARY=libnccl_one_gpu.so: the sums are checked, the
//                                  times are no exchange's
//   exchange_bench turns [RANKS]   the sums' kernels alone, for compute-sanitizer: one GPU, its ranks in turns; 2 and 3
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "comm/mpi.h"
#include "comm/nccl.h"
#include "comm/threads.h"
#include "cuda/peer_memory_cuda.h"
#include "tests/gpu/exchange_check.h"

namespace minimo::cuda {
namespace {

constexpr int kInGraph = 50, kRepeats = 9;
constexpr int kMostTokens = 8192;
constexpr int kMostOnOneGpu = 64;  // of far more tokens one rank's blocks leave the other's no room

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

// The sum of one size, ours and NCCL's: checked, then timed.
struct Rung {
  double ours = 0, ours_least = 0, nccl = 0, nccl_least = 0;
};
Result<Rung> TimeRung(Communicator& host, const PeerMemory* peers, NcclCommunicator* nccl, cudaStream_t stream,
                      int tokens, int hidden, bool* ok) {
  Rung rung;
  Rows rows;
  MINIMO_TRY(Make(host, tokens, hidden, &rows));
  const int64_t values = int64_t{tokens} * hidden;
  if (peers != nullptr && values <= peers->view().values) {
    const SumRowsParams p = Params(*peers, rows);
    const auto enqueue = [&] { return ToStatus(LaunchSumRows(p, false, stream), "rows"); };
    for (int i = 0; i < 3; ++i) MINIMO_TRY(enqueue());
    MINIMO_CUDA_TRY(cudaStreamSynchronize(stream));
    MINIMO_ASSIGN(const int64_t wrong, Wrong(rows, host.size(), 3));
    if (wrong != 0 || peers->fault()) {
      *ok = false;
      std::printf("{\"rank\": %d, \"values\": %lld, \"wrong\": %lld, \"fault\": %d}\n", host.rank(),
                  static_cast<long long>(values), static_cast<long long>(wrong), peers->fault());
    }
    MINIMO_ASSIGN(const auto us, Time(host, stream, enqueue));
    rung.ours = us.first, rung.ours_least = us.second;
  }
  if (nccl != nullptr) {
    const auto enqueue = [&] {
      return nccl->AllReduceSum(rows.partial.As(), values, nccl::DataType::kFloat32, stream);
    };
    MINIMO_TRY(enqueue());
    MINIMO_CUDA_TRY(cudaStreamSynchronize(stream));
    std::swap(rows.partial, rows.residual);
    MINIMO_ASSIGN(const int64_t wrong, Wrong(rows, host.size(), 1));
    std::swap(rows.partial, rows.residual);
    *ok = *ok && wrong == 0;
    if (wrong != 0) std::printf("{\"rank\": %d, \"nccl_wrong\": %lld}\n", host.rank(), static_cast<long long>(wrong));
    // Sums of sums would overflow.
    MINIMO_CUDA_TRY(cudaMemset(rows.partial.As(), 0, static_cast<size_t>(rows.partial.bytes())));
    MINIMO_ASSIGN(const auto us, Time(host, stream, enqueue));
    rung.nccl = us.first, rung.nccl_least = us.second;
  }
  return rung;
}

Status Ladder(Communicator& host, const PeerMemory* peers, NcclCommunicator* nccl, cudaStream_t stream,
              int most_tokens, bool* ok) {
  for (const auto& [tokens, hidden] : {std::pair{1, 4}, {1, 64}, {1, 1536}, {1, 3072}, {2, 3072}, {4, 3072}, {8, 3072},
                                       {16, 3072}, {32, 3072}, {64, 3072}, {128, 3072}, {256, 3072}, {512, 3072},
                                       {1024, 3072}, {2048, 3072}}) {
    if (tokens > most_tokens) break;
    MINIMO_ASSIGN(const Rung rung, TimeRung(host, peers, nccl, stream, tokens, hidden, ok));
    if (host.rank() != 0) continue;
    std::printf("{\"bytes\": %lld, \"ranks\": %d, \"processes\": %s, \"nccl_us\": %.2f, \"nccl_least_us\": %.2f, "
                "\"ours_with_residual_and_norm_us\": %.2f, \"ours_least_us\": %.2f}\n",
                int64_t{tokens} * hidden * 4LL, host.size(), host.backend()[0] == 'm' ? "true" : "false", rung.nccl,
                rung.nccl_least, rung.ours, rung.ours_least);
    std::fflush(stdout);
  }
  return {};
}

// Sums of experts, of eight slots a token: in decode steps packets of float32 ones, in prefill many rows of bf16 ones.
Status SumsOfSlots(Communicator& host, const PeerMemory& peers, cudaStream_t stream, int most_tokens) {
  constexpr int kTopK = 8, kColumns = 3072;
  for (const int tokens : {1, 8, 32, 64, 128, 256, 900, 2048}) {
    if (tokens > most_tokens) break;
    const bool many = tokens > 128;
    Rows rows;
    MINIMO_TRY(Make(host, tokens, kColumns, &rows));
    DeviceMemory slots, list;
    MINIMO_TRY(slots.AllocateZeroed(int64_t{tokens} * kTopK * kColumns * 4));
    std::vector<int> slot_of(static_cast<size_t>(tokens) * kTopK);
    for (size_t i = 0; i < slot_of.size(); ++i) slot_of[i] = static_cast<int>((i * 37 + 5) % slot_of.size());
    MINIMO_TRY(list.Allocate(std::ssize(slot_of) * 4));
    MINIMO_CUDA_TRY(cudaMemcpy(list.As(), slot_of.data(), slot_of.size() * 4, cudaMemcpyHostToDevice));
    MINIMO_TRY(host.Barrier());
    SumRowsParams p = Params(peers, rows);
    p.partial = slots.As();
    p.partial_bf16 = many;
    p.slot_of = list.As<int>();
    p.top_k = kTopK;
    MINIMO_ASSIGN(const auto us, Time(host, stream, [&] {
      return ToStatus(many ? LaunchSumManyRows(p, true, false, stream) : LaunchSumRows(p, false, stream), "slots");
    }));
    if (host.rank() != 0) continue;
    std::printf("{\"rows_of_slots\": %d, \"ranks\": %d, \"us\": %.2f, \"least_us\": %.2f}\n", tokens, host.size(),
                us.first, us.second);
    std::fflush(stdout);
  }
  return {};
}

// One token whose product is in partial sums, as the kernels of one token leave it; the two sums of the QK norm.
Status SmallSums(Communicator& host, const PeerMemory& peers, cudaStream_t stream) {
  const bool first = host.rank() == 0;
  for (const int splits : {1, 2, 4, 8}) {
    Rows rows;
    MINIMO_TRY(Make(host, splits, 3072, &rows));
    SumRowsParams p = Params(peers, rows);
    p.tokens = 1;
    p.top_k = splits;
    MINIMO_ASSIGN(const auto us, Time(host, stream, [&] { return ToStatus(LaunchSumRows(p, false, stream), "rows"); }));
    if (!first) continue;
    std::printf("{\"one_token_in_partial_sums\": %d, \"us\": %.2f, \"least_us\": %.2f}\n", splits, us.first, us.second);
  }
  DeviceMemory squares, sums;
  MINIMO_TRY(squares.AllocateZeroed(256 * 256 * 4));
  MINIMO_TRY(sums.AllocateZeroed(256 * 8));
  MINIMO_TRY(host.Barrier());
  for (const int tokens : {1, 32, 256}) {
    const SumNormsParams p{peers.view(), tokens, squares.As<float>(), 256, 192, 32, true, sums.As<float>()};
    MINIMO_ASSIGN(const auto us, Time(host, stream, [&] { return ToStatus(LaunchSumNorms(p, stream), "norms"); }));
    if (!first) continue;
    std::printf("{\"norm_sums_of_tokens\": %d, \"us\": %.2f, \"least_us\": %.2f}\n", tokens, us.first, us.second);
  }
  return {};
}

void PrintReach(int device, int ranks) {
  for (int other = 0; other < ranks; ++other) {
    int can = 0, rank = 0;
    if (other == device) continue;
    cudaDeviceCanAccessPeer(&can, device, other);
    cudaDeviceGetP2PAttribute(&rank, cudaDevP2PAttrPerformanceRank, device, other);
    std::printf("{\"peer_access\": [%d, %d], \"can\": %d, \"performance_rank\": %d}\n", device, other, can, rank);
  }
}

Status Bench(Communicator& host, int device, bool one_gpu, bool* ok) {
  MINIMO_CUDA_TRY(cudaSetDevice(device));
  const bool first = host.rank() == 0;
  const int most_tokens = one_gpu && host.size() > 1 ? kMostOnOneGpu : kMostTokens;
  if (first && !one_gpu) PrintReach(device, host.size());
  Stream stream;
  MINIMO_TRY(stream.Create());
  auto nccl = NcclCommunicator::Create(host);
  if (first) {
    const auto version = NcclCommunicator::Version();
    std::printf("{\"nccl\": \"%s\", \"version\": %d}\n", nccl.ok() ? "ok" : nccl.error().message.c_str(),
                version.ok() ? *version : 0);
  }
  if (nccl.ok()) MINIMO_TRY(CheckCollectives(host, **nccl, stream.get(), ok));
  PeerMemory peers;
  const PeerMemory::Room room{int64_t{256} * 4096, int64_t{kMostTokens} * 3072 * 4, ManyChunks(kMostTokens, 3072)};
  const Status reachable = peers.Create(host, room);
  if (first) std::printf("{\"peer_memory\": \"%s\"}\n", reachable.ok() ? "ok" : reachable.error().message.c_str());
  std::fflush(stdout);
  MINIMO_TRY(Ladder(host, reachable.ok() ? &peers : nullptr, nccl.ok() && !one_gpu ? nccl->get() : nullptr,
                    stream.get(), most_tokens, ok));
  if (!reachable.ok()) return {};
  MINIMO_TRY(CheckSums(host, peers, stream.get(), ok));
  MINIMO_TRY(ManyRows(host, peers, stream.get(), most_tokens, ok));
  MINIMO_TRY(SumsOfSlots(host, peers, stream.get(), most_tokens));
  return SmallSums(host, peers, stream.get());
}

int Main(int argc, char** argv) {
  bool ok = true;
  if (argc > 1 && std::string(argv[1]) == "turns") {
    const std::vector<int> ranks = argc > 2 ? std::vector{std::atoi(argv[2])} : std::vector{2, 3};
    const Status status = CheckSumsInTurns(ranks, &ok);
    if (!status.ok()) std::fprintf(stderr, "%s\n", status.error().message.c_str());
    return status.ok() && ok ? 0 : 1;
  }
  const bool one = argc > 2 && std::string(argv[2]) == "one";
  const auto run = [&](Communicator& host, int device) {
    const Status status = Bench(host, device, one, &ok);
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
