#include "sampling/sampler.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <random>
#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "sampling/draw.h"
#include "sampling/philox.h"
#include "sampling/row_kernels.h"

namespace minimo {
namespace {

constexpr float kLowest = -std::numeric_limits<float>::infinity();
// Candidates of a rank at most: 4 KB where a row of 200,000 logits takes 800; a nucleus of 0.95 is mostly smaller.
constexpr int32_t kMostCandidates = 256;
constexpr double kGreedyBelow = 1e-5;  // vLLM's _SAMPLING_EPS: a lower temperature means greedy

Error FaultyRow() {
  return Error{"the model produced NaN or infinite logits: its weights or its input are broken, or a kernel is"};
}

uint64_t RandomSeed() {
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

}  // namespace

SequenceSampler::SequenceSampler(const SamplingParams& params, std::span<const int32_t> eos_ids,
                                 std::span<const int32_t> prompt_ids, int32_t choice)
    : seed_(params.seed.has_value() ? *params.seed : RandomSeed()), choice_(static_cast<uint32_t>(choice)) {
  auto shared = std::make_shared<Shared>(Shared{params, {eos_ids.begin(), eos_ids.end()}});
  shared->end_ids.insert(shared->end_ids.end(), params.stop_token_ids.begin(), params.stop_token_ids.end());
  shared_ = std::move(shared);
  if (params.matcher != nullptr) matcher_ = params.matcher->Clone();
  has_penalties_ =
      params.repetition_penalty != 1 || params.presence_penalty != 0 || params.frequency_penalty != 0;
  if (params.repetition_penalty != 1) {
    for (const int32_t token : prompt_ids) {
      if (use_index_.try_emplace(token, uses_.size()).second) uses_.push_back({token, 0});
    }
  }
}

SequenceSampler SequenceSampler::Fork(int32_t choice) const {
  SequenceSampler fork;
  fork.shared_ = shared_;
  if (matcher_ != nullptr) fork.matcher_ = matcher_->Clone();
  fork.seed_ = seed_;
  fork.choice_ = static_cast<uint32_t>(choice);
  fork.output_length_ = output_length_;
  fork.has_penalties_ = has_penalties_;
  fork.uses_ = uses_;
  fork.use_index_ = use_index_;
  return fork;
}

bool SequenceSampler::ChangesLogits() const {
  const SamplingParams& params = shared_->params;
  return matcher_ != nullptr || !params.allowed_token_ids.empty() || !params.logit_bias.empty() ||
         output_length_ < params.min_tokens || (has_penalties_ && !uses_.empty());
}

bool SequenceSampler::TakesTheBest() const {
  return shared_->params.temperature < kGreedyBelow && shared_->params.logprobs < 0 && !ChangesLogits();
}

CandidateNeed SequenceSampler::Need() const {
  const SamplingParams& p = shared_->params;
  if (ChangesLogits() || p.logprobs > kMostCandidates || p.top_k > kMostCandidates) return {};
  CandidateNeed need{std::max(1, p.logprobs + 1), 1};
  if (p.temperature < kGreedyBelow) return need;
  if (p.top_k <= 0 && p.top_p >= 1 && p.min_p <= 0) return {};  // any token can be drawn
  // One more than the k best shows that the last of them has no equal elsewhere.
  need.count = std::max(need.count, p.top_k > 0 ? p.top_k + 1 : kMostCandidates);
  need.temperature = static_cast<float>(p.temperature);
  return need;
}

Status SequenceSampler::Append(int32_t token) {
  ++output_length_;
  if (has_penalties_) {
    const auto [it, is_new] = use_index_.try_emplace(token, uses_.size());
    if (is_new) uses_.push_back({token, 0});
    ++uses_[it->second].output_count;
  }
  if (matcher_ != nullptr && !matcher_->Accept(token)) {
    return Errorf("token {} does not fit the grammar that the output must follow", token);
  }
  return {};
}

// Chooses for one row; a thread keeps one for its room.
class RowSampler {
 public:
  void Sample(SampleRow* row) {
    row->needs_logits = false;
    if (row->candidates == nullptr) {
      row->status = Choose(row->logits, row->sequence, &row->token);
    } else {
      row->status = ChooseListed(*row->candidates, *row->sequence, row);
    }
  }

