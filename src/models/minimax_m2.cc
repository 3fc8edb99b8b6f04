// MiniMax-M2, M2.1, M2.5, M2.7. What is unusual (docs/models/minimax-m2.md has the sources):
// - QK norm runs over the flat query and key before the head split and before RoPE; "per_layer" means one weight a
// layer.
// - Only the first rotary_dim of head_dim are rotated.
// - Every layer is MoE; the router's bias decides the choice alone and stays float32; weights are renormalised to 1.
// - o_proj is FP8 here (unlike MiMo); gate.weight and the bias are float32 in the released files.
// - use_mtp is true in the config, but no MTP weights are published.
#include "models/minimax_m2.h"

#include <fmt/format.h>

#include "models/manifest_parts.h"

namespace minimo {
namespace {

constexpr int kMax = 1 << 24;  // beyond any sane size of a dimension

ModelSpec ParseConfig(ConfigFields& f) {
  ModelSpec spec;
  const int layers = static_cast<int>(f.Int("num_hidden_layers", 1, 1024));
  spec.hidden = static_cast<int>(f.Int("hidden_size", 1, kMax));
  spec.vocab = static_cast<int>(f.Int("vocab_size", 1, kMax));
  spec.norm_eps = f.Number("rms_norm_eps", 0, 1);
  spec.max_positions = static_cast<int>(f.Int("max_position_embeddings", 1, kMax));
  spec.tied_embeddings = f.BoolOr("tie_word_embeddings", false);
  spec.bos_token_id = static_cast<int32_t>(f.IntOr("bos_token_id", -1, 0, kMax));
  for (const int64_t id : f.IntOrListOr("eos_token_id", {})) spec.eos_token_ids.push_back(static_cast<int32_t>(id));

  AttentionSpec a;
  a.heads = static_cast<int>(f.Int("num_attention_heads", 1, 4096));
  a.kv_heads = static_cast<int>(f.Int("num_key_value_heads", 1, 4096));
  a.head_dim = static_cast<int>(f.IntOr("head_dim", spec.hidden / std::max(a.heads, 1), 1, 4096));
  a.v_head_dim = a.head_dim;
  a.rotary_dim = static_cast<int>(f.Int("rotary_dim", 0, 4096));
  // transformers 5 writes rope_theta inside rope_parameters.
  if (auto rope = f.Has("rope_theta") ? nullptr : f.Object("rope_parameters")) {
    a.rope_theta = rope->Number("rope_theta", 1, 1e12);
    rope->Only("rope_type", "\"default\"");
    rope->Ignore({"partial_rotary_factor"});
    f.Merge(*rope);
  } else {
    a.rope_theta = f.Number("rope_theta", 1, 1e12);
  }
  a.qk_norm = f.BoolOr("use_qk_norm", true);
  if (a.heads % a.kv_heads != 0) {
    f.Fault(fmt::format("num_attention_heads {} is not a multiple of num_key_value_heads {}", a.heads, a.kv_heads));
  }
  if (a.rotary_dim > a.head_dim || a.rotary_dim % 2 != 0) {
    f.Fault(fmt::format("rotary_dim {} is not an even number up to head_dim {}", a.rotary_dim, a.head_dim));
  }
  if (f.Has("attn_type_list")) {
    for (const int64_t type : f.IntList("attn_type_list", static_cast<size_t>(layers), 0, 1)) {
      if (type != 1) f.Fault("attn_type_list has 0 (linear attention), only 1 (softmax attention) is implemented");
      if (type != 1) break;
    }
  }

  spec.moe.experts = static_cast<int>(f.Int("num_local_experts", 1, 65536));
  spec.moe.top_k = static_cast<int>(f.Int("num_experts_per_tok", 1, 256));
  spec.moe.intermediate = static_cast<int>(f.Int("intermediate_size", 1, kMax));
  if (spec.moe.top_k > spec.moe.experts) {
    f.Fault(fmt::format("num_experts_per_tok {} is more than num_local_experts {}", spec.moe.top_k, spec.moe.experts));
  }
  f.Only("hidden_act", "\"silu\"");
  f.Only("scoring_func", "\"sigmoid\"");
  f.Only("use_routing_bias", "true");
  f.Only("qk_norm_type", "\"per_layer\"");
  f.Only("shared_intermediate_size", "0");
  f.Only("sliding_window", "null");
  f.Only("rope_scaling", "null");
  f.Only("attention_bias", "false");
  f.Ignore({"attention_dropout", "auto_map", "dtype", "torch_dtype", "initializer_range", "pad_token_id",
            "layernorm_full_attention_beta", "layernorm_linear_attention_beta", "layernorm_mlp_beta",
            "mlp_intermediate_size", "mtp_transformer_layers", "num_mtp_modules", "use_mtp", "output_router_logits",
            "quantization_config", "rope_parameters", "router_aux_loss_coef", "router_jitter_noise",
            "shared_moe_mode", "transformers_version", "use_cache", "max_model_len", "num_hidden_layers", "id2label",
            "label2id", "return_dict", "output_attentions", "output_hidden_states", "partial_rotary_factor",
            "is_encoder_decoder", "chunk_size_feed_forward", "problem_type"});
  spec.layers.assign(static_cast<size_t>(layers), LayerSpec{a, true, 0});
  return spec;
}

Manifest MakeManifest(const ModelSpec& spec) {
  Manifest manifest;
  AddEnds(spec, &manifest);
  const int64_t hidden = spec.hidden, experts = spec.moe.experts;
  for (int layer = 0; layer < spec.num_layers(); ++layer) {
    const AttentionSpec& a = spec.layers[layer].attention;
    const std::string p = fmt::format("model.layers.{}.", layer);
    AddAttention(p, "post_attention_layernorm", layer, spec.hidden, a, true, &manifest);
    if (a.qk_norm) {
      manifest.push_back({p + "self_attn.q_norm.weight", {a.q_size()}, TensorPart::kQNorm, ShardRule::kHeads, layer});
      manifest.push_back({p + "self_attn.k_norm.weight", {a.k_size()}, TensorPart::kKNorm, ShardRule::kKvHeads, layer});
    }
    const std::string m = p + "block_sparse_moe.";
    manifest.push_back({m + "gate.weight", {experts, hidden}, TensorPart::kRouter, ShardRule::kReplicate, layer});
    manifest.push_back(
        {m + "e_score_correction_bias", {experts}, TensorPart::kRouterBias, ShardRule::kReplicate, layer});
    for (int e = 0; e < spec.moe.experts; ++e) {
      AddFfn(fmt::format("{}experts.{}.", m, e), {"w1", "w3", "w2"}, layer, e, spec.hidden, spec.moe.intermediate,
             &manifest);
    }
  }
  return manifest;
}

}  // namespace

const ModelFamily kMiniMaxM2 = {"minimax_m2", "MiniMaxM2ForCausalLM", ParseConfig, MakeManifest, 0};

}  // namespace minimo
