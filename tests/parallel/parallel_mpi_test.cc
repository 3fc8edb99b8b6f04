// Every checkpoint over MPI processes: `mpirun -n N parallel_mpi_test`. Rank 0 computes each answer alone too, compares
// and prints "ok".
#include <cstdio>

#include "base/error.h"
#include "engine/cpu_executor.h"
#include "engine/parallel_executor.h"
#include "models/shard.h"
#include "tests/parallel/two_sequences.h"
#include "tests/support/mpi_main.h"

namespace minimo::testing {
namespace {

Status Check(Communicator& comm, const GoldenModel& golden, const ParallelFlags& flags) {
  MINIMO_ASSIGN(const LoadedModel model, LoadModel(golden.folder));
  MINIMO_TRY(CheckSameCheckpoint(model, comm));
  MINIMO_ASSIGN(const ParallelPlan plan, PlanRanks(model.spec, flags, 8));
  const KvLayout layout = TwoSequencesLayout(model.spec);
  MINIMO_ASSIGN(auto mine, CpuExecutor::CreateRank(model, plan, &comm, layout, DType::kF32, 1));
  if (comm.rank() != 0) return FollowSteps(*mine, comm);
  MINIMO_ASSIGN(auto alone, CpuExecutor::Create(model, layout, DType::kF32, 1));
  MINIMO_ASSIGN(const SafetensorsFile file, SafetensorsFile::Open(golden.golden));
  const std::vector<int32_t> ids = GoldenCases(file).front().input_ids;
  ParallelExecutor leader(std::move(mine), comm);
  const Answer many = TwoSequences(model.spec, ids, plan.replicas).Run(leader);
  const Answer one = TwoSequences(model.spec, ids).Run(*alone);
  const double difference = MaxDifference(many.logits, one.logits);
  if (!(difference <= kRanksBound)) return Errorf("{}: logits differ by {}", golden.name, difference);
  if (many.greedy != one.greedy) return Errorf("{}: greedy tokens differ", golden.name);
  return {};
}

Status CheckAll(const std::shared_ptr<Communicator>& world) {
  if (SharedDir().empty()) {
    if (UnderCi()) return Error{"../shared is not there"};
    if (world->rank() == 0) std::puts("(skipped: ../shared is not there)");
    return {};
  }
  const int ranks = world->size();
  std::vector<ParallelFlags> layouts = {{ranks, false, "tp", "tp"},  {ranks, false, "ep", "tp"},
                                        {ranks, true, "", ""},       {1, true, "", "", ranks},
                                        {ranks / 2, false, "ep", "tp", 2}};
  if (ranks % 2 == 0 && ranks > 2) {
    const std::string mixed = std::to_string(ranks / 2) + "x2";
    layouts.insert(layouts.end(), {{ranks, false, mixed, mixed}, {ranks, false, mixed, "tp"}});
  }
  for (const GoldenModel& golden : GoldenModels()) {
    for (const ParallelFlags& flags : layouts) MINIMO_TRY(Check(*world, golden, flags));
  }
  return {};
}

}  // namespace
}  // namespace minimo::testing

int main() { return minimo::testing::OnEveryRank(minimo::testing::CheckAll); }