  Result<OutputToken> Logprobs(std::span<const float> logits, int32_t token, int32_t top_n) {
    const RowScan scan = Scan(logits, &scratch_);
    if (scan.bad || scan.max == kLowest) return FaultyRow();
    OutputToken output;
    output.token = token;
    FillTop(logits, scan, top_n, &output);
    FillChosen(logits, &output);
    return output;
  }

 private:
  Status Choose(std::span<float> logits, SequenceSampler* sequence, OutputToken* output) {
    *output = {};
    const SamplingParams& params = sequence->params();
    RowScan scan = Scan(logits, &scratch_);
    if (scan.bad || scan.max == kLowest) return FaultyRow();
    const bool wants_logprobs = params.logprobs >= 0;
    std::span<const float> raw = logits;
    if (wants_logprobs) FillTop(raw, scan, params.logprobs, output);
    if (sequence->ChangesLogits()) {
      if (wants_logprobs) {
        raw_.assign(logits.begin(), logits.end());
        raw = raw_;
      }
      Mask(logits, sequence);
      Shift(logits, *sequence);
      scan = Scan(logits, &scratch_);
      if (scan.bad) return FaultyRow();
      if (scan.max == kLowest) return Error{"no token is allowed to follow: the grammar, allowed_token_ids and "
                                            "logit_bias together exclude every one"};
    }
    if (params.temperature < kGreedyBelow) {
      output->token = scan.argmax;
    } else {
      const double uniform =
          UniformAt(sequence->seed_, sequence->choice_, static_cast<uint64_t>(sequence->output_length_));
      output->token = Draw(logits, scan, {params.temperature, params.top_k, params.top_p, params.min_p}, uniform,
                           &scratch_);
    }
    if (wants_logprobs) FillChosen(raw, output);
    return {};
  }

  // As Choose, for a sequence that does not change logits.
  Status ChooseListed(const RowCandidates& row, const SequenceSampler& sequence, SampleRow* out) {
    OutputToken* output = &out->token;
    *output = {};
    const SamplingParams& params = sequence.params();
    if (row.bad || row.best.empty()) return FaultyRow();
    const size_t top = static_cast<size_t>(std::max(params.logprobs, 0));
    const bool all = row.floor == kLowest;
    // Of equals at the floor some may be missing, with lower ids than those that are here.
    const auto lacks = [&](size_t n) { return n > 0 && (row.best.size() < n || row.best[n - 1].logit <= row.floor); };
    const bool draws = params.temperature >= kGreedyBelow;
    if (!all && (lacks(top) || (draws && lacks(static_cast<size_t>(std::max(params.top_k, 0)))))) {
      out->needs_logits = true;
      return {};
    }
    float value = row.best[0].logit;
    output->token = row.best[0].token;
    if (draws) {
      listed_.assign(row.best.begin(), row.best.end());
      std::sort(listed_.begin(), listed_.end(), [](const auto& a, const auto& b) { return a.token < b.token; });
      values_.clear();
      double inside = 0;
      for (const TokenLogit& t : listed_) {
        values_.push_back(t.logit);
        inside += std::exp((double{t.logit} - row.best[0].logit) / params.temperature);
      }
      const double uniform =
          UniformAt(sequence.seed_, sequence.choice_, static_cast<uint64_t>(sequence.output_length_));
      DrawParams draw{params.temperature, params.top_k, params.top_p, params.min_p};
      draw.outside = std::max(0.0, row.tempered_sum - inside);
      const int32_t drawn = DrawListed(values_, Scan(values_, &scratch_), draw, row.floor, uniform, &scratch_);
      if (drawn < 0) {
        out->needs_logits = true;
        return {};
      }
      output->token = listed_[drawn].token;
      value = listed_[drawn].logit;
    }
    if (params.logprobs < 0) return {};
    log_normaliser_ = row.best[0].logit + std::log(row.sum);
    for (size_t i = 0; i < std::min(top, row.best.size()); ++i) {
      output->top.push_back({row.best[i].token, static_cast<float>(row.best[i].logit - log_normaliser_),
                             static_cast<int32_t>(i + 1)});
    }
    output->logprob = static_cast<float>(value - log_normaliser_);
    const auto greater =
        std::count_if(row.best.begin(), row.best.end(), [&](const auto& t) { return t.logit > value; });
    output->rank = static_cast<int32_t>(greater + 1);
    return {};
  }

