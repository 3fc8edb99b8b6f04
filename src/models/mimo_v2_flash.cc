// MiMo-V2-Flash. What is unusual (docs/models/mimo-v2-flash.md has the sources):
// - Layers are full or sliding-window attention by hybrid_layer_pattern; each kind has its own KV heads, RoPE base and
//   sinks; keys are wider (192) than values (128). The window counts the token itself.
// - Values are multiplied by attention_value_scale right after the projection, before the cache.
// - Layer 0 is dense; the others are MoE with sigmoid scores and a float32 correction bias.
// - The K/V scales of the full layers may follow the fused [Q;K;V] grid of 4 shards (models/kv_scale_grid.h).
// - Up to 3 MTP layers lie in the files although the config does not list them.
#include "models/mimo_v2_flash.h"

#include <fmt/format.h>

#include "models/manifest_parts.h"

namespace minimo {
namespace {

constexpr int kMax = 1 << 24;  // beyond any sane size of a dimension

// One attention kind; `prefix` is "" for full attention and "swa_" for the sliding window.
AttentionSpec ParseAttention(ConfigFields& f, const std::string& prefix, int window) {
  AttentionSpec a;
  const bool sliding = window > 0;
  a.heads = static_cast<int>(f.Int(prefix + "num_attention_heads", 1, 4096));
  a.kv_heads = static_cast<int>(f.Int(prefix + "num_key_value_heads", 1, 4096));
  a.head_dim = static_cast<int>(f.Int(prefix + "head_dim", 1, 4096));
  a.v_head_dim = static_cast<int>(f.Int(prefix + "v_head_dim", 1, 4096));
  a.window = window;
  a.rope_theta = f.Number(prefix + "rope_theta", 1, 1e12);
  // int(192 * 0.334) = 64; the reference truncates too.
  a.rotary_dim = static_cast<int>(a.head_dim * f.Number("partial_rotary_factor", 0, 1));
  a.sink = sliding ? f.BoolOr("add_swa_attention_sink_bias", false) : f.BoolOr("add_full_attention_sink_bias", false);
  a.value_scale = static_cast<float>(f.NumberOr("attention_value_scale", 1.0, -1e3, 1e3));
  if (a.heads % a.kv_heads != 0) {
    f.Fault(fmt::format("{0}num_attention_heads {1} is not a multiple of {0}num_key_value_heads {2}", prefix, a.heads,
                        a.kv_heads));
  }
  if (a.rotary_dim % 2 != 0) {
    f.Fault(fmt::format("{}head_dim * partial_rotary_factor gives {} rotary dimensions, expected an even number",
                        prefix, a.rotary_dim));
  }
  return a;
}

void ParseMoe(ConfigFields& f, MoeSpec* moe) {
  moe->experts = static_cast<int>(f.Int("n_routed_experts", 1, 65536));
  moe->top_k = static_cast<int>(f.Int("num_experts_per_tok", 1, 256));
  moe->intermediate = static_cast<int>(f.Int("moe_intermediate_size", 1, kMax));
  moe->groups = static_cast<int>(f.IntOr("n_group", 1, 1, 65536));
  moe->top_groups = static_cast<int>(f.IntOr("topk_group", 1, 1, 65536));
  moe->renormalise = f.BoolOr("norm_topk_prob", true);
  moe->renormalise_epsilon = 1e-20;
  moe->scale = f.NumberOr("routed_scaling_factor", 1.0, -1e6, 1e6);
  if (moe->experts % moe->groups != 0 || moe->top_groups > moe->groups) {
    f.Fault(fmt::format("n_group {} and topk_group {} do not fit n_routed_experts {}", moe->groups, moe->top_groups,
                        moe->experts));
  } else if (moe->top_k > moe->experts / moe->groups * moe->top_groups) {
    f.Fault(fmt::format("num_experts_per_tok {} is more than the {} experts in topk_group groups", moe->top_k,
                        moe->experts / moe->groups * moe->top_groups));
  }
}

ModelSpec ParseConfig(ConfigFields& f) {
  ModelSpec spec;
  const auto layers = static_cast<size_t>(f.Int("num_hidden_layers", 1, 1024));
  spec.hidden = static_cast<int>(f.Int("hidden_size", 1, kMax));
  spec.vocab = static_cast<int>(f.Int("vocab_size", 1, kMax));
  spec.norm_eps = f.Number("layernorm_epsilon", 0, 1);
  spec.max_positions = static_cast<int>(f.Int("max_position_embeddings", 1, kMax));
  spec.tied_embeddings = f.BoolOr("tie_word_embeddings", false);
  spec.bos_token_id = static_cast<int32_t>(f.IntOr("bos_token_id", -1, 0, kMax));
  for (const int64_t id : f.IntOrListOr("eos_token_id", {})) spec.eos_token_ids.push_back(static_cast<int32_t>(id));
  spec.mtp_layers = static_cast<int>(f.IntOr("num_nextn_predict_layers", 0, 0, 16));

  const std::vector<int64_t> sliding = f.IntList("hybrid_layer_pattern", layers, 0, 1);
  const std::vector<int64_t> moe = f.IntList("moe_layer_freq", layers, 0, 1);
  const int dense_intermediate = static_cast<int>(f.Int("intermediate_size", 1, kMax));
  const int window = static_cast<int>(f.Int("sliding_window", 1, kMax));
  if (f.IntOr("sliding_window_size", window, 1, kMax) != window) {
    f.Fault("sliding_window and sliding_window_size differ, expected one window");
  }
  const AttentionSpec full = ParseAttention(f, "", 0);
  const AttentionSpec swa = ParseAttention(f, "swa_", window);
  ParseMoe(f, &spec.moe);
  for (size_t i = 0; i < layers; ++i) {
    spec.layers.push_back({sliding[i] ? swa : full, moe[i] == 1, dense_intermediate});
  }
  f.Only("hidden_act", "\"silu\"");
  f.Only("scoring_func", "\"sigmoid\"");
  f.Only("topk_method", "\"noaux_tc\"");
  f.Only("attention_bias", "false");
  if (auto scaling = f.Object("rope_scaling")) {  // released as null; "default" means the same
    scaling->Only("rope_type", "\"default\"");
    scaling->Only("type", "\"default\"");
    f.Merge(*scaling);
  }
  if (f.IntOr("n_shared_experts", 0, 0, kMax) != 0) {
    f.Fault("n_shared_experts is not 0, shared experts are not implemented");
  }
  f.Ignore({"attention_dropout", "attention_chunk_size", "auto_map", "dtype", "torch_dtype", "hybrid_block_size",
            "initializer_range", "pad_token_id", "quantization_config", "transformers_version", "use_cache",
            "moe_router_dtype", "id2label", "label2id", "return_dict", "output_attentions", "output_hidden_states",
            "is_encoder_decoder", "chunk_size_feed_forward", "problem_type", "layer_types", "mlp_layer_types",
            "rope_parameters", "rms_norm_eps"});  // the last four: transformers' names for the same
  return spec;
}

// Depth i of the MTP stack: SWA attention and a dense feed-forward, fed by [enorm(embedding); hnorm(hidden)].
void AddMtpLayer(const ModelSpec& spec, int depth, Manifest* manifest) {
  const size_t first = manifest->size();
  const std::string p = fmt::format("model.mtp.layers.{}.", depth);
  const int64_t hidden = spec.hidden;
  AttentionSpec a;
  int intermediate = 0;
  for (const LayerSpec& layer : spec.layers) {  // the geometry is that of the sliding layers and of the dense layer
    if (layer.attention.window > 0) a = layer.attention;
    intermediate = layer.intermediate;
  }
  for (const char* norm : {"enorm", "hnorm", "final_layernorm"}) {
    manifest->push_back({p + norm + ".weight", {hidden}, TensorPart::kMtpNorm});
  }
  manifest->push_back({p + "eh_proj.weight", {hidden, 2 * hidden}, TensorPart::kMtpProjection});
  AddAttention(p, "pre_mlp_layernorm", depth, spec.hidden, a, false, manifest);
  if (a.sink) {
    manifest->push_back({p + "self_attn.attention_sink_bias", {a.heads}, TensorPart::kSinks, ShardRule::kHeads});
  }
  AddFfn(p + "mlp.", {"gate_proj", "up_proj", "down_proj"}, depth, -1, spec.hidden, intermediate, manifest);
  for (size_t i = first; i < manifest->size(); ++i) {
    (*manifest)[i].mtp = true;
    (*manifest)[i].layer = depth;
  }
}

Manifest MakeManifest(const ModelSpec& spec) {
  Manifest manifest;
  AddEnds(spec, &manifest);
  const int64_t hidden = spec.hidden, experts = spec.moe.experts;
  constexpr FfnNames kNames = {"gate_proj", "up_proj", "down_proj"};
  for (int layer = 0; layer < spec.num_layers(); ++layer) {
    const LayerSpec& l = spec.layers[layer];
    const std::string p = fmt::format("model.layers.{}.", layer);
    AddAttention(p, "post_attention_layernorm", layer, spec.hidden, l.attention, false, &manifest);
    if (l.attention.sink) {
      manifest.push_back(
          {p + "self_attn.attention_sink_bias", {l.attention.heads}, TensorPart::kSinks, ShardRule::kHeads, layer});
    }
    if (!l.moe) {
      AddFfn(p + "mlp.", kNames, layer, -1, spec.hidden, l.intermediate, &manifest);
      continue;
    }
    manifest.push_back({p + "mlp.gate.weight", {experts, hidden}, TensorPart::kRouter, ShardRule::kReplicate, layer});
    manifest.push_back(
        {p + "mlp.gate.e_score_correction_bias", {experts}, TensorPart::kRouterBias, ShardRule::kReplicate, layer});
    for (int e = 0; e < spec.moe.experts; ++e) {
      AddFfn(fmt::format("{}mlp.experts.{}.", p, e), kNames, layer, e, spec.hidden, spec.moe.intermediate, &manifest);
    }
  }
  for (int depth = 0; depth < spec.mtp_layers; ++depth) AddMtpLayer(spec, depth, &manifest);
  return manifest;
}

}  // namespace

const ModelFamily kMiMoV2Flash = {"mimo_v2_flash", "MiMoV2FlashForCausalLM", ParseConfig, MakeManifest, 3};

}  // namespace minimo
