// Random arrivals, cancels, preemptions, prefix hits and forks against the scheduler and the cache, with a fake clock
// and a fake model; after every step all books are checked, and every token against a run without a cache.
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <random>

#include "sched/scheduler.h"
#include "tests/support/fake_executor.h"

namespace minimo {
namespace {

struct World {
  const char* name;
  int window = 0;  // 0: no sliding layers
  int slack = 0;
  int num_blocks = 40;
  int num_rings = 0;
  int max_num_seqs = 8;
  int budget = 24;
  bool prefix_caching = true;
  bool chunked = true;
  uint64_t hash_mask = ~uint64_t{0};
  bool priorities = false;
};

constexpr int kBlockSize = 4;
constexpr int kVocab = 16;
constexpr size_t kMaxLive = 200;
constexpr int kStepsPerWorld = 15'000;

KvLayout LayoutOf(const World& world) {
  KvLayout layout;
  layout.groups.push_back({0, 1, 1, 8, 8});
  if (world.window > 0) layout.groups.push_back({world.window, 1, 1, 8, 8});
  layout.block_size = kBlockSize;
  layout.ring_tokens = world.window > 0 ? world.window + world.slack : 0;
  layout.num_blocks = world.num_blocks;
  layout.num_rings = world.num_rings;
  return layout;
}

KvCacheOptions CacheOptions(const World& world) {
  KvCacheOptions options;
  options.prefix_caching = world.prefix_caching;
  options.hash_mask = world.hash_mask;
  options.snapshot_min_tokens = 4;
  options.snapshot_stride = 16;
  return options;
}

SchedulerOptions SchedOptions(const World& world) {
  SchedulerOptions options;
  options.max_num_seqs = world.max_num_seqs;
  options.max_num_batched_tokens = world.budget;
  options.chunked_prefill = world.chunked;
  options.max_model_len = 120;
  return options;
}

class Simulation {
 public:
  Simulation(const World& world, uint64_t seed)
      : world_(world),
        random_(seed),
        model_(world.window, kVocab),
        executor_(model_, LayoutOf(world)),
        cache_(LayoutOf(world), CacheOptions(world)),
        scheduler_(SchedOptions(world), &cache_, &clock_) {}

  void Step() {
    if (Draw(100) < arrival_percent_ && live_.size() < kMaxLive) Arrive();
    if (Draw(100) < 4 && !live_.empty()) Cancel(std::next(live_.begin(), Draw(static_cast<int>(live_.size())))->first);
    if (Draw(500) == 0) arrival_percent_ = Draw(60);  // quiet times and rushes
    if (!live_.empty()) RunStep();
  }

  void Drain() {
    for (int steps = 0; !live_.empty(); ++steps) {
      ASSERT_LT(steps, 20 * 1000) << "what is admitted must end";
      RunStep();
      if (::testing::Test::HasFatalFailure()) return;
    }
    EXPECT_EQ(cache_.free_blocks(), cache_.num_blocks());
    EXPECT_EQ(cache_.free_rings(), cache_.num_rings());
  }

  int64_t steps_ = 0, finished_ = 0, cancelled_ = 0, forks_ = 0, refused_ = 0, tokens_ = 0, resumed_ = 0;
  const KvCounters& kv() const { return cache_.counters(); }
  int64_t preemptions() const { return scheduler_.preemptions(); }

 private:
  struct Live {
    Live(const FakeModel& model) : truth(model) {}
    Sequence sequence;
    FakeHistory truth;
    int total_tokens = 0;
    int forks = 0;        // children to make when the prompt is computed
    int64_t idle_steps = 0;  // since it last moved while being the first in the order
  };

  int Draw(int below) { return static_cast<int>(random_() % static_cast<uint64_t>(below)); }