  // Allowed ids, the matcher's mask, min_tokens. A matcher overrules min_tokens: a finished text must end.
  void Mask(std::span<float> logits, SequenceSampler* s) {
    const SamplingParams& params = s->params();
    const size_t words = (logits.size() + 31) / 32;
    if (s->matcher_ != nullptr) {
      mask_.assign(words, 0);
      s->matcher_->FillMask(mask_.data(), words);
      MaskRow(logits.data(), logits.size(), mask_.data());
    }
    if (!params.allowed_token_ids.empty()) {
      mask_.assign(words, 0);
      for (const int32_t id : params.allowed_token_ids) {
        if (InRange(id, logits)) mask_[static_cast<size_t>(id) / 32] |= uint32_t{1} << (id % 32);
      }
      MaskRow(logits.data(), logits.size(), mask_.data());
    }
    if (s->matcher_ == nullptr && s->output_length_ < params.min_tokens) {
      for (const int32_t id : s->shared_->end_ids) {
        if (InRange(id, logits)) logits[static_cast<size_t>(id)] = kLowest;
      }
    }
  }

  // logit_bias, then the penalties.
  static void Shift(std::span<float> logits, const SequenceSampler& s) {
    const SamplingParams& params = s.params();
    for (const auto& [id, bias] : params.logit_bias) {
      if (InRange(id, logits)) logits[static_cast<size_t>(id)] += std::clamp(bias, -100.0f, 100.0f);  // as vLLM
    }
    if (!s.has_penalties_) return;
    const float repetition = static_cast<float>(params.repetition_penalty);
    const float frequency = static_cast<float>(params.frequency_penalty);
    const float presence = static_cast<float>(params.presence_penalty);
    for (const SequenceSampler::TokenUse& use : s.uses_) {
      if (!InRange(use.token, logits)) continue;
      float& x = logits[static_cast<size_t>(use.token)];
      x = x > 0 ? x / repetition : x * repetition;
      if (use.output_count == 0) continue;
      x -= frequency * static_cast<float>(use.output_count);
      x -= presence;
    }
  }

  static bool InRange(int32_t id, std::span<const float> logits) {
    return id >= 0 && static_cast<size_t>(id) < logits.size();
  }

  // The row's normaliser and its best tokens.
  void FillTop(std::span<const float> logits, const RowScan& scan, int32_t top_n, OutputToken* output) {
    log_normaliser_ = scan.max + std::log(SumExp(logits.data(), logits.size(), scan.max, 1.0f, nullptr));
    if (top_n <= 0) return;
    const size_t count = TopK(logits, static_cast<size_t>(top_n), &scratch_);
    output->top.reserve(count);
    for (size_t i = 0; i < count; ++i) {
      output->top.push_back({scratch_.indices[i], static_cast<float>(scratch_.values[i] - log_normaliser_),
                             static_cast<int32_t>(i + 1)});
    }
  }

  void FillChosen(std::span<const float> raw, OutputToken* output) {
    const float value = raw[static_cast<size_t>(output->token)];
    output->logprob = static_cast<float>(value - log_normaliser_);
    output->rank = static_cast<int32_t>(CountGreater(raw.data(), raw.size(), value) + 1);
  }

  DrawScratch scratch_;
  std::vector<TokenLogit> listed_;  // candidates by token
  std::vector<float> values_;       // their logits
  std::vector<uint32_t> mask_;
  std::vector<float> raw_;
  double log_normaliser_ = 0;
};

namespace {

RowSampler& ThreadsRowSampler() {
  static thread_local RowSampler sampler;
  return sampler;
}

}  // namespace

void SampleBatch(std::span<SampleRow> rows, ThreadTeam* team) {
  const auto sample = [&](int64_t i) { ThreadsRowSampler().Sample(&rows[static_cast<size_t>(i)]); };
  const int64_t count = static_cast<int64_t>(rows.size());
  if (team != nullptr) {
    team->ParallelForDynamic(count, sample);
  } else {
    for (int64_t i = 0; i < count; ++i) sample(i);
  }
}

Result<OutputToken> RawLogprobs(std::span<const float> logits, int32_t token, int32_t top_n) {
  if (token < 0 || static_cast<size_t>(token) >= logits.size()) {
    return Errorf("token {} is outside the vocabulary of {}", token, logits.size());
  }
  return ThreadsRowSampler().Logprobs(logits, token, top_n);
}

}  // namespace minimo
