// Stages activations, then shares the rows of all tasks out over the team.
#include <algorithm>
#include <span>
#include <tuple>
#include <vector>

#include "base/numa.h"
#include "base/thread_team.h"
#include "ops/linear/cpu_isa.h"
#include "ops/linear/linear.h"
#include "ops/linear/row_kernels.h"
#include "tensor/buffer.h"

namespace minimo {
namespace {

constexpr int64_t kGrain = kNodeRows;  // rows: whole pairs of tiles, whole row tiles
// Staged by every member for itself up to here, which costs less than a barrier; beyond it the rows are shared out.
constexpr int64_t kOwnStaging = 64 << 10;  // bytes
// Pieces a member, handed out one by one: a disturbed core does less of them.
constexpr int64_t kPieces = 8;
// Weights, those of float32 counted four times: a piece of fewer costs more in the hand-out than it evens out.
constexpr double kLeastPiece = 128 << 10;

ChosenKernel Choose(const WeightView& w) {
  [[maybe_unused]] const CpuIsa isa = ActiveCpuIsa();
  if (w.tiles != nullptr) {
    const TileLayout layout(w);
#if defined(__x86_64__)
    if (w.exact_tiles) return {TileRowsExactAvx512, {StageFormat::Kind::kFixed, nullptr, w.group_size, 0}};
#endif
    ChosenKernel chosen{TileRowsPortable,
                        {StageFormat::Kind::kInt8, nullptr, static_cast<int32_t>(layout.group), layout.offset()}};
#if defined(__x86_64__)
    if (isa >= CpuIsa::kAvx2) chosen.run = TileRowsAvx2;
    if (isa >= CpuIsa::kAvx512) chosen.run = TileRowsAvx512;
    if (isa >= CpuIsa::kAmx) chosen.run = TileRowsAmx;
#elif defined(__aarch64__)
    if (isa >= CpuIsa::kNeon) chosen.run = TileRowsNeon;
    if (isa >= CpuIsa::kNeonDot) chosen.run = TileRowsNeonDot;
#endif
    return chosen;
  }
#if defined(__x86_64__)
  if (isa >= CpuIsa::kAvx512) return ExactAvx512(w);
#endif
  return {};
}

// Rows of x that tasks read, each staged once.
struct Source {
  StageFormat format;
  const float* x = nullptr;
  int64_t stride = 0, cols = 0;
  int64_t rows = 0;       // 0 to the last one that a task names
  int64_t row_bytes = 0;
  int64_t begin = 0;      // of its bytes in the staging buffer
};

struct Job {
  const LinearTask* task = nullptr;
  int64_t first = 0, last = 0;  // rows
  ChosenKernel kernel;
  int source = -1;
};

// What a row costs: its bytes must come from memory once, its products are computed for each token.
double RowCost(const LinearTask& task) {
  return static_cast<double>(task.weight.cols) * (4.0 + static_cast<double>(task.tokens));
}

class Plan {
 public:
  // Of each task, every memory node's rows apart.
  void Make(std::span<const LinearTask> tasks, int nodes) {
    jobs_.clear();
    sources_.clear();
    bytes_ = 0;
    weights_ = 0;
    for (const LinearTask& task : tasks) {
      if (task.tokens == 0 || task.weight.rows == 0) continue;
      Job job{&task, 0, task.weight.rows, Choose(task.weight)};
      if (job.kernel.stage.kind != StageFormat::Kind::kNone) job.source = SourceOf(task, job.kernel.stage);
      jobs_.push_back(job);
      const auto wide = static_cast<double>(std::max<int64_t>(1, task.weight.ElementBits() / 8));
      weights_ += static_cast<double>(task.weight.cols) * static_cast<double>(task.weight.rows) * wide;
    }
    const size_t whole = jobs_.size();
    for (int n = 0; n < nodes; ++n) {
      Node& node = nodes_[n] = {nodes == 1 ? 0 : jobs_.size(), whole, 0};
      for (size_t i = 0; i < whole; ++i) {
        Job job = jobs_[i];
        std::tie(job.first, job.last) = RowsOfNode(job.task->weight.rows, nodes, n);
        node.cost += RowCost(*job.task) * static_cast<double>(job.last - job.first);
        if (nodes > 1) jobs_.push_back(job);
      }
    }
    for (Source& s : sources_) {
      s.begin = bytes_;
      bytes_ += s.rows * s.row_bytes;
    }
  }

  int64_t staged_bytes() const { return bytes_; }
  double weights() const { return weights_; }

