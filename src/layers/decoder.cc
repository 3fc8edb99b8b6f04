#include "layers/decoder.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "base/thread_team.h"
#include "kv/replica_step.h"
#include "ops/embedding/embedding.h"
#include "ops/linear/linear.h"
#include "ops/rms_norm/rms_norm.h"

namespace minimo {

Decoder::Decoder(const ModelSpec& spec, const DecoderWeights& weights, ThreadTeam& team, RankShare share)
    : spec_(spec), weights_(weights), team_(team), share_(std::move(share)), attention_share_(share_) {
  for (int i = 0; i < spec.num_layers(); ++i) {
    const AttentionSpec& a = spec.layers[i].attention;
    attention_.emplace_back(i, a, spec.norm_eps, weights.layers[i]);
    const auto same = [&](const RopeBase& r) { return r.theta == a.rope_theta && r.rotary_dim == a.rotary_dim; };
    if (std::none_of(rope_.begin(), rope_.end(), same)) rope_.push_back({a.rope_theta, a.rotary_dim, {}});
  }
  expert_load_.assign(spec.layers.size(), std::vector<int64_t>(static_cast<size_t>(spec.moe.experts)));
}

const RopeTable& Decoder::RopeOf(const AttentionSpec& a) const {
  return std::find_if(rope_.begin(), rope_.end(), [&](const RopeBase& r) {
           return r.theta == a.rope_theta && r.rotary_dim == a.rotary_dim;
         })->table;
}

StepContext Decoder::MakeContext(const StepRecord& step, KvStorage& kv) {
  positions_.resize(step.tokens.size());
  logit_rows_.clear();
  for (const SequenceStep& s : step.sequences) {
    for (int32_t i = 0; i < s.num_tokens; ++i) {
      positions_[static_cast<size_t>(s.first_token + i)] = s.past + i;
      if (i >= s.num_tokens - s.num_logits) logit_rows_.push_back(s.first_token + i);
    }
  }
  return {step, kv, team_, attention_share_, static_cast<int64_t>(step.tokens.size()), positions_, logit_rows_};
}

namespace {

// Decode and the check of drafts: every new token gives logits and continues a sequence.
bool IsDecode(const StepRecord& step) {
  return std::all_of(step.sequences.begin(), step.sequences.end(),
                     [](const SequenceStep& s) { return s.past > 0 && s.num_logits == s.num_tokens; });
}

}  // namespace

Status Decoder::JoinReplica() {
  if (joined_) return {};
  joined_ = true;
  if (share_.replicas == 1) return {};
  if (share_.attention_ranks() > 1) {
    MINIMO_ASSIGN(replica_, share_.comm->Split(share_.replica(), share_.comm->rank()));
  }
  attention_share_.comm = replica_.get();
  attention_share_.replicas = 1;
  return {};
}

void Decoder::CountRows(const StepRecord& step, ReplicaRows* tokens, ReplicaRows* logits) const {
  for (ReplicaRows* rows : {tokens, logits}) {
    rows->floats.assign(static_cast<size_t>(share_.comm->size()), 0);
    rows->all = rows->before = rows->mine = 0;
  }
  auto sequence = step.sequences.begin();
  for (int r = 0; r < share_.replicas; ++r) {
    ReplicaCounts counts;
    if (step.replicas.empty() && r == 0) {
      counts.sequences = static_cast<int32_t>(step.sequences.size());
      counts.tokens = static_cast<int32_t>(step.tokens.size());
    } else if (static_cast<size_t>(r) < step.replicas.size()) {
      counts = step.replicas[static_cast<size_t>(r)];
    }
    int64_t rows_of_logits = 0;
    for (int32_t i = 0; i < counts.sequences; ++i) rows_of_logits += (sequence++)->num_logits;
    for (const auto& [rows, count] : {std::pair(tokens, int64_t{counts.tokens}), std::pair(logits, rows_of_logits)}) {
      rows->floats[static_cast<size_t>(r * share_.attention_ranks())] = count * spec_.hidden;
      if (r == share_.replica()) rows->before = rows->all, rows->mine = count;
      rows->all += count;
    }
  }
}

Status Decoder::GatherRows(const float* mine, const ReplicaRows& rows) {
  all_.Reserve(static_cast<size_t>(rows.all * spec_.hidden));
  const int64_t count = rows.floats[static_cast<size_t>(share_.comm->rank())];
  return share_.comm->AllGatherV<float>({mine, static_cast<size_t>(count)}, rows.floats,
                                        {all_.data(), static_cast<size_t>(rows.all * spec_.hidden)});
}

Status Decoder::Embed(const StepRecord& step) {
  const WeightView& table = weights_.embedding.view;
  if (share_.alone()) {
    Embedding(table, step.tokens, x_.data());
    return {};
  }
  const size_t hidden = static_cast<size_t>(spec_.hidden);
  const bool replicas = share_.replicas > 1;
  if (replicas) all_.Reserve(step.tokens.size() * hidden);
  float* x = replicas ? all_.data() : x_.data();
  std::fill_n(x, step.tokens.size() * hidden, 0.0f);
  for (size_t t = 0; t < step.tokens.size(); ++t) {
    const int32_t row = step.tokens[t] - static_cast<int32_t>(share_.vocab.begin);
    if (row >= 0 && row < share_.vocab.count) Embedding(table, {&row, 1}, x + t * hidden);
  }
  MINIMO_TRY(share_.Sum({x, step.tokens.size() * hidden}));
  if (replicas) std::copy_n(x + token_rows_.before * spec_.hidden, token_rows_.mine * spec_.hidden, x_.data());
  return {};
}

Status Decoder::FeedForward(bool decode, int layer, int64_t rows, const ReplicaRows& of_replicas) {
  const LayerWeights& w = weights_.layers[layer];
  const bool replicas = share_.replicas > 1;
  const float* h = h_.data();
  const int64_t mine = rows;
  if (replicas) {
    MINIMO_TRY(GatherRows(h, of_replicas));
    h = all_.data();
    rows = of_replicas.all;
    all_out_.Reserve(static_cast<size_t>(rows * spec_.hidden));
  }
  const std::span<float> partial(replicas ? all_out_.data() : block_out_.data(),
                                 static_cast<size_t>(rows * spec_.hidden));
  float* to = share_.alone() ? x_.data() : partial.data();
  if (!share_.alone()) std::fill(partial.begin(), partial.end(), 0.0f);
  if (spec_.layers[layer].moe) {
    decode = decode && !w.decode_experts.empty();
    MoeFfn(spec_.moe, w, decode ? w.decode_experts : w.experts, team_, h, rows, spec_.hidden, &ffn_scratch_,
           expert_load_[layer].data(), to);
  } else if (w.dense.present()) {
    DenseFfn(w.dense, team_, h, rows, spec_.hidden, &ffn_scratch_, to);
  }
  if (share_.alone()) return {};
  const float* sum = partial.data();
  if (replicas && share_.attention_ranks() == 1) {
    const std::span<float> own(block_out_.data(), static_cast<size_t>(mine * spec_.hidden));
    MINIMO_TRY(share_.comm->ReduceScatterSum(partial, of_replicas.floats, own));
    sum = own.data();
  } else {
    MINIMO_TRY(share_.Sum(partial));
    if (replicas) sum += of_replicas.before * spec_.hidden;
  }
  for (int64_t i = 0; i < mine * spec_.hidden; ++i) x_[static_cast<size_t>(i)] += sum[i];
  return {};
}

void Decoder::Head(int64_t rows, float* logits) {
  const WeightView& head = weights_.lm_head.view;
  if (!share_.alone()) {
    local_logits_.resize(static_cast<size_t>(rows * head.rows));
    logits = local_logits_.data();
  }
  const LinearTask task{head, h_.data(), spec_.hidden, nullptr, logits, head.rows, nullptr, rows};
  LinearCpu({&task, 1}, team_);
}

Status Decoder::GatherLogits(std::span<const int32_t> rows, float* logits) {
  const int64_t part_size = weights_.lm_head.view.rows, count = std::ssize(rows);
  sent_logits_.clear();
  for (const int32_t row : rows) {
    const auto from = local_logits_.begin() + row * part_size;
    sent_logits_.insert(sent_logits_.end(), from, from + part_size);
  }
  // Only rank 0 receives: each rank's [rows, its part of the vocabulary], one after the other.
  const int ranks = share_.comm->size();
  const bool first = share_.comm->rank() == 0;
  std::vector<int64_t> send(ranks, 0), receive(ranks, 0);
  send[0] = std::ssize(sent_logits_);
  for (int r = 0; first && r < ranks; ++r) receive[r] = count * ShareOf(spec_.vocab, ranks, r).count;
  gathered_logits_.resize(first ? static_cast<size_t>(count * spec_.vocab) : 0);
  MINIMO_TRY(share_.comm->AllToAllV<float>(sent_logits_, send, gathered_logits_, receive));
  const float* from = gathered_logits_.data();
  for (int r = 0; first && r < ranks; ++r) {
    const Range part = ShareOf(spec_.vocab, ranks, r);
    for (int64_t row = 0; row < count; ++row, from += part.count) {
      std::copy_n(from, part.count, logits + row * spec_.vocab + part.begin);
    }
  }
  return {};
}

Status Decoder::Forward(const StepRecord& step, KvStorage& kv, float* logits, ForwardCapture* capture) {
  int64_t rows = 0;
  MINIMO_TRY(Layers(step, kv, capture, &rows));
  Head(rows, logits);
  if (!share_.alone()) {
    std::vector<int32_t> all(static_cast<size_t>(rows));
    std::iota(all.begin(), all.end(), 0);
    MINIMO_TRY(GatherLogits(all, logits));
  }
  return {};
}

Status Decoder::ForwardLocal(const StepRecord& step, KvStorage& kv) {
  int64_t rows = 0;
  MINIMO_TRY(Layers(step, kv, nullptr, &rows));
  Head(rows, nullptr);
  return {};
}

Status Decoder::Layers(const StepRecord& whole, KvStorage& kv, ForwardCapture* capture, int64_t* logit_rows) {
  MINIMO_TRY(JoinReplica());
  const bool replicas = share_.replicas > 1;
  if (replicas) {
    TakeReplica(whole, share_.replica(), &own_);
    CountRows(whole, &token_rows_, &logit_row_counts_);
  }
  const StepRecord& step = replicas ? own_ : whole;
  const bool decode = IsDecode(whole);
  kv.CopyBlocks(step.block_copies);
  kv.CopyRings(step.ring_restores);
  const StepContext c = MakeContext(step, kv);
  const int64_t hidden = spec_.hidden;
  const size_t size = static_cast<size_t>(c.tokens * hidden);
  x_.Reserve(size);
  h_.Reserve(size);
  block_out_.Reserve(size);
  for (RopeBase& r : rope_) r.table.Build(r.theta, r.rotary_dim, c.positions);
  if (capture) capture->layers.assign(spec_.layers.size(), {});

  MINIMO_TRY(Embed(whole));
  int64_t rows = c.tokens;  // of x_ still needed: in the last layer only those that give logits
  const auto norm = [&](const Vector& weight, const float* from, float* to) {
    if (rows > 0) RmsNormCpu({from, weight.data(), to, rows, hidden, hidden, hidden, spec_.norm_eps}, team_);
  };
  for (int i = 0; i < spec_.num_layers(); ++i) {
    const LayerSpec& layer = spec_.layers[i];
    const LayerWeights& w = weights_.layers[i];
    const bool last = i + 1 == spec_.num_layers();
    norm(w.input_norm, x_.data(), h_.data());
    if (c.tokens > 0) {  // else this replica only helps the others with its experts
      MINIMO_TRY(attention_[i].Forward(c, RopeOf(layer.attention), h_.data(), hidden, last, &attention_scratch_,
                                       block_out_.data()));
    }
    if (last) {
      rows = static_cast<int64_t>(c.logit_rows.size());
      for (int64_t r = 0; r < rows; ++r) {  // rows move up, in order
        std::memmove(x_.data() + r * hidden, x_.data() + c.logit_rows[r] * hidden, hidden * sizeof(float));
      }
    }
    if (rows > 0) {
      AddRmsNormCpu({{x_.data(), w.post_attention_norm.data(), h_.data(), rows, hidden, hidden, hidden, spec_.norm_eps},
                     block_out_.data(), x_.data()}, team_);
    }
    MINIMO_TRY(FeedForward(decode, i, rows, last ? logit_row_counts_ : token_rows_));
    if (capture) Capture(c, i, rows, capture);
  }
  norm(weights_.final_norm, x_.data(), h_.data());
  kv.CopyRings(step.ring_snapshots);
  *logit_rows = rows;
  if (!replicas) return {};
  MINIMO_TRY(GatherRows(h_.data(), logit_row_counts_));
  *logit_rows = logit_row_counts_.all;
  h_.Reserve(static_cast<size_t>(*logit_rows * hidden));
  std::copy_n(all_.data(), *logit_rows * hidden, h_.data());
  return {};
}

void Decoder::Capture(const StepContext& c, int layer, int64_t rows, ForwardCapture* capture) const {
  ForwardCapture::Layer& to = capture->layers[layer];
  const auto keep = [&](int64_t row) {
    to.hidden.insert(to.hidden.end(), x_.data() + row * spec_.hidden, x_.data() + (row + 1) * spec_.hidden);
    if (!spec_.layers[layer].moe) return;
    const int64_t k = spec_.moe.top_k;
    const auto experts = ffn_scratch_.experts.begin() + row * k;
    const auto weights = ffn_scratch_.weights.begin() + row * k;
    to.router_index.insert(to.router_index.end(), experts, experts + k);
    to.router_weight.insert(to.router_weight.end(), weights, weights + k);
  };
  if (rows == static_cast<int64_t>(c.logit_rows.size())) {
    for (int64_t r = 0; r < rows; ++r) keep(r);
  } else {
    for (const int32_t r : c.logit_rows) keep(r);
  }
}

}  // namespace minimo