  void Arrive() {
    auto live = std::make_unique<Live>(model_);
    Sequence& s = live->sequence;
    s.order = next_order_++;
    s.priority = world_.priorities ? Draw(3) : 0;
    if (Draw(8) == 0) s.cache_salt = "salt";
    // A prefix of one of four texts, then tokens of its own.
    const int text = Draw(4), shared = Draw(60), own = 1 + Draw(20);
    for (int i = 0; i < shared; ++i) s.tokens.push_back((text * 5 + i * i) % kVocab);
    for (int i = 0; i < own; ++i) s.tokens.push_back(Draw(kVocab));
    s.prompt_tokens = static_cast<int>(s.tokens.size());
    live->total_tokens = s.prompt_tokens + 1 + Draw(50);
    live->forks = Draw(5) == 0 ? 1 + Draw(3) : 0;
    if (!scheduler_.CheckFits(s.prompt_tokens, live->total_tokens).ok()) {
      ++refused_;
      return;
    }
    scheduler_.Add(&s);
    live_.emplace(next_id_++, std::move(live));
  }

  void Cancel(int64_t id) {
    ++cancelled_;
    scheduler_.Remove(&live_.at(id)->sequence);
    live_.erase(id);
  }

  void RunStep() {
    clock_.AdvanceUs(1000);
    scheduler_.Plan(&plan_);
    ++steps_;
    ASSERT_FALSE(plan_.sequences.empty()) << "there is work and nothing runs";
    ASSERT_EQ(scheduler_.Verify(&plan_), "");
    StepOutput output;
    const Status run = executor_.Run(plan_.record, &output);
    ASSERT_TRUE(run.ok()) << run.error().message;
    for (const ScheduledSequence& s : plan_.sequences) scheduler_.Advance(s, s.num_tokens);
    scheduler_.EndStep();
    CheckNobodyStarves();
    const float* row = output.logits.data();
    for (const ScheduledSequence& s : plan_.sequences) {
      if (s.num_logits > 0) Say(s.sequence, row);
      row += int64_t{s.num_logits} * kVocab;
      if (::testing::Test::HasFatalFailure()) return;
    }
    ASSERT_EQ(scheduler_.Verify(nullptr), "");
  }

  // The first in the order moves in every step, or nearly: while it waits for blocks that others hold, or takes turns
  // in a budget smaller than what decodes, it is still served soon.
  void CheckNobodyStarves() {
    Live* first = nullptr;
    for (auto& [id, live] : live_) {
      if (first == nullptr || Before(live->sequence, first->sequence)) first = live.get();
    }
    const bool moved = first->sequence.last_step == static_cast<int64_t>(plan_.record.id);
    first->idle_steps = moved ? 0 : first->idle_steps + 1;
    ASSERT_LE(first->idle_steps, 120);
  }

  Live* Find(const Sequence* sequence, int64_t* id) {
    for (auto& [key, live] : live_) {
      if (&live->sequence == sequence) {
        *id = key;
        return live.get();
      }
    }
    return nullptr;
  }

  void Say(Sequence* sequence, const float* row) {
    int64_t id = 0;
    Live* live = Find(sequence, &id);
    ASSERT_NE(live, nullptr);
    while (live->truth.size() < static_cast<int>(sequence->tokens.size())) {
      live->truth.Append(sequence->tokens[live->truth.size()]);
    }
    const int32_t token = static_cast<int32_t>(std::max_element(row, row + kVocab) - row);
    ASSERT_EQ(token, live->truth.Greedy()) << "after " << sequence->tokens.size() << " tokens, "
                                           << sequence->preemptions << " preemptions, " << sequence->cached_tokens
                                           << " cached, choice " << sequence->choice;
    ++tokens_;
    for (; live->forks > 0; --live->forks) Fork(*live, (token + live->forks) % kVocab);
    sequence->tokens.push_back(token);
    if (static_cast<int>(sequence->tokens.size()) >= live->total_tokens || Draw(60) == 0) {
      ++finished_;
      resumed_ += sequence->preemptions > 0;
      scheduler_.Remove(sequence);
      live_.erase(id);
    }
  }

