#include "layers/ffn.h"

#include <algorithm>

#include "base/thread_team.h"
#include "ops/linear/linear.h"
#include "ops/router/router.h"
#include "ops/silu_mul/silu_mul.h"

namespace minimo {

void DenseFfn(const FfnWeights& w, ThreadTeam& team, const float* h, int64_t rows, int64_t hidden, FfnScratch* s,
              float* x) {
  const int64_t intermediate = w.gate.view.rows;
  s->gate.Reserve(static_cast<size_t>(rows * intermediate));
  s->up.Reserve(static_cast<size_t>(rows * intermediate));
  s->slots.Reserve(static_cast<size_t>(rows * hidden));
  const LinearTask in[] = {{w.gate.view, h, hidden, nullptr, s->gate.data(), intermediate, nullptr, rows},
                           {w.up.view, h, hidden, nullptr, s->up.data(), intermediate, nullptr, rows}};
  LinearCpu(in, team);
  SiluMulCpu({s->gate.data(), s->up.data(), s->gate.data(), rows * intermediate}, team);
  const LinearTask out{w.down.view, s->gate.data(), intermediate, nullptr, s->slots.data(), hidden, nullptr, rows};
  LinearCpu({&out, 1}, team);
  team.ParallelFor(rows * hidden, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) x[i] += s->slots[static_cast<size_t>(i)];
  });
}

namespace {

constexpr int64_t kOutputGrain = 1024;  // columns: fewer cost more in the hand-out than they save

// Sorts the (token, k) pairs of the experts that are present by expert, tokens in order within one.
void SortByExpert(const MoeSpec& spec, const std::vector<FfnWeights>& experts, int64_t rows, int64_t* load,
                  FfnScratch* s) {
  const int64_t slots = rows * spec.top_k;
  s->first_slot.assign(static_cast<size_t>(spec.experts) + 1, 0);
  for (int64_t i = 0; i < slots; ++i) {
    const int32_t e = s->experts[i];
    ++load[e];
    if (experts[e].present()) ++s->first_slot[e + 1];
  }
  for (int e = 0; e < spec.experts; ++e) s->first_slot[e + 1] += s->first_slot[e];
  s->next_slot.assign(s->first_slot.begin(), s->first_slot.end() - 1);
  s->slot_token.resize(static_cast<size_t>(s->first_slot[spec.experts]));
  s->slot_place.resize(s->slot_token.size());
  for (int64_t i = 0; i < slots; ++i) {
    if (!experts[s->experts[i]].present()) continue;
    const int32_t slot = s->next_slot[s->experts[i]]++;
    s->slot_token[slot] = static_cast<int32_t>(i / spec.top_k);
    s->slot_place[slot] = static_cast<int32_t>(i);
  }
}

// Columns [begin, end) of x [hidden] += the weighted outputs of a token's experts, which are summed up in order of k.
void AddExperts(const MoeSpec& spec, const std::vector<FfnWeights>& experts, const FfnScratch& s, int64_t token,
                int64_t hidden, int64_t begin, int64_t end, float* x) {
  constexpr int64_t kColumns = 1024;  // whose sums stay in the first-level cache
  float sum[kColumns];
  for (int64_t column = begin; column < end; column += kColumns) {
    const int64_t count = std::min(kColumns, end - column);
    std::fill_n(sum, count, 0.0f);
    for (int64_t slot = token * spec.top_k; slot < (token + 1) * spec.top_k; ++slot) {
      if (!experts[s.experts[slot]].present()) continue;
      const float weight = s.weights[slot];
      const float* out = s.slots.data() + slot * hidden + column;
      for (int64_t i = 0; i < count; ++i) sum[i] += weight * out[i];
    }
    for (int64_t i = 0; i < count; ++i) x[column + i] += sum[i];
  }
}

}  // namespace

void MoeFfn(const MoeSpec& spec, const LayerWeights& w, const std::vector<FfnWeights>& experts, ThreadTeam& team,
            const float* h, int64_t rows, int64_t hidden, FfnScratch* s, int64_t* load, float* x) {
  const int64_t slots = rows * spec.top_k;
  s->router_logits.Reserve(static_cast<size_t>(rows * spec.experts));
  const LinearTask router{w.router.view, h, hidden, nullptr, s->router_logits.data(), spec.experts, nullptr, rows};
  LinearCpu({&router, 1}, team);
  s->experts.resize(static_cast<size_t>(slots));
  s->weights.resize(static_cast<size_t>(slots));
  RouterCpu({s->router_logits.data(), w.router_bias.data(), rows, spec, s->experts.data(), s->weights.data()}, team);
  SortByExpert(spec, experts, rows, load, s);
  const int64_t local_slots = s->first_slot[spec.experts];
  if (local_slots == 0) return;

  const int64_t intermediate = experts[s->experts[s->slot_place[0]]].gate.view.rows;  // the same for all present
  s->gate.Reserve(static_cast<size_t>(local_slots * intermediate));
  s->up.Reserve(static_cast<size_t>(local_slots * intermediate));
  s->slots.Reserve(static_cast<size_t>(slots * hidden));
  s->in.clear();
  s->out.clear();
  for (int e = 0; e < spec.experts; ++e) {
    const int32_t first = s->first_slot[e], count = s->first_slot[e + 1] - first;
    if (count == 0) continue;
    const FfnWeights& expert = experts[e];
    const int32_t* tokens = s->slot_token.data() + first;
    float* gate = s->gate.data() + first * intermediate;
    float* up = s->up.data() + first * intermediate;
    s->in.push_back({expert.gate.view, h, hidden, tokens, gate, intermediate, nullptr, count});
    s->in.push_back({expert.up.view, h, hidden, tokens, up, intermediate, nullptr, count});
    s->out.push_back({expert.down.view, gate, intermediate, nullptr, s->slots.data(), hidden,
                      s->slot_place.data() + first, count});
  }
  LinearCpu(s->in, team);
  SiluMulCpu({s->gate.data(), s->up.data(), s->gate.data(), local_slots * intermediate}, team);
  LinearCpu(s->out, team);
  if (rows == 1) {  // its outputs lie in the members' caches
    return team.ParallelFor(hidden, kOutputGrain, [&](int64_t begin, int64_t end) {
      AddExperts(spec, experts, *s, 0, hidden, begin, end, x);
    });
  }
  team.ParallelFor(rows, std::max<int64_t>(1, 4096 / hidden), [&](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token) {
      AddExperts(spec, experts, *s, token, hidden, 0, hidden, x + token * hidden);
    }
  });
}

}  // namespace minimo