  void StageAll(std::byte* buffer) const {
    for (const Source& s : sources_) {
      for (int64_t r = 0; r < s.rows; ++r) Stage(s, r, buffer);
    }
  }
  void StageShared(ThreadTeam& team, std::byte* buffer) const {
    constexpr int64_t kRowsAtOnce = 8;
    for (const Source& s : sources_) {
      team.ParallelFor(s.rows, kRowsAtOnce, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) Stage(s, r, buffer);
      });
    }
  }

  // The piece-th of `pieces` parts of a node's rows, equal in cost.
  void RunPiece(int n, int64_t piece, int64_t pieces, const std::byte* buffer) const {
    const Node& node = nodes_[n];
    const double from = node.cost * static_cast<double>(piece) / static_cast<double>(pieces);
    const double to = node.cost * static_cast<double>(piece + 1) / static_cast<double>(pieces);
    double at = 0;
    for (const Job& job : std::span(jobs_).subspan(node.first_job, node.jobs)) {
      const double cost = RowCost(*job.task);
      const double rows = static_cast<double>(job.last - job.first);
      const auto cut = [&](double position, bool last) {
        const double row = (position - at) / cost;
        if (last || row >= rows) return job.last;
        return job.first + std::max<int64_t>(0, static_cast<int64_t>(row) / kGrain * kGrain);
      };
      const int64_t begin = piece == 0 ? job.first : cut(from, false);
      const int64_t end = cut(to, piece == pieces - 1);
      if (begin < end) Run(job, begin, end, buffer);
      at += cost * rows;
      if (at >= to && piece < pieces - 1) return;
    }
  }

 private:
  int SourceOf(const LinearTask& task, const StageFormat& format) {
    int64_t rows = task.tokens;
    if (task.x_rows != nullptr) rows = *std::max_element(task.x_rows, task.x_rows + task.tokens) + 1;
    const int last = static_cast<int>(sources_.size()) - 1;
    if (last >= 0) {  // tasks that share x come one after the other
      Source& s = sources_[static_cast<size_t>(last)];
      if (s.x == task.x && s.stride == task.x_stride && s.cols == task.weight.cols && s.format == format) {
        s.rows = std::max(s.rows, rows);
        return last;
      }
    }
    sources_.push_back(
        {format, task.x, task.x_stride, task.weight.cols, rows, StagedRowBytes(format, task.weight.cols)});
    return last + 1;
  }

  static void Stage(const Source& s, int64_t row, std::byte* buffer) {
    StageRow(s.format, s.x + row * s.stride, s.cols, buffer + s.begin + row * s.row_bytes);
  }

  void Run(const Job& job, int64_t begin, int64_t end, const std::byte* buffer) const {
    if (const auto watch = watch_rows.load(std::memory_order_relaxed)) watch(*job.task, begin, end);
    if (job.kernel.run == nullptr) return LinearRowsHwy(*job.task, begin, end);
    const Source& s = sources_[static_cast<size_t>(job.source)];
    job.kernel.run(*job.task, {buffer + s.begin, s.row_bytes}, begin, end);
  }

  struct Node {
    size_t first_job = 0, jobs = 0;
    double cost = 0;
  };

  std::vector<Job> jobs_;
  std::vector<Source> sources_;
  int64_t bytes_ = 0;
  double weights_ = 0;
  Node nodes_[kMaxNumaNodes];
};

}  // namespace

void LinearCpu(std::span<const LinearTask> tasks, ThreadTeam& team) {
  thread_local Plan plan;
  thread_local Buffer<std::byte> shared;
  const int nodes = team.nodes();
  plan.Make(tasks, nodes);
  if (plan.weights() == 0) return;
  const bool share = plan.staged_bytes() > kOwnStaging && team.size() > 1;
  if (share) {
    shared.Reserve(static_cast<size_t>(plan.staged_bytes()));
    plan.StageShared(team, shared.data());
  }
  const int64_t most = team.size() == 1 ? 1 : kPieces * team.size();
  const int64_t pieces = std::clamp(static_cast<int64_t>(plan.weights() / kLeastPiece), int64_t{nodes}, most) / nodes;
  NodePieces left(nodes, pieces);
  const Plan& made = plan;  // thread_local: members must not look it up again
  const std::byte* common = share ? shared.data() : nullptr;
  const auto work = [&](int part) {
    thread_local Buffer<std::byte> own;
    const std::byte* buffer = common;
    const int node = team.NodeOf(part);
    auto piece = left.Next(node);
    if (!piece) return;
    if (buffer == nullptr) {
      own.Reserve(static_cast<size_t>(made.staged_bytes()));
      made.StageAll(own.data());
      buffer = own.data();
    }
    for (; piece; piece = left.Next(node)) made.RunPiece(piece->node, piece->index, pieces, buffer);
  };
  if (pieces * nodes == 1) return work(0);
  team.Run(work);
}

}  // namespace minimo
