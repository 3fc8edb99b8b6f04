// A whole engine over MPI processes: `mpirun -n N parallel_engine_mpi_test`. Rank 0 compares what concurrent requests
// say with what an engine of its own says, and prints "ok".
#include "base/error.h"
#include "comm/communicator.h"
#include "tests/parallel/many_requests.h"
#include "tests/support/mpi_main.h"

namespace minimo::testing {
namespace {

struct Layout {
  std::string prefill;
  std::string decode;
  int replicas = 1;
};

std::vector<Layout> Layouts(int ranks) {
  std::vector<Layout> layouts = {{"tp", "tp"}, {"ep", "ep"}, {"ep", "tp"}, {"ep", "tp", ranks}};
  if (ranks % 2 == 0 && ranks > 2) {
    const std::string mixed = std::to_string(ranks / 2) + "x2";
    layouts.insert(layouts.end(), {{mixed, mixed}, {mixed, "tp"}, {"ep", "ep", 2}});
  }
  return layouts;
}

Status CheckModel(const std::shared_ptr<Communicator>& world, const std::string& model) {
  std::vector<Request> requests;
  std::vector<std::string> expected;
  if (world->rank() == 0) {
    MINIMO_ASSIGN(const auto one, Engine::Create(ManyRequestsOptions(model)));
    requests = ManyRequests(one->tokenizer());
    for (const Request& request : requests) expected.push_back(Text(*one, request));
  }
  for (const Layout& layout : Layouts(world->size())) {
    EngineOptions options = ManyRequestsOptions(model);
    options.ranks = world;
    options.data_parallel_size = layout.replicas;
    options.moe_prefill = layout.prefill;
    options.moe_decode = layout.decode;
    options.rank_timeout_ms = 60000;
    if (world->rank() > 0) {
      MINIMO_TRY(FollowEngine(options));
      continue;
    }
    MINIMO_ASSIGN(const auto engine, Engine::Create(options));
    const std::vector<std::string> texts = Texts(*engine, requests);
    for (size_t i = 0; i < texts.size(); ++i) {
      if (texts[i] == expected[i]) continue;
      return Errorf("{}, experts {} in prefill, {} in decode, {} replicas, request {}: {}\nand of one rank: {}", model,
                    layout.prefill, layout.decode, layout.replicas, i, texts[i], expected[i]);
    }
  }
  return {};
}

Status CheckBoth(const std::shared_ptr<Communicator>& world) {
  for (const char* model : {"nano-minimax-m2", "nano-mimo-v2-flash"}) MINIMO_TRY(CheckModel(world, model));
  return {};
}

}  // namespace
}  // namespace minimo::testing

int main() { return minimo::testing::OnEveryRank(minimo::testing::CheckBoth); }
