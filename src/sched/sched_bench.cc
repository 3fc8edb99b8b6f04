// The scheduler's and the cache's own time a step, without a model: every sequence decodes at a context of 1,000
// tokens, blocks of 16, rings and prefix cache on. Prints microseconds a step: median, 90th percentile and worst of
// 2,000 steps. Target: under 50 us at 64 sequences, growing linearly at most.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <memory>

#include "sched/scheduler.h"

namespace minimo {
namespace {

constexpr int kContext = 1000;
constexpr int kSteps = 2000;

void Run(int sequences, bool rings) {
  KvLayout layout;
  layout.groups.push_back({0, 1, 1, 8, 8});
  if (rings) layout.groups.push_back({128, 1, 1, 8, 8});
  layout.ring_tokens = rings ? 128 : 0;
  layout.num_rings = rings ? sequences + sequences / 2 + 1 : 0;
  layout.num_blocks = sequences * ((kContext + kSteps) / layout.block_size + 2);
  KvCache cache(layout, {});
  const SteadyClock clock;
  SchedulerOptions options;
  options.max_num_seqs = sequences;
  options.max_num_batched_tokens = std::max(8192, sequences * 2);
  Scheduler scheduler(options, &cache, &clock);
  std::vector<std::unique_ptr<Sequence>> all;
  for (int i = 0; i < sequences; ++i) {
    auto sequence = std::make_unique<Sequence>();
    sequence->order = i;
    for (int t = 0; t < kContext; ++t) sequence->tokens.push_back(i * 7 + t);
    sequence->prompt_tokens = kContext;
    scheduler.Add(sequence.get());
    all.push_back(std::move(sequence));
  }
  StepPlan plan;
  std::vector<double> times;
  while (static_cast<int>(times.size()) < kSteps - 100) {
    const auto start = std::chrono::steady_clock::now();
    scheduler.Plan(&plan);
    for (const ScheduledSequence& s : plan.sequences) scheduler.Advance(s, s.num_tokens);
    scheduler.EndStep();
    const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - start;
    for (const ScheduledSequence& s : plan.sequences) {
      if (s.num_logits > 0) s.sequence->tokens.push_back(plan.record.tokens[0]);
    }
    if (plan.decode_tokens == sequences) times.push_back(took.count());
  }
  std::sort(times.begin(), times.end());
  const double median = times[times.size() / 2];
  fmt::print("{:5} sequences{}: {:8.1f} us median {:8.1f} us p90 {:8.1f} us worst {:6.2f} us a sequence\n", sequences,
             rings ? ", rings" : "       ", median, times[times.size() * 9 / 10], times.back(), median / sequences);
}

}  // namespace
}  // namespace minimo

int main() {
  for (const bool rings : {false, true}) {
    for (const int sequences : {1, 8, 64, 256, 1024}) minimo::Run(sequences, rings);
  }
  return 0;
}
