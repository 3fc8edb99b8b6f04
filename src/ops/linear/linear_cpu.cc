// Stages activations, then shares the rows of all tasks out over the team.
#include <algorithm>
#include <atomic>
#include <vector>

#include "base/thread_team.h"
#include "ops/linear/cpu_isa.h"
#include "ops/linear/linear.h"
#include "ops/linear/row_kernels.h"
#include "tensor/buffer.h"

namespace minimo {
namespace {

constexpr int64_t kGrain = 32;  // rows: whole pairs of tiles, whole row tiles
// Staged by every member for itself up to here, which costs less than a barrier; beyond it the rows are shared out.
constexpr int64_t kOwnStaging = 64 << 10;  // bytes
// Pieces a member, handed out one by one: a disturbed core does less of them.
constexpr int64_t kPieces = 8;
constexpr double kLeastPiece = 128 << 10;  // weights: a piece of fewer costs more in the hand-out than it evens out

ChosenKernel Choose(const WeightView& w) {
  [[maybe_unused]] const CpuIsa isa = ActiveCpuIsa();
  if (w.tiles != nullptr) {
    const TileLayout layout(w);
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
  ChosenKernel kernel;
  int source = -1;
};

// What a row costs: its bytes must come from memory once, its products are computed for each token.
double RowCost(const LinearTask& task) {
  return static_cast<double>(task.weight.cols) * (4.0 + static_cast<double>(task.tokens));
}

class Plan {
 public:
  void Make(std::span<const LinearTask> tasks) {
    jobs_.clear();
    sources_.clear();
    bytes_ = 0;
    weights_ = cost_ = 0;
    for (const LinearTask& task : tasks) {
      if (task.tokens == 0 || task.weight.rows == 0) continue;
      Job job{&task, Choose(task.weight)};
      if (job.kernel.stage.kind != StageFormat::Kind::kNone) job.source = SourceOf(task, job.kernel.stage);
      jobs_.push_back(job);
      cost_ += RowCost(task) * static_cast<double>(task.weight.rows);
      weights_ += static_cast<double>(task.weight.cols) * static_cast<double>(task.weight.rows);
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

  // The piece-th of `pieces` parts of all rows, equal in cost.
  void RunPiece(int64_t piece, int64_t pieces, const std::byte* buffer) const {
    const double from = cost_ * static_cast<double>(piece) / static_cast<double>(pieces);
    const double to = cost_ * static_cast<double>(piece + 1) / static_cast<double>(pieces);
    double at = 0;
    for (const Job& job : jobs_) {
      const LinearTask& task = *job.task;
      const double cost = RowCost(task);
      const double rows = static_cast<double>(task.weight.rows);
      const auto cut = [&](double position, bool last) {
        const double row = (position - at) / cost;
        if (last || row >= rows) return task.weight.rows;
        return std::max<int64_t>(0, static_cast<int64_t>(row) / kGrain * kGrain);
      };
      const int64_t begin = piece == 0 ? 0 : cut(from, false);
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
    sources_.push_back({format, task.x, task.x_stride, task.weight.cols, rows, StagedRowBytes(format, task.weight.cols)});
    return last + 1;
  }

  static void Stage(const Source& s, int64_t row, std::byte* buffer) {
    StageRow(s.format, s.x + row * s.stride, s.cols, buffer + s.begin + row * s.row_bytes);
  }

  void Run(const Job& job, int64_t begin, int64_t end, const std::byte* buffer) const {
    if (job.kernel.run == nullptr) return LinearRowsHwy(*job.task, begin, end);
    const Source& s = sources_[static_cast<size_t>(job.source)];
    job.kernel.run(*job.task, {buffer + s.begin, s.row_bytes}, begin, end);
  }

  std::vector<Job> jobs_;
  std::vector<Source> sources_;
  int64_t bytes_ = 0;
  double cost_ = 0, weights_ = 0;
};

}  // namespace

void LinearCpu(std::span<const LinearTask> tasks, ThreadTeam& team) {
  thread_local Plan plan;
  thread_local Buffer<std::byte> shared;
  plan.Make(tasks);
  if (plan.weights() == 0) return;
  const bool share = plan.staged_bytes() > kOwnStaging && team.size() > 1;
  if (share) {
    shared.Reserve(static_cast<size_t>(plan.staged_bytes()));
    plan.StageShared(team, shared.data());
  }
  const int64_t most = team.size() == 1 ? 1 : kPieces * team.size();
  const int64_t pieces = std::clamp(static_cast<int64_t>(plan.weights() / kLeastPiece), int64_t{1}, most);
  std::atomic<int64_t> next{0};
  const Plan& made = plan;  // thread_local: members must not look it up again
  const std::byte* common = share ? shared.data() : nullptr;
  const auto work = [&](int) {
    thread_local Buffer<std::byte> own;
    const std::byte* buffer = common;
    int64_t p = next.fetch_add(1);
    if (p >= pieces) return;
    if (buffer == nullptr) {
      own.Reserve(static_cast<size_t>(made.staged_bytes()));
      made.StageAll(own.data());
      buffer = own.data();
    }
    for (; p < pieces; p = next.fetch_add(1)) made.RunPiece(p, pieces, buffer);
  };
  if (pieces == 1) return work(0);
  team.Run(work);
}

}  // namespace minimo