  void Fork(const Live& parent, int32_t first_token) {
    auto child = std::make_unique<Live>(model_);
    Sequence& s = child->sequence;
    s.order = parent.sequence.order;
    s.choice = parent.forks;
    s.priority = parent.sequence.priority;
    s.cache_salt = parent.sequence.cache_salt;
    s.tokens = parent.sequence.tokens;
    s.prompt_tokens = parent.sequence.prompt_tokens;
    child->total_tokens = parent.total_tokens;
    if (static_cast<int>(s.tokens.size()) + 1 >= child->total_tokens) return;
    s.tokens.push_back(first_token);
    scheduler_.Fork(parent.sequence, &s);
    ++forks_;
    live_.emplace(next_id_++, std::move(child));
  }

  World world_;
  std::mt19937_64 random_;
  FakeModel model_;
  FakeExecutor executor_;
  FakeClock clock_;
  KvCache cache_;
  Scheduler scheduler_;
  StepPlan plan_;
  std::map<int64_t, std::unique_ptr<Live>> live_;
  int64_t next_id_ = 0;
  int64_t next_order_ = 0;
  int arrival_percent_ = 30;
};

class SchedProperty : public ::testing::TestWithParam<World> {};

TEST_P(SchedProperty, HoldsAfterEveryStep) {
  const World& world = GetParam();
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    Simulation simulation(world, seed);
    while (simulation.steps_ < kStepsPerWorld / 3) {
      simulation.Step();
      ASSERT_FALSE(HasFatalFailure()) << world.name << " seed " << seed << " step " << simulation.steps_;
    }
    simulation.Drain();
    ASSERT_FALSE(HasFailure()) << world.name << " seed " << seed;
    // Each kind of event must have happened often, or nothing has been shown.
    EXPECT_GT(simulation.finished_, 100);
    EXPECT_GT(simulation.cancelled_, 50);
    EXPECT_GT(simulation.forks_, 50);
    EXPECT_GT(simulation.preemptions(), 10);
    EXPECT_GT(simulation.resumed_, 5);
    EXPECT_GE(simulation.kv().prefix_hits, world.prefix_caching ? 500 : 0);
    std::printf("%-24s seed %d: %lld steps, %lld tokens, %lld finished, %lld cancelled, %lld forks, %lld refused, "
                "%lld preemptions, %lld/%lld prefix tokens hit, %lld snapshots\n",
                world.name, static_cast<int>(seed), static_cast<long long>(simulation.steps_),
                static_cast<long long>(simulation.tokens_), static_cast<long long>(simulation.finished_),
                static_cast<long long>(simulation.cancelled_), static_cast<long long>(simulation.forks_),
                static_cast<long long>(simulation.refused_), static_cast<long long>(simulation.preemptions()),
                static_cast<long long>(simulation.kv().prefix_hits),
                static_cast<long long>(simulation.kv().prefix_queries),
                static_cast<long long>(simulation.kv().snapshots));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Worlds, SchedProperty,
    ::testing::Values(World{.name = "full_layers_only"},
                      World{.name = "rings", .window = 8, .num_rings = 14},
                      World{.name = "rings_with_slack", .window = 8, .slack = 2, .num_rings = 14},
                      World{.name = "rings_without_spares", .window = 8, .num_rings = 8},
                      World{.name = "hash_collisions", .window = 8, .num_rings = 14, .hash_mask = 3},
                      World{.name = "no_prefix_cache", .window = 8, .num_rings = 8, .prefix_caching = false},
                      World{.name = "whole_prompts", .window = 8, .num_rings = 14, .chunked = false},
                      World{.name = "tiny_budget", .window = 8, .num_rings = 20, .max_num_seqs = 12, .budget = 6},
                      World{.name = "priorities", .window = 8, .num_rings = 14, .priorities = true},
                      World{.name = "one_request_fits", .window = 8, .num_blocks = 30, .num_rings = 14}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace minimo
