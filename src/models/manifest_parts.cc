#include "models/manifest_parts.h"

namespace minimo {

void AddEnds(const ModelSpec& spec, Manifest* manifest) {
  using enum TensorPart;
  const int64_t vocab = spec.vocab, hidden = spec.hidden;
  manifest->push_back({"model.embed_tokens.weight", {vocab, hidden}, kEmbedding, ShardRule::kRows});
  manifest->push_back({"model.norm.weight", {hidden}, kFinalNorm});
  if (!spec.tied_embeddings) {
    manifest->push_back({"lm_head.weight", {vocab, hidden}, kLmHead, ShardRule::kRows, -1, -1, true});
  }
}

void AddAttention(const std::string& prefix, const std::string& post_norm, int layer, int hidden,
                  const AttentionSpec& a, bool o_released_fp8, Manifest* manifest) {
  using enum TensorPart;
  const std::string p = prefix + "self_attn.";
  const int64_t h = hidden;
  manifest->push_back({prefix + "input_layernorm.weight", {h}, kInputNorm, ShardRule::kReplicate, layer});
  manifest->push_back({prefix + post_norm + ".weight", {h}, kPostAttentionNorm, ShardRule::kReplicate, layer});
  manifest->push_back({p + "q_proj.weight", {a.q_size(), h}, kQ, ShardRule::kHeads, layer, -1, true, true});
  manifest->push_back({p + "k_proj.weight", {a.k_size(), h}, kK, ShardRule::kKvHeads, layer, -1, true, true});
  manifest->push_back({p + "v_proj.weight", {a.v_size(), h}, kV, ShardRule::kKvHeads, layer, -1, true, true});
  manifest->push_back(
      {p + "o_proj.weight", {h, a.o_size()}, kO, ShardRule::kHeadCols, layer, -1, true, o_released_fp8});
}

void AddFfn(const std::string& prefix, const FfnNames& names, int layer, int expert, int hidden, int intermediate,
            Manifest* manifest) {
  using enum TensorPart;
  const int64_t h = hidden, i = intermediate;
  const bool dense = expert < 0;
  const auto name = [&](const char* part) { return prefix + part + ".weight"; };
  manifest->push_back(
      {name(names.gate), {i, h}, dense ? kGate : kExpertGate, ShardRule::kRows, layer, expert, true, true});
  manifest->push_back({name(names.up), {i, h}, dense ? kUp : kExpertUp, ShardRule::kRows, layer, expert, true, true});
  manifest->push_back(
      {name(names.down), {h, i}, dense ? kDown : kExpertDown, ShardRule::kCols, layer, expert, true, true});
}

}  // namespace minimo
